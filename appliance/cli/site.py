"""`sluice up`, `restart`, `status`, `doctor`, `audit`, `tui`: the box as a whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.markup import escape

from appliance.api.text import shown, size, when
from appliance.cli.context import Context
from appliance.cli.output import console, format_option, plain, show_data, show_list
from appliance.errors import ApplianceError, InvalidInput
from appliance.paths import SITE_FILE


@click.command()
@click.option(
    "--site",
    type=click.Path(path_type=Path),
    default=SITE_FILE,
    show_default=True,
    help="The Site document.",
)
@click.pass_obj
def up(context: Context, site: Path) -> None:
    """Run the appliance in the foreground (as root; systemd runs this)."""
    context.here_only("up")
    arguments = [
        *("-m", "appliance.supervisor", "--site", str(site)),
        *("--state", str(context.paths.state), "--run", str(context.paths.run)),
    ]
    os.execv(sys.executable, [sys.executable, *arguments])


@click.command()
@click.pass_obj
def restart(context: Context) -> None:
    """Replace the data plane by a new process; no connection is refused, open streams drain."""
    context.call(lambda client: client.restart_dataplane())
    console.print("A new data plane serves; open streams drain in the old one.")


@click.command()
@format_option
@click.pass_obj
def status(context: Context, fmt: str) -> None:
    """The site at a glance."""
    reply = context.call(lambda client: client.status())
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    console.print(
        f"[bold]{reply.site}[/] ({reply.trust_domain}), appliance {reply.appliance}, "
        f"version {reply.version}"
    )
    console.print(
        f"revision {reply.revision}, published {reply.published}, applied {reply.applied}; "
        f"CA good until {when(reply.ca_not_after)}"
    )
    console.print(
        f"{reply.hosts} hosts, {reply.services} services, "
        f"{reply.peers_connected} of {reply.peers} peers connected"
    )
    flow = reply.throughput
    console.print(
        f"{reply.streams} streams; up {size(flow.bytes_up)}/s, down {size(flow.bytes_down)}/s, "
        f"{flow.opened:.0f} opened/s, {flow.refused:.0f} refused/s"
    )
    for process in reply.processes:
        line = f"  {process.name:12} {process.state:10} {process.pid} {process.detail}"
        console.print(shown(line), markup=False)
    if reply.HasField("pending"):
        console.print(
            f"[bold]Revision {reply.pending.revision} reverts at "
            f"{when(reply.pending.deadline)}: run `sluice confirm` to keep it.[/]"
        )
    for warning in reply.warnings:
        console.print(f"[bold]warning:[/] {escape(shown(warning))}")


@click.command()
@format_option
@click.pass_obj
def doctor(context: Context, fmt: str) -> None:
    """Check the box and the site; say what is wrong and what to do."""
    findings = context.call(lambda client: client.doctor())
    show_list(
        findings,
        {"level": lambda f: f.level, "what": lambda f: f.what, "do": lambda f: f.fix or "-"},
        fmt,
        "Nothing to say.",
    )
    if any(finding.level == "error" for finding in findings):
        sys.exit(1)


@click.command()
@format_option
@click.pass_obj
def audit(context: Context, fmt: str) -> None:
    """Who did what: enrolments, revocations, changes, refusals."""
    show_list(
        context.call(lambda client: client.audit()),
        {
            "time": lambda e: when(e.time),
            "who": lambda e: e.who,
            "what": lambda e: e.what,
            "detail": lambda e: e.detail or "-",
        },
        fmt,
        "Nothing recorded yet.",
    )


@click.command()
@click.pass_obj
def tui(context: Context) -> None:
    """Open the console."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("the console needs a terminal: use `sluice status` and `sluice flows`")
    arguments = ["-m", "tui", "--run", str(context.paths.run)]
    if (remote := context.remote) is not None:
        arguments += ["--remote", remote.address, "--credential", str(remote.credential)]
    try:
        os.execv(sys.executable, [sys.executable, *arguments])
    except OSError as error:
        raise ApplianceError(f"cannot start the console: {error.strerror}") from error
