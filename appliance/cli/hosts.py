"""`sluice host …` and `sluice service …`."""

from __future__ import annotations

import click

from appliance.api._gen import admin_pb2 as pb
from appliance.api.text import short_id, when
from appliance.cli.context import Context, list_command
from appliance.cli.output import console, format_option, labels, plain, show_data
from appliance.errors import InvalidInput


@click.group()
def host() -> None:
    """Hosts: add, list, revoke, remove."""


@host.command("add")
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.option("--service-account", help="Identity it runs as; its name if not given.")
@click.option("--agent", is_flag=True, help="A key of its own (grade key); what no address means.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    help="IP address; agentless hosts need one. Services are reached at the first.",
)
@click.option("--mac", default="", help="MAC address: grade l2.")
@click.option("--interface", default="", help="Its own port or VLAN on this box: grade port.")
@click.option("--service", "services", multiple=True, help='"postgres:5432", "web:80>8080".')
@click.option("--label", "pairs", multiple=True, help="key=value, for subsets and selectors.")
@format_option
@click.pass_obj
def host_add(
    context: Context,
    name: str,
    namespace: str,
    service_account: str | None,
    agent: bool,
    addresses: tuple[str, ...],
    mac: str,
    interface: str,
    services: tuple[str, ...],
    pairs: tuple[str, ...],
    fmt: str,
) -> None:
    """Add a host and say what to do on it.

    With an address and no --agent the host is known by that address, and needs only the route and
    DNS that are printed. Else it will hold a key of its own: prints one line to paste on the host
    and the single-use code it will ask for.
    """
    agent = agent or not (addresses or mac or interface)
    request = pb.AddHostRequest(
        name=name,
        namespace=namespace,
        service_account=service_account or "",
        agent=agent,
        addresses=addresses,
        mac=mac,
        interface=interface,
        services=services,
        labels=_labels(pairs),
    )
    reply = context.call(lambda client: client.add_host(request))
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    console.print(
        f"Host {reply.host.name} is {short_id(reply.host.spiffe_id)}, "
        f"grade {reply.host.grade}, {reply.host.state}."
    )
    if len(reply.host.addresses) > 1 and services:
        first, *others = reply.host.addresses
        console.print(
            f"Its services are reached at {first}; it is known by {' '.join(others)} too."
        )
    if reply.join_line:
        console.print("\nPaste on the host:\n")
        click.echo(f"  {reply.join_line}")
        console.print(f"\nIt asks for this code, good once, until {when(reply.code_expires)}:\n")
        click.echo(f"  {reply.code}")
        return
    console.print("\nOn the host, one of:\n")
    for system, line in (
        ("Linux", reply.route_linux),
        ("Windows", reply.route_windows),
        ("DHCP", reply.route_dhcp),
        ("DNS", reply.dns),
    ):
        if line:
            click.echo(f"  {system:8} {line}")


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--label {pair}: write key=value")
        found[key] = value
    return found


list_command(
    host,
    "List the hosts of this site.",
    lambda client: client.hosts(),
    {
        "name": lambda h: h.name,
        "state": lambda h: h.state,
        "identity": lambda h: short_id(h.spiffe_id),
        "kind": lambda h: h.kind,
        "grade": lambda h: h.grade,
        "addresses": lambda h: " ".join(h.addresses) or "-",
        "services": lambda h: " ".join(h.services) or "-",
        "leaf until": lambda h: when(h.not_after),
        "labels": lambda h: labels(h.labels),
    },
    "No hosts yet: add one with `sluice host add NAME --address IP`.",
)


@host.command("revoke")
@click.argument("name")
@format_option
@click.pass_obj
def host_revoke(context: Context, name: str, fmt: str) -> None:
    """Withdraw a host's identity and end its sessions now."""
    reply = context.call(lambda client: client.revoke_host(name))
    if fmt != "table":
        show_data(plain(reply), fmt)
        return
    console.print(f"Host {name} is revoked; its sessions here are ended.")
    if reply.peers_told:
        console.print(f"Peers that know: {' '.join(reply.peers_told)}")
    if reply.peers_not_told:
        console.print(f"[bold]Peers that have not heard yet:[/] {' '.join(reply.peers_not_told)}")


@host.command("remove")
@click.argument("name")
@click.pass_obj
def host_remove(context: Context, name: str) -> None:
    """Forget a host and its services' endpoints."""
    context.call(lambda client: client.remove_host(name))
    console.print(f"Host {name} is removed.")


@click.group()
def service() -> None:
    """Services of this site and of its peers."""


def _endpoints(item: pb.Service) -> str:
    return (
        "\n".join(
            f"{e.name} {e.address}:{e.port}"
            + (" revoked" if e.revoked else "")
            + ("" if e.healthy or e.revoked else " unhealthy")
            + (" ejected" if e.ejected and not e.revoked else "")
            for e in item.endpoints
        )
        or "none"
    )


list_command(
    service,
    "List every service that hosts here can reach.",
    lambda client: client.services(),
    {
        "name": lambda s: f"{s.name}.{s.namespace}",
        "ports": lambda s: " ".join(str(port.number) for port in s.ports),
        "vip": lambda s: " ".join(s.vips) or "-",
        "from": lambda s: s.origin,
        "mtls": lambda s: s.mtls,
        "endpoints": _endpoints,
    },
    'No services yet: `sluice host add NAME --address IP --service "web:80"`.',
)
