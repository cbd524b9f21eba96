"""links: what rtnetlink says of interfaces that were switched off, and the addresses they had."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address

import pytest

from appliance.system import links
from appliance.system.links import Link, bereft, losers

UP = 1


def message(kind: int, index: int, flags: int, family: int = 0, more: bytes = b"") -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + more
    head = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0)
    return head + body + bytes(-len(body) % 4)


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (message(16, 3, UP), []),
        (message(16, 3, 0), [3]),
        (message(17, 4, UP), [4]),  # it is gone
        (message(16, 5, 0, more=b"abc") + message(16, 6, UP) + message(16, 7, 0), [5, 7]),
        (message(17, 3, UP, family=socket.AF_BRIDGE), []),  # only no port of its bridge any more
        (message(20, 3, 0), []),  # an address
        (message(16, 3, 0)[:-1], []),
        (struct.pack("=IHHII", 0, 16, 0, 0, 0) + message(16, 3, 0), [3]),
        (b"", []),
    ],
)
def test_who_lost_the_link_is_in_the_news(data: bytes, lost: list[int]) -> None:
    found = list(links._lost(data))
    assert found[-len(lost) :] == lost if lost else found == []


def test_garbage_ends() -> None:
    for size in range(200):
        list(links._lost(os.urandom(size)))


def link(name: str, index: int, *addresses: str, master: str | None = None, kind: str = "") -> Link:
    found = tuple(map(ip_address, addresses))
    return Link(name, index, None, 1500, True, kind, master, found)


BOX = (
    link("lo", 1, "127.0.0.1"),
    link("eth0", 2, "198.18.0.1", "2001:db8::1"),
    link("eth1", 3, master="bond0"),
    link("eth2", 4, master="bond0"),
    link("bond0", 5, "198.18.1.1", kind="bond"),
    link("anycast", 6, "198.18.2.1", kind="dummy"),
    link("tap0", 7, "198.18.3.1", kind="tun"),
    link("eth1.5", 8, "198.18.4.1", kind="vlan"),
)


@pytest.mark.parametrize(
    ("lost", "addresses"),
    [
        ({2}, {"198.18.0.1", "2001:db8::1", "127.0.0.1", "198.18.2.1"}),
        ({4}, {"198.18.1.1", "127.0.0.1", "198.18.2.1"}),
        ({7}, {"198.18.3.1"}),  # a virtual machine's
        ({8}, {"198.18.4.1", "127.0.0.1", "198.18.2.1"}),
        ({6}, {"198.18.2.1"}),
        ({9}, set()),
        (set(), set()),
    ],
)
def test_addresses_of_a_lost_link(lost: set[int], addresses: set[str]) -> None:
    assert bereft(lost, BOX) == frozenset(map(ip_address, addresses))


def test_who_lost_a_link_unseen_shows_by_the_carrier() -> None:
    assert losers({1: 0, 2: 0, 9: 4}, BOX) == {9}  # gone
    assert losers({2: 1}, BOX) == {2}
    assert losers({}, BOX) == frozenset()
