"""How many callers have not said yet who they are, in all and by source, so that they cannot take
the room of those who have. Counts only; knows no TLS and closes nothing.
"""

from __future__ import annotations

import socket
from collections import Counter
from enum import Enum
from ipaddress import IPv6Address, ip_address

SUBNET_BITS = 64  # of IPv6: who has one address there has them all


class Full(Enum):
    """Why there is no room."""

    ALL = "strangers"
    SOURCE = "strangers_of_a_source"


class Strangers:
    """Room for `most` at a time. Once half of it is taken, no source gets more than an eighth: one
    alone may be a busy appliance, and leaves room for others all the same."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._share = max(1, most // 8)
        self._source_of: dict[socket.socket, str] = {}
        self._count: Counter[str] = Counter()

    def enter(self, sock: socket.socket, address: str) -> Full | None:
        """None: it is in, until `leave`."""
        source = source_of(address)
        live = len(self._source_of)
        if live >= self._most:
            return Full.ALL
        if self._count[source] >= self._share and live >= self._most // 2:
            return Full.SOURCE
        self._source_of[sock] = source
        self._count[source] += 1
        return None

    def leave(self, sock: socket.socket) -> None:
        """It is known, or gone. Once more does nothing."""
        source = self._source_of.pop(sock, None)
        if source is None:
            return
        self._count[source] -= 1
        if not self._count[source]:
            del self._count[source]


def source_of(address: str) -> str:
    """As getpeername gives it, maybe with a zone."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None:
        return str(int(ip) >> (128 - SUBNET_BITS))
    return str(ip)
