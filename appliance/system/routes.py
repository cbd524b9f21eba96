"""Policy routing for intercepted packets. Owns one rule and one table a family, and one route.

 - what nftables marked INTERCEPTED is looked up in table 5101, which delivers it to this box;
 - the virtual ranges themselves are unreachable: when interception is off, a packet to one is
   answered with an error and never leaves in plaintext by the default route.

Everything is found again by its priority, table and protocol number, so removal needs no memory
of what was installed. Needs no sysctl: a reverse-path filter looks up the source without the
mark, listening sockets are bound with IP_FREEBIND, and local delivery needs no forwarding. A
family that the kernel does not have is left out.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.errors import ApplianceError
from appliance.site import Site
from appliance.system import INTERCEPTED

TABLE = 5101
PRIORITY = 5101
PROTOCOL = 51  # rtm_protocol of our routes: who put them there
UNREACHABLE_METRIC = 4096
FAMILIES = (socket.AF_INET, socket.AF_INET6)
_MAIN = 254
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENODEV)
_THERE_ALREADY = (errno.EEXIST,)
_GONE_ALREADY = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


async def apply(site: Site) -> None:
    """Makes rule, table and routes right; what is right already stays. Raises ApplianceError."""
    await asyncio.to_thread(_apply, site)


async def remove() -> None:
    """Takes away all that `apply` made; no error when there is none."""
    await asyncio.to_thread(_remove)


def _apply(site: Site) -> None:
    with IPRoute() as ip:
        ranges: tuple[tuple[int, IPv4Network | IPv6Network], ...] = (
            (socket.AF_INET, site.spec.vip.ipv4),
            (socket.AF_INET6, site.spec.vip.ipv6),
        )
        for family, vips in ranges:
            try:
                _apply_family(ip, family, vips)
            except NetlinkError as error:
                if family == socket.AF_INET6 and error.code in _NO_FAMILY:
                    continue
                raise ApplianceError(
                    f"the routes to the virtual addresses {vips} were refused: {error}: "
                    "is CAP_NET_ADMIN there?"
                ) from error


def _apply_family(ip: IPRoute, family: int, vips: IPv4Network | IPv6Network) -> None:
    loopback = ip.link_lookup(ifname="lo")[0]
    everything = "0.0.0.0/0" if family == socket.AF_INET else "::/0"
    ip.route(
        "replace",
        family=family,
        dst=everything,
        oif=loopback,
        type="local",
        scope="host",
        table=TABLE,
        proto=PROTOCOL,
    )
    try:
        ip.rule("add", family=family, priority=PRIORITY, fwmark=INTERCEPTED, table=TABLE)
    except NetlinkError as error:
        if error.code not in _THERE_ALREADY:
            raise
    _forget_unreachable(ip, family, but=str(vips))
    ip.route(
        "replace",
        family=family,
        dst=str(vips),
        type="unreachable",
        proto=PROTOCOL,
        priority=UNREACHABLE_METRIC,
    )


def _remove() -> None:
    with IPRoute() as ip:
        for family in FAMILIES:
            for rule in ip.get_rules(family=family):
                if rule.get("priority") == PRIORITY and rule.get("table") == TABLE:
                    _forgive(
                        ip.rule,
                        "del",
                        family=family,
                        priority=PRIORITY,
                        fwmark=INTERCEPTED,
                        table=TABLE,
                    )
            _forget_unreachable(ip, family)
            _forgive(ip.flush_routes, family=family, table=TABLE)


def _unreachable(ip: IPRoute, family: int) -> list[str]:
    """Destinations of our own unreachable routes, "address/length"."""
    found = []
    for route in ip.get_routes(family=family, table=_MAIN):
        if route["proto"] == PROTOCOL and route.get("dst"):
            found.append(f"{route.get('dst')}/{route['dst_len']}")
    return found


def _forget_unreachable(ip: IPRoute, family: int, but: str | None = None) -> None:
    for stale in _unreachable(ip, family):
        if stale != but:
            _forgive(
                ip.route,
                "del",
                family=family,
                dst=stale,
                type="unreachable",
                proto=PROTOCOL,
                priority=UNREACHABLE_METRIC,
            )


def _forgive(call: Any, *arguments: Any, **named: Any) -> None:
    """What is gone already is as good as removed."""
    try:
        call(*arguments, **named)
    except NetlinkError as error:
        if error.code not in _GONE_ALREADY:
            raise ApplianceError(f"a route or rule of ours cannot be removed: {error}") from error
