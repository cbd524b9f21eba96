"""`sluice peer …`."""

from __future__ import annotations

import sys

import click

from appliance.api.text import when
from appliance.cli.context import Context, list_command
from appliance.cli.output import console, format_option, plain, show_data
from appliance.errors import InvalidInput


@click.group()
def peer() -> None:
    """Peer sites: invite, add, list, remove."""


@peer.command("invite")
@click.argument("name")
@format_option
@click.pass_obj
def peer_invite(context: Context, name: str, fmt: str) -> None:
    """Make the single-use code with which the site NAME may join us."""
    reply = context.call(lambda client: client.invite_peer(name))
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    status = context.call(lambda client: client.status())
    console.print("On the other appliance:\n")
    click.echo(f"  sluice peer add {status.site} --address {reply.address}")
    console.print(f"\nIt asks for this code, good once, until {when(reply.code_expires)}:\n")
    click.echo(f"  {reply.code}")


@peer.command("add")
@click.argument("name")
@click.option("--address", required=True, help="host:port of the peer's enrolment listener.")
@click.pass_obj
def peer_add(context: Context, name: str, address: str) -> None:
    """Join the peer site NAME: trust bundles are exchanged, exported services flow both ways.

    Asks for the code of `sluice peer invite` on the terminal, or reads it from standard input.
    """
    if sys.stdin.isatty():
        code = click.prompt("Code", hide_input=True)
    else:
        code = sys.stdin.readline()
    if not code.strip():
        raise InvalidInput("no code given: run `sluice peer invite` on the peer, paste its code")
    reply = context.call(lambda client: client.add_peer(name, address, code.strip()))
    console.print(f"Peer {reply.name} ({reply.trust_domain}) is {reply.state}.")


list_command(
    peer,
    "List the peer sites.",
    lambda client: client.peers(),
    {
        "name": lambda p: p.name,
        "trust domain": lambda p: p.trust_domain,
        "state": lambda p: p.state,
        "mesh": lambda p: " ".join(p.mesh_addresses),
        "imports": lambda p: str(p.imports),
        "exports": lambda p: str(p.exports),
        "heard": lambda p: when(p.last_seen),
        "detail": lambda p: p.detail or "-",
    },
    "No peers yet: run `sluice peer invite NAME` on one side, `sluice peer add` on the other.",
)


@peer.command("remove")
@click.argument("name")
@click.pass_obj
def peer_remove(context: Context, name: str) -> None:
    """Forget a peer: its services and its trust are withdrawn."""
    context.call(lambda client: client.remove_peer(name))
    console.print(f"Peer {name} is removed.")
