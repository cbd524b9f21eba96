"""The box's network interfaces as they are. Owns reading them and when to; changes nothing.

Addresses are without prefix length. `master` is the bridge or bond that an interface belongs to.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.errors import Unavailable
from dataplane.snapshot import Address

# linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x10 | 0x100


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    index: int
    mac: str | None
    mtu: int
    up: bool  # operational: has a carrier
    kind: str  # "vlan", "bridge", "bond", "veth", … or "" for a plain NIC
    master: str | None
    addresses: tuple[Address, ...]


async def changes() -> AsyncIterator[None]:
    """Once at first, then whenever an interface or an address may have come or gone. Tells not
    which: look. Never ends."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, _GROUPS))
        yield
        while True:
            try:
                await loop.sock_recv(sock, 65_536)
                while True:  # many come together
                    sock.recv(65_536)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # lost some: that tells as much
                    raise
            yield


async def links() -> tuple[Link, ...]:
    """Every interface, in the kernel's order. Raises Unavailable."""
    try:
        return await asyncio.to_thread(_links)
    except NetlinkError as error:
        raise Unavailable(f"the interfaces cannot be read: {error}") from error


def _links() -> tuple[Link, ...]:
    with IPRoute() as ip:
        owned: dict[int, list[Address]] = {}
        for message in ip.get_addr():
            text = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
            if text:
                owned.setdefault(message["index"], []).append(ip_address(text))
        messages = list(ip.get_links())
    names = {message["index"]: str(message.get("ifname")) for message in messages}
    found = []
    for message in messages:
        info = message.get("linkinfo")
        found.append(
            Link(
                name=names[message["index"]],
                index=message["index"],
                mac=message.get("address"),
                mtu=int(message.get("mtu") or 0),
                up=message.get("operstate") in ("UP", "UNKNOWN"),
                kind=str(info.get("kind") or "") if info else "",
                master=names.get(message.get("master") or -1),
                addresses=tuple(owned.get(message["index"], ())),
            )
        )
    return tuple(found)
