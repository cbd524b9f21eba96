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
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import click

from appliance.api.client import AdminClient
from appliance.api.text import when
from appliance.cli.context import Context
from appliance.cli.output import REVISION, console, format_option, show_data
from appliance.errors import ApplianceError, Conflict, Denied, NotFound, Unavailable
from appliance.paths import Paths

if TYPE_CHECKING:
    from appliance.registry.revisions import Revisions


ANSWER_S = 10.0


class State(StrEnum):
    ANSWERS = "answers"
    HANGS = "hangs"  # it listens still, and answers nothing
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Daemon:
    state: State
    pid: int = 0  # 0 = dead, or not known

    @property
    def way_out(self) -> str:
        if not self.pid:
            return "the daemon hangs: systemctl restart sluice"
        return (
            f"the daemon (process {self.pid}) hangs: end it by `kill -KILL {self.pid}`, the "
            "supervisor starts it again; if that one hangs too: systemctl stop sluice"
        )


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
    daemon = _daemon(context.paths)
    with _revisions(context.paths) as revisions:
        current, pending, known = revisions.current, revisions.pending(), revisions.list()
    if fmt != "table":
        show_data(
            {
                "daemon": daemon.state.value,
                "daemon_pid": daemon.pid,
                "daemon_answers": daemon.state is State.ANSWERS,
                "current": current,
                "pending": asdict(pending) if pending else None,
                "revisions": [asdict(each) for each in known],
            },
            fmt,
        )
        return
    words = {State.ANSWERS: "the daemon answers", State.DEAD: "the daemon is dead"}
    console.print(f"{words.get(daemon.state, daemon.way_out)}; revision {current}", soft_wrap=True)
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
        wanted = revisions.current if revision is None else revision
        click.echo(dump(revisions.model(wanted)), nl=False)


@rescue.command("rollback")
@click.argument("revision", type=REVISION)
@click.pass_obj
def rescue_rollback(context: Context, revision: int) -> None:
    """Make the documents of REVISION current (as a new revision) for the next start."""
    from appliance.config.model import changes

    daemon = _daemon(context.paths)
    if daemon.state is State.HANGS:  # it may go on, and write
        raise Conflict(daemon.way_out)
    if daemon.state is State.ANSWERS:
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
@click.pass_obj
def rescue_release(context: Context, yes: bool) -> None:
    """Take the interception away: our nftables table and our routes, nothing else.

    A daemon that runs notices nothing of it, and puts it back only when it is started again.
    """
    from appliance.system import network

    _need_root()
    if not yes:
        click.confirm(
            "Traffic to the virtual addresses will no longer be taken. Go on?", abort=True
        )
    asyncio.run(network.remove())
    running = _daemon(context.paths).state is not State.DEAD
    back = "the daemon runs: systemctl restart sluice" if running else "systemctl start sluice"
    console.print(f"interception is removed; to have it back: {back}")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Denied("rescue works on the files themselves: run it as root")


def _daemon(paths: Paths) -> Daemon:
    """What it is found to be by asking it: the kernel takes connections for one that hangs."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        try:
            sock.connect(str(paths.admin_socket))
        except (BlockingIOError, TimeoutError):  # nobody takes what waits there
            return Daemon(State.HANGS, _listener(sock))
        except OSError:
            return Daemon(State.DEAD)
        pid = _listener(sock)
    return Daemon(State.ANSWERS if asyncio.run(_answers(paths)) else State.HANGS, pid)


def _listener(sock: socket.socket) -> int:
    """Who listens, as the kernel noted it."""
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


async def _answers(paths: Paths) -> bool:
    try:
        async with AdminClient(paths) as client, asyncio.timeout(ANSWER_S):
            await client.status()
    except (TimeoutError, Unavailable):
        return False
    except ApplianceError:
        pass  # a complaint is an answer
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
