"""`sluice rescue …`: what can be done from disk, as root, when the daemon does not answer.

Owns no rule of its own: it reads and writes the same store as the daemon, as the user that owns
the files, and refuses to write while a daemon answers. The next start of the daemon publishes
what rescue made current. What it needs of the daemon is imported when it is used: no other
command shall wait for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from appliance.api.text import when
from appliance.cli.context import Context
from appliance.cli.output import REVISION, console, format_option, show_data
from appliance.errors import Conflict, Denied, NotFound
from appliance.paths import Paths

if TYPE_CHECKING:
    from appliance.registry.revisions import Revisions


@click.group()
@click.pass_obj
def rescue(context: Context) -> None:
    """Work from disk while the daemon is dead. Needs root."""
    context.here_only("rescue")


@rescue.command("status")
@format_option
@click.pass_obj
def rescue_status(context: Context, fmt: str) -> None:
    """What the disk holds: the current revision, what waits, and the revisions before."""
    answers = _daemon_answers(context.paths)
    with _revisions(context.paths) as revisions:
        current, pending, known = revisions.current, revisions.pending(), revisions.list()
    if fmt != "table":
        show_data(
            {
                "daemon_answers": answers,
                "current": current,
                "pending": asdict(pending) if pending else None,
                "revisions": [asdict(each) for each in known],
            },
            fmt,
        )
        return
    console.print(f"the daemon {'answers' if answers else 'does not answer'}; revision {current}")
    if pending is not None:
        console.print(f"revision {pending.revision} reverts at {when(pending.deadline)}")
    for each in known:
        line = f"  {each.id:5} {when(each.time)}  {each.state:10} {each.by}  {each.summary}"
        console.print(line, markup=False)


@rescue.command("documents")
@click.argument("revision", type=REVISION, required=False)
@click.pass_obj
def rescue_documents(context: Context, revision: int | None) -> None:
    """Print the documents of the current revision, or of REVISION, as YAML."""
    from appliance.config.model import dump

    with _revisions(context.paths) as revisions:
        click.echo(dump(revisions.model(revision or revisions.current)), nl=False)


@rescue.command("rollback")
@click.argument("revision", type=REVISION)
@click.pass_obj
def rescue_rollback(context: Context, revision: int) -> None:
    """Make the documents of REVISION current (as a new revision) for the next start."""
    from appliance.config.model import changes

    if _daemon_answers(context.paths):
        raise Conflict("the daemon answers: use `sluice rollback`, which tells the data plane too")
    with _revisions(context.paths) as revisions:
        if revisions.pending() is not None:
            revisions.revert("rescue")
        before, after = revisions.model(revisions.current), revisions.model(revision)
        if all(change.what == "unchanged" for change in changes(before, after)):
            console.print(f"revision {revisions.current} has these documents already")
            return
        made = revisions.begin(
            after,
            before,
            now=int(time.time()),
            by=f"rescue (uid {os.getuid()})",
            summary=f"rollback to revision {revision}",
        )
        revisions.finish(made)
    console.print(f"revision {made} is current; start the appliance: systemctl start sluice")


@rescue.command("release")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rescue_release(yes: bool) -> None:
    """Take the interception away: our nftables table and our routes, nothing else."""
    from appliance.system import network

    _need_root()
    if not yes:
        click.confirm(
            "Traffic to the virtual addresses will no longer be taken. Go on?", abort=True
        )
    asyncio.run(network.remove())
    console.print("interception is removed; the daemon puts it back when it starts")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Denied("rescue works on the files themselves: run it as root")


def _daemon_answers(paths: Paths) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        try:
            sock.connect(str(paths.admin_socket))
        except OSError:
            return False
    return True


@contextmanager
def _revisions(paths: Paths) -> Iterator[Revisions]:
    """The store, opened as its owner: files that root made would lock the daemon out."""
    from appliance.registry.revisions import Revisions
    from appliance.registry.store import Store

    _need_root()
    if not paths.database.exists():
        raise NotFound(f"{paths.database}: no state there: name the folder with --state")
    owner = paths.database.stat()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        store = Store(paths.database)
        try:
            yield Revisions(store)
        finally:
            store.close()
    finally:
        os.seteuid(0)
        os.setegid(0)
