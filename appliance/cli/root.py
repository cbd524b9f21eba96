"""The command group, its global options, and how errors end the process."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

from appliance.api.remote import Remote
from appliance.cli import ca, documents, flows, hosts, offload, peers, rescue, site
from appliance.cli.context import Context
from appliance.cli.output import errors
from appliance.errors import ApplianceError, InvalidInput
from appliance.paths import RUN, STATE, Paths


def _version() -> str:
    try:
        return metadata.version("sluice")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"


EPILOG = (
    "Exit codes: 0 done, 1 a fault of ours, or one that `doctor` or `offload` found, 2 bad input, "
    "3 no such thing, 4 conflict, 5 not allowed, 6 no answer, 7 limit reached, 130 interrupted."
)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=RUN,
    envvar="SLUICE_RUN",
    show_default=True,
    help="Where the sockets are.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=STATE,
    envvar="SLUICE_STATE",
    show_default=True,
    help="Where the state is.",
)
@click.option("--remote", metavar="HOST:PORT", help="Another machine's admin API, by mTLS.")
@click.option(
    "--credential",
    type=click.Path(path_type=Path),
    help="With --remote: the folder that `sluice ca admin` made.",
)
@click.version_option(_version())
@click.pass_context
def cli(
    context: click.Context, run: Path, state: Path, remote: str | None, credential: Path | None
) -> None:
    """Sluice: a service mesh for machines, from one box at the edge of the site."""
    if (remote is None) != (credential is None):
        raise InvalidInput("--remote and --credential go together")
    there = Remote(remote, credential) if remote and credential else None
    context.obj = Context(Paths(state=state, run=run), there)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: source <(sluice completion bash)."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "sluice", "_SLUICE_COMPLETE").source())


for command in (
    site.up,
    site.restart,
    site.status,
    site.doctor,
    site.audit,
    site.tui,
    hosts.host,
    hosts.service,
    peers.peer,
    ca.ca,
    documents.apply,
    documents.get,
    documents.delete,
    documents.diff,
    documents.history,
    documents.rollback,
    documents.confirm,
    flows.flows,
    offload.offload,
    rescue.rescue,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Runs the command; ends the process with its exit code."""
    try:
        code = cli.main(prog_name="sluice", standalone_mode=False)
    except ApplianceError as error:
        errors.print(f"sluice: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        errors.print(f"sluice: {error.format_message()}", markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(f"sluice: {where}{error.strerror}", markup=False, soft_wrap=True)
        sys.exit(2)
    except UnicodeError:
        errors.print("sluice: what was given is not UTF-8 text: write it in UTF-8", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
