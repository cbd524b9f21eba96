"""The box's network interfaces as they are. Owns reading them; changes nothing.

Addresses are without prefix length. `master` is the bridge or bond that an interface belongs to.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute

from dataplane.snapshot import Address


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


async def links() -> tuple[Link, ...]:
    """Every interface, in the kernel's order."""
    return await asyncio.to_thread(_links)


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
