"""The box's network interfaces as they are. Owns reading them and when to; changes nothing.

Addresses are without prefix length. `master` is the bridge or bond that an interface belongs to.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from appliance.errors import Unavailable
from dataplane.snapshot import Address

# linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x10 | 0x100
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr
_INTERFACE = struct.Struct("=BxHiII")  # struct ifinfomsg
_NEW, _GONE = 16, 17  # RTM_NEWLINK, RTM_DELLINK
_IFF_UP = 1
_NOWHERE = ("lo", "dummy")  # hold addresses; what has one leaves by any other
_CARDS = ("", "bond", "team", "vlan")  # kinds whose bytes a card may seal


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
    losses: int = 0  # of its carrier so far; a card that is switched off loses it
    on: bool = True  # switched on by whoever manages it; many drivers name interrupts only then


@dataclass(frozen=True, slots=True)
class Change:
    lost: frozenset[int]  # indices of interfaces that were switched off, or went, if only shortly
    missed: bool  # there was more news than could be kept: others may have been lost too


async def changes() -> AsyncIterator[Change]:
    """Once at first, then whenever an interface or an address may have come or gone. Tells only
    what may be over already: look. Never ends."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, _GROUPS))
        yield Change(frozenset(), missed=True)
        while True:
            news, missed = [], False
            try:
                news.append(await loop.sock_recv(sock, 65_536))
                while True:  # many come together
                    news.append(sock.recv(65_536))
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                missed = True
            yield Change(frozenset(index for each in news for index in _lost(each)), missed)


def _lost(data: bytes) -> Iterator[int]:
    """Indices of the interfaces that are down or gone, as rtnetlink tells. Pure."""
    at = 0
    while at + _MESSAGE.size + _INTERFACE.size <= len(data):
        size, kind, _, _, _ = _MESSAGE.unpack_from(data, at)
        if kind in (_NEW, _GONE):
            family, _, index, flags, _ = _INTERFACE.unpack_from(data, at + _MESSAGE.size)
            off = kind == _GONE or not flags & _IFF_UP
            if off and family == socket.AF_UNSPEC:  # else: what a bridge says of its ports
                yield index
        at += max((size + 3) & ~3, _MESSAGE.size)


def losers(before: Mapping[int, int], now: Iterable[Link]) -> frozenset[int]:
    """Indices of those that have lost their link since `before`: losses by index. Pure."""
    held = {link.index: link.losses for link in now}
    return frozenset(index for index, losses in before.items() if held.get(index) != losses)


def bereft(lost: Iterable[int], present: Iterable[Link]) -> frozenset[Address]:
    """Addresses whose bytes may have left by one of these: theirs, those of the bond that they
    belong to, and, when one of these may be a card's, those that no card has. Pure."""
    links = tuple(present)
    names = {link.name for link in links if link.index in lost}
    for _ in links:  # at most so many above each other
        names |= {link.master for link in links if link.name in names and link.master}
    chosen = [link for link in links if link.name in names]
    if any(link.kind in _CARDS for link in chosen):
        chosen += [link for link in links if link.name in _NOWHERE or link.kind in _NOWHERE]
    return frozenset(address for link in chosen for address in link.addresses)


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
                losses=int(message.get("carrier_down_count") or 0),
                on=bool(message["flags"] & _IFF_UP),
            )
        )
    return tuple(found)
