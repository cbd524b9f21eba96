"""Addresses, blocks and ports as people and peers write them: one strict parser for each. Pure.

One address has one spelling here, as the data plane has it: IPv4 is never written as IPv6, and no
address carries a zone. What does not fit raises `InvalidInput`, which says what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from appliance.errors import InvalidInput
from dataplane.snapshot import Address, Network

MAPPED = IPv6Network("::ffff:0:0/96")
_THIS_NETWORK, _BROADCAST = IPv4Network("0.0.0.0/8"), IPv4Network("255.255.255.255/32")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


def address(text: str) -> Address:
    """Any address."""
    if "%" in text:
        raise InvalidInput(f"{text[:80]!r} has a zone: write an address without it")
    try:
        found = ip_address(text)
    except ValueError:
        raise InvalidInput(f"{text[:80]!r} is no address: write an IPv4 or IPv6 address") from None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        raise InvalidInput(f"{text!r} is IPv4 written as IPv6: write {found.ipv4_mapped}")
    return found


def machine(text: str) -> Address:
    """Another machine's: one that a connection can come from and go to."""
    found = address(text)
    if found.is_multicast or found.is_unspecified or found in _THIS_NETWORK or found in _BROADCAST:
        raise InvalidInput(f"{text!r} is no machine's address")
    if found.is_loopback or found.is_link_local:
        raise InvalidInput(f"{text!r} is an address that no other machine can reach")
    return found


def network(text: str) -> Network:
    """A block, or an address as the block of one."""
    try:
        found = ip_network(text, strict=False) if "%" not in text else None
    except ValueError:
        found = None
    if found is None:
        raise InvalidInput("write an address or a block such as 203.0.113.0/24")
    if isinstance(found, IPv6Network) and found.subnet_of(MAPPED):
        packed = found.network_address.packed[-4:]
        raise InvalidInput(
            f"IPv4 written as IPv6: write {IPv4Network((packed, found.prefixlen - 96))}"
        )
    return found


def port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise InvalidInput("write a port, 1 to 65535")
    return int(text)


def plain(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Of what was kept before there was one spelling: each once, without those with a zone."""
    found: dict[Address, None] = {}
    for each in addresses:
        if isinstance(each, IPv4Address):
            found[each] = None
        elif each.scope_id is None:
            found[each.ipv4_mapped or each] = None
    return tuple(found)
