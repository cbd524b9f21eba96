"""Sends this host's connections to virtual addresses to the agent: one nftables table of its own,
and a route where there is none. Owns both; removal leaves the rules byte for byte as they were.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import subprocess
from collections.abc import Sequence

log = logging.getLogger(__name__)

TABLE = "sluice_agent"
MARK = 0x5102  # of the agent's own connections
ROUTE_PROTOCOL = "81"  # of `ip route`: marks the routes as ours
TIMEOUT_S = 30


class InterceptFault(Exception):
    """One line that says what to do."""


def _run(*args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            args, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        package = {"nft": "nftables", "ip": "iproute2"}.get(args[0], args[0])
        raise InterceptFault(
            f"the {args[0]} command is missing: install the package {package}"
        ) from None
    except subprocess.TimeoutExpired:
        raise InterceptFault(f"{args[0]} does not end") from None


def render(table: str, vips: Sequence[str], port: int) -> str:
    """The nft script: replaces the table in one transaction."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", table):
        raise InterceptFault(f"{table!r} is no name for a table")
    rules = []
    for vip in vips:
        network = ipaddress.ip_network(vip)
        family = "ip" if network.version == 4 else "ip6"
        rules.append(f"    {family} daddr {network} meta l4proto tcp redirect to :{port}")
    body = "\n".join(rules)
    return (
        f"table inet {table}\n"
        f"delete table inet {table}\n"
        f"table inet {table} {{\n"
        "  chain output {\n"
        "    type nat hook output priority -100; policy accept;\n"
        f"    meta mark {MARK:#x} return\n"
        f"{body}\n"
        "  }\n"
        "}\n"
    )


def apply(table: str, vips: Sequence[str], port: int) -> None:
    """Raises InterceptFault."""
    run = _run("nft", "-f", "-", given=render(table, vips, port))
    if run.returncode != 0:
        raise InterceptFault(f"nft refused our table: {run.stderr.strip().splitlines()[0]}")


def remove(table: str) -> None:
    """Leaves nothing. Fine when there is nothing."""
    script = f"table inet {table}\ndelete table inet {table}\n"
    run = _run("nft", "-f", "-", given=script)
    if run.returncode != 0:
        raise InterceptFault(f"nft did not remove our table: {run.stderr.strip()[:200]}")


def add_routes(vips: Sequence[str], gateways: Sequence[str]) -> tuple[str, ...]:
    """Without any route a connect fails before nftables sees it. Returns the networks whose
    route was missing and was added; says so when one cannot be."""
    added = []
    for vip in vips:
        network = ipaddress.ip_network(vip)
        version = f"-{network.version}"
        if _run("ip", version, "route", "get", str(network[1])).returncode == 0:
            continue
        via = [g for g in gateways if ipaddress.ip_address(g).version == network.version]
        for gateway in via:
            route = (str(network), "via", gateway, "proto", ROUTE_PROTOCOL)
            if _run("ip", version, "route", "add", *route).returncode == 0:
                added.append(str(network))
                break
        else:
            log.warning("no route to %s: add one, to any next hop", network)
    return tuple(added)


def remove_routes(vips: Sequence[str]) -> None:
    """Those that add_routes added, now or before a crash: nobody else's have our protocol."""
    for vip in vips:
        network = ipaddress.ip_network(vip)
        route = (str(network), "proto", ROUTE_PROTOCOL)
        _run("ip", f"-{network.version}", "route", "del", *route)
