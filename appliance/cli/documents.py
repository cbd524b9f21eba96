"""`sluice apply`, `get`, `delete`, `diff`, `history`, `rollback`, `confirm`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from appliance.api._gen import admin_pb2 as pb
from appliance.api.client import CHARS_MAX, read_sources
from appliance.api.text import when
from appliance.cli.context import Context
from appliance.cli.output import (
    MADE_REVISION,
    REVISION,
    console,
    format_option,
    plain,
    show_data,
    show_list,
)
from appliance.errors import InvalidInput

files_option = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A file, a folder, or - for standard input.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would change; change nothing."
)

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """ "5m" → 300. Raises InvalidInput."""
    match = re.fullmatch(r"(\d{1,6})(s|m|h)", text)
    if not match or int(match[1]) == 0:
        raise InvalidInput(f"{text}: write a time like 30s, 5m or 1h")
    return int(match[1]) * UNITS[match[2]]


def _read(files: tuple[Path, ...]) -> list[tuple[str, str]]:
    sources = []
    for path in files:
        if str(path) == "-":
            sources.append(("-", sys.stdin.read(CHARS_MAX)))
        else:
            sources += read_sources([path])
    if not sources:
        raise InvalidInput("no *.yaml file there: name a file or a folder that has some")
    return sources


def _show(reply: pb.ApplyReply, fmt: str, *, dry_run: bool) -> None:
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    for note in reply.notes:
        where = f"{note.file}:{note.line}: {note.path}: " if note.file else ""
        console.print(f"{note.level}: {where}{note.text}", markup=False, soft_wrap=True)
    for change in reply.changes:
        name = f"{change.namespace}/{change.name}" if change.namespace else change.name
        console.print(f"{change.kind} {name} {change.what}", markup=False)
    done = "nothing is changed: still" if dry_run else "applied:"
    took = f" in {reply.apply_ms:.0f} ms" if reply.apply_ms else ""
    console.print(f"{done} revision {reply.revision}{took}")
    if reply.confirm_deadline:
        console.print(
            f"[bold]It reverts at {when(reply.confirm_deadline)} unless you run "
            "`sluice confirm`.[/]"
        )


@click.command()
@files_option
@dry_run_option
@click.option(
    "--confirm", "confirm_in", metavar="TIME", help="Revert unless confirmed in time: 5m."
)
@click.option("--replace", is_flag=True, help="Delete the documents that are not given.")
@format_option
@click.pass_obj
def apply(
    context: Context,
    files: tuple[Path, ...],
    dry_run: bool,
    confirm_in: str | None,
    replace: bool,
    fmt: str,
) -> None:
    """Apply documents: all of them, or none."""
    sources = _read(files)
    wait = seconds(confirm_in) if confirm_in else 0
    reply = context.call(
        lambda client: client.apply(sources, dry_run=dry_run, confirm_seconds=wait, replace=replace)
    )
    if dry_run and fmt == "table" and reply.diff:
        click.echo(reply.diff, nl=False)
    _show(reply, fmt, dry_run=dry_run)


@click.command()
@click.argument("kind", default="")
@click.argument("name", default="")
@click.option("-n", "--namespace", default="")
@click.option(
    "-o", "--output", "fmt", type=click.Choice(["table", "json", "yaml"]), default="table"
)
@click.pass_obj
def get(context: Context, kind: str, name: str, namespace: str, fmt: str) -> None:
    """Show documents; with -o yaml as they can be applied again."""
    documents = context.call(lambda client: client.documents(kind, namespace, name))
    if fmt == "yaml":
        click.echo("---\n".join(document.yaml for document in documents), nl=False)
        return
    show_list(
        documents,
        {
            "kind": lambda d: d.kind,
            "namespace": lambda d: d.namespace or "-",
            "name": lambda d: d.name,
            "generation": lambda d: str(d.generation),
            "status": lambda d: d.status or "-",
        },
        fmt,
        "No documents: apply some with `sluice apply -f FILE`.",
    )


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@dry_run_option
@format_option
@click.pass_obj
def delete(context: Context, kind: str, name: str, namespace: str, dry_run: bool, fmt: str) -> None:
    """Delete a document."""
    reply = context.call(lambda client: client.delete(kind, namespace, name, dry_run=dry_run))
    _show(reply, fmt, dry_run=dry_run)


@click.command()
@click.argument("older", type=MADE_REVISION, required=False)
@click.argument("newer", type=MADE_REVISION, required=False)
@click.option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path))
@format_option
@click.pass_obj
def diff(
    context: Context, older: int | None, newer: int | None, files: tuple[Path, ...], fmt: str
) -> None:
    """What changed between two revisions, or what -f FILE would change.

    With one revision: since it. With none: what the current one changed.
    """
    sources = _read(files) if files else []
    text = context.call(lambda client: client.diff(older or 0, newer or 0, sources))
    if fmt != "table":
        show_data({"diff": text}, fmt)
        return
    click.echo(text, nl=False)


@click.command()
@format_option
@click.pass_obj
def history(context: Context, fmt: str) -> None:
    """List the revisions, newest first."""
    show_list(
        context.call(lambda client: client.history()),
        {
            "revision": lambda r: str(r.revision),
            "time": lambda r: when(r.time),
            "by": lambda r: r.by,
            "state": lambda r: r.state,
            "summary": lambda r: r.summary,
        },
        fmt,
        "No revisions yet.",
    )


@click.command()
@click.argument("revision", type=REVISION)
@dry_run_option
@format_option
@click.pass_obj
def rollback(context: Context, revision: int, dry_run: bool, fmt: str) -> None:
    """Go back to the documents of a revision (as a new revision)."""
    reply = context.call(lambda client: client.rollback(revision, dry_run=dry_run))
    _show(reply, fmt, dry_run=dry_run)


@click.command()
@click.option("--cancel", is_flag=True, help="Revert now instead.")
@click.pass_obj
def confirm(context: Context, cancel: bool) -> None:
    """Keep the change that `apply --confirm` made."""
    reply = context.call(lambda client: client.confirm(cancel=cancel))
    console.print(f"{'reverted: now' if cancel else 'confirmed:'} revision {reply.revision}")
