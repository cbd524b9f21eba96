"""Who connected to a Unix socket, as the kernel says, and how many of them there may be."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from dataclasses import dataclass

_SO_PEERGROUPS = 59  # linux/include/uapi/asm-generic/socket.h; Python does not name it


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, as the kernel saw it at that moment."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()  # supplementary ones and gid


def credentials(sock: socket.socket) -> Peer:
    """Of a connected Unix socket: SO_PEERCRED and SO_PEERGROUPS (unix(7))."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # Python's own limit
    except OSError:  # a user of more than 256 groups is known by the first alone
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Peer(uid, gid, pid, frozenset((gid, *groups)))


class Seats:
    """Connections at once: at most `limit`, and a quarter of them for one user who is not root.

    More are counted in `refused`.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.refused = limit, 0
        self._each_max = max(1, limit // 4)
        self._users: Counter[int] = Counter()

    @property
    def taken(self) -> int:
        return self._users.total()

    def take(self, uid: int) -> bool:
        """Whether there was one; then `leave` it."""
        full = self.taken >= self.limit
        if full or (uid != 0 and self._users[uid] >= self._each_max):
            self.refused += 1
            return False
        self._users[uid] += 1
        return True

    def leave(self, uid: int) -> None:
        self._users[uid] -= 1
        if not self._users[uid]:
            del self._users[uid]
