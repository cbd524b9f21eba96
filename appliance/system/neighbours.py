"""Pinned neighbour entries for hosts bound by MAC. Owns them; touches no others.

Spoofing of a bound source is dropped in nft.py, but a neighbour on the same segment can also lie
in ARP or neighbour discovery and draw a host's answers, or plaintext to it, to itself. A host
bound by MAC therefore gets a permanent entry that no answer can change. Neighbour discovery by
everybody else goes on as before.

Ours are known by their protocol number (NDA_PROTOCOL), so removal needs no memory. An entry goes
on the binding's interface, or else on the hosts' interface whose subnet has the address; a MAC
on no such subnet (behind a router) is not pinned.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_interface

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.errors import ApplianceError
from appliance.site import Site
from appliance.system.nft import Binding
from appliance.system.routes import PROTOCOL
from dataplane.snapshot import Address

PERMANENT = 0x80
Entry = tuple[int, Address, str]  # interface index, address, MAC


async def pin(site: Site, bound: Sequence[Binding]) -> None:
    """Makes the pinned entries those of `bound`. Raises ApplianceError."""
    await asyncio.to_thread(_pin, site, bound)


async def remove() -> None:
    await asyncio.to_thread(_pin, None, ())


def _pin(site: Site | None, bound: Sequence[Binding]) -> None:
    with IPRoute() as ip:
        wanted = set(_wanted(ip, site, bound)) if site is not None else set()
        there = {
            (message["ifindex"], _address(message.get("dst")), message.get("lladdr"))
            for family in (socket.AF_INET, socket.AF_INET6)
            for message in ip.get_neighbours(family=family)
            if message.get("NDA_PROTOCOL") == PROTOCOL and message["state"] & PERMANENT
        }
        for index, address, mac in there - wanted:
            _change(ip, "del", index, address, mac)
        for index, address, mac in wanted - there:
            _change(ip, "replace", index, address, mac)


def _change(ip: IPRoute, verb: str, index: int, address: Address, mac: str) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        if verb == "del":
            ip.neigh("del", family=family, ifindex=index, dst=str(address))
        else:
            ip.neigh(
                "replace",
                family=family,
                ifindex=index,
                dst=str(address),
                lladdr=mac,
                state=PERMANENT,
                protocol=PROTOCOL,
            )
    except NetlinkError as error:
        if error.code in (errno.ENOENT, errno.ENODEV, errno.EAFNOSUPPORT, errno.EINVAL):
            return  # the interface or the family went away meanwhile
        raise ApplianceError(f"{address}: neighbour entry refused: {error}") from error


def _wanted(ip: IPRoute, site: Site, bound: Sequence[Binding]) -> list[Entry]:
    indexes = {
        name: found[0]
        for name in {*site.spec.hosts.interfaces, *(b.interface for b in bound if b.interface)}
        if (found := ip.link_lookup(ifname=name))
    }
    subnets = [
        (message["index"], ip_interface(f"{message.get('IFA_ADDRESS')}/{message['prefixlen']}"))
        for message in ip.get_addr()
        if message["index"] in indexes.values() and message.get("IFA_ADDRESS")
    ]
    wanted = []
    for binding in bound:
        if binding.mac is None:
            continue
        here = [
            index
            for index, subnet in subnets
            if subnet.version == binding.address.version
            and binding.address in subnet.network
            and (binding.interface is None or indexes.get(binding.interface) == index)
        ]
        if here:
            wanted.append((here[0], binding.address, binding.mac))
    return wanted


def _address(text: str) -> Address:
    return ip_interface(text).ip
