"""`sluice ca …`: what the site's CA may sign. Asks the CA itself, on its own socket: the daemon
has no say in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click
from rich.table import Table
from rich.text import Text

from appliance.api.remote import BUNDLE, CHAIN, KEY, SERVER, make_folder, write_folder
from appliance.api.text import shown, when
from appliance.ca.client import CaClient
from appliance.ca.issue import GRADE_OF, GRADE_TEXT, TTL_MAX_S
from appliance.cli.context import Context
from appliance.cli.output import console, format_option, show_data
from appliance.compile import LeafNeed
from appliance.enroll.credentials import Credential, obtain
from appliance.errors import NotFound
from appliance.identity import operator_id

Result = TypeVar("Result")


def _ask(context: Context, act: Callable[[CaClient], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with CaClient(context.paths.ca_socket) as client:
            return await act(client)

    return asyncio.run(run())


@click.group()
@click.pass_obj
def ca(context: Context) -> None:
    """The site's CA: approved identities, its certificate, its audit."""
    context.here_only("ca")


@ca.command("list")
@format_option
@click.pass_obj
def ca_list(context: Context, fmt: str) -> None:
    """List the identities that may be signed, and up to which grade."""
    found = _ask(context, lambda client: client.approvals())
    if fmt != "table":
        show_data([{**asdict(a), "max_grade": GRADE_TEXT[a.max_grade]} for a in found], fmt)
        return
    if not found:
        console.print("No identity is approved yet: `sluice host add` approves its host's.")
        return
    table = Table("IDENTITY", "UP TO", "BY", "SINCE", box=None, pad_edge=False)
    for a in found:
        table.add_row(a.spiffe_id, GRADE_TEXT[a.max_grade], a.by, when(a.time))
    console.print(table)


@ca.command("approve")
@click.argument("identity")
@click.option(
    "--grade",
    type=click.Choice(tuple(GRADE_OF)),
    default="key",
    show_default=True,
    help="The strongest that may be signed; key also allows a host's own key.",
)
@click.pass_obj
def ca_approve(context: Context, identity: str, grade: str) -> None:
    """Let certificates be signed for IDENTITY (spiffe://…), or change its grade."""
    _ask(context, lambda client: client.approve(identity, GRADE_OF[grade]))
    console.print(f"{identity} is approved up to grade {grade}.")


@ca.command("withdraw")
@click.argument("identity")
@click.pass_obj
def ca_withdraw(context: Context, identity: str) -> None:
    """Sign no more for IDENTITY. What is signed runs out by itself; revoke the host to end it."""
    _ask(context, lambda client: client.withdraw(identity))
    console.print(f"{identity} is approved no longer.")


@ca.command("info")
@format_option
@click.pass_obj
def ca_info(context: Context, fmt: str) -> None:
    """Show the CA's certificate, limits and counters."""
    found = _ask(context, lambda client: client.info())
    data = {**asdict(found), "pin": found.pin.hex(), "counters": dict(found.counters)}
    show_data(data, "yaml" if fmt == "table" else fmt)


@ca.command("bundle")
@click.pass_obj
def ca_bundle(context: Context) -> None:
    """Print the site's trust bundle (PEM)."""
    click.echo(_ask(context, lambda client: client.bundle()), nl=False)


@ca.command("audit")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@format_option
@click.pass_obj
def ca_audit(context: Context, limit: int, fmt: str) -> None:
    """Show what was signed, approved and refused, newest first."""
    found = _ask(context, lambda client: client.audit(limit))
    if fmt != "table":
        show_data([asdict(entry) for entry in found], fmt)
        return
    table = Table("WHEN", "WHO", "WHAT", "DETAIL", box=None, pad_edge=False)
    for entry in found:
        table.add_row(when(entry.time), entry.who, entry.what, Text(shown(entry.detail)))
    console.print(table)


@ca.command("admin")
@click.argument("name")
@click.option("--viewer", is_flag=True, help="May read only.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A folder to make; holds a key."
)
@click.pass_obj
def ca_admin(context: Context, name: str, viewer: bool, out: Path) -> None:
    """Make a certificate for NAME to use the admin API from elsewhere, good for a day.

    Then, from anywhere: sluice --remote BOX:15011 --credential FOLDER status

    A folder that holds NAME's certificate already is given the new one.
    """
    status = context.call(lambda client: client.status())
    identity = operator_id(status.trust_domain, "viewer" if viewer else "admin", name)
    is_new = make_folder(out, identity)

    async def make(client: CaClient) -> tuple[Credential, str]:
        need = LeafNeed(key=identity, spiffe_id=identity, grade=None)
        return await obtain(client, need, TTL_MAX_S), await client.bundle()

    made, bundle = _ask(context, make)
    write_folder(
        out,
        {
            KEY: made.leaf.key_pem,
            CHAIN: made.leaf.chain_pem,
            BUNDLE: bundle,
            SERVER: f"{status.appliance}.sluice.{status.trust_domain}\n",
        },
    )
    console.print(f"{identity} is in {out}, good until {when(made.not_after)}.")
    if not is_new:
        console.print(
            f"The one before it is good until it runs out, unless you `sluice ca revoke-admin "
            f"{name}` and make this one anew."
        )


@ca.command("revoke-admin")
@click.argument("name")
@click.pass_obj
def ca_revoke_admin(context: Context, name: str) -> None:
    """Have the admin API refuse, at once, all certificates made for NAME so far."""
    live = _ask(context, lambda client: client.operator_leaves(name))
    if not live:
        raise NotFound(f"{name} holds no certificate that is good still")
    serials = [each.serial for each in live]
    context.call(lambda client: client.revoke_operator(name, serials))
    console.print(f"{len(serials)} certificates of {name} are refused from now on.")


@ca.command("import")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="PEM, unencrypted.")
@click.option(
    "--chain", type=click.Path(path_type=Path), required=True, help="Intermediate first, PEM."
)
@click.pass_obj
def ca_import(context: Context, key: Path, chain: Path) -> None:
    """Replace the CA's key by an intermediate of your own PKI. Before hosts are enrolled."""
    key_pem, chain_pem = key.read_bytes(), chain.read_bytes()
    found = _ask(context, lambda client: client.import_key(key_pem, chain_pem))
    console.print(f"The CA of {found.trust_domain} is imported; its pin is {found.pin.hex()}.")
