"""The supervisor's Unix socket: one JSON object a packet, asked and answered in turn.

Owns the protocol and who may ask; what is done is in verbs.py. SOCK_SEQPACKET keeps packets
apart, so nothing is framed or parsed but one small JSON object; peer credentials come from the
kernel. Bounded: connections, packet size, idle time.

    {"verb": "restart-dataplane"}            → {"ok": true, "generation": 4}
    {"verb": "nic-set", "interface": "../x"} → {"ok": false, "code": …, "error": "…"}
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import Any

from appliance.errors import ApplianceError, Denied, InvalidInput
from appliance.supervisor.tree import Tree
from appliance.supervisor.verbs import VERBS, check

CONNECTIONS_MAX = 32
REQUEST_BYTES_MAX = 4096
IDLE_S = 300.0
_SO_PEERGROUPS = 59  # asm-generic/socket.h

log = logging.getLogger("sluice.supervisor")


class Control:
    """`serve` it as a task."""

    def __init__(self, tree: Tree) -> None:
        self.refused = 0  # too many connections, or an asker without the right
        self._tree = tree
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        path = self._tree.paths.supervisor_socket
        path.unlink(missing_ok=True)
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(str(path))
            path.chmod(0o666)  # who may ask is decided by credentials
            listener.listen(CONNECTIONS_MAX)
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.TaskGroup() as group:
                    while True:
                        sock, _ = await loop.sock_accept(listener)
                        if len(self._connections) >= CONNECTIONS_MAX:
                            self.refused += 1
                            sock.close()
                            continue
                        task = group.create_task(self._connection(sock))
                        self._connections.add(task)
                        task.add_done_callback(self._connections.discard)
            finally:
                path.unlink(missing_ok=True)

    async def _connection(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            try:
                while True:
                    async with asyncio.timeout(IDLE_S):
                        packet = await loop.sock_recv(sock, REQUEST_BYTES_MAX + 1)
                    if not packet:
                        return
                    answer = await self._answer(sock, packet)
                    await loop.sock_sendall(sock, json.dumps(answer).encode())
            except (OSError, TimeoutError):
                return

    async def _answer(self, sock: socket.socket, packet: bytes) -> dict[str, Any]:
        try:
            name, arguments = parse(packet)
            verb = VERBS.get(name)
            if verb is None:
                raise InvalidInput(f"there is no verb {name[:40]!r}")
            uid = self._allow(sock, verb.daemon_may)
            check(verb, name, arguments)
            if name != "status":
                log.info("uid %d asks for %s", uid, name)
            return {"ok": True, **await verb.do(self._tree, arguments)}
        except ApplianceError as error:
            return {"ok": False, "code": error.code, "error": str(error)}
        except OSError as error:
            return {"ok": False, "code": "INTERNAL", "error": str(error.strerror)}

    def _allow(self, sock: socket.socket, daemon_may: bool) -> int:
        uid, groups = credentials(sock)
        users = self._tree.site.spec.users
        if uid == 0 or users.admin_group in groups or (daemon_may and uid == users.daemon):
            return uid
        self.refused += 1
        raise Denied(f"user {uid} may not ask this: be root or in group {users.admin_group}")


def parse(packet: bytes) -> tuple[str, dict[str, Any]]:
    """A request's verb and arguments. Raises InvalidInput."""
    if len(packet) > REQUEST_BYTES_MAX:
        raise InvalidInput(f"a request has at most {REQUEST_BYTES_MAX} bytes")
    try:
        request = json.loads(packet)
    except (ValueError, RecursionError):
        raise InvalidInput("a request is one JSON object") from None
    if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
        raise InvalidInput('a request is one JSON object with a "verb"')
    return request.pop("verb"), request


def credentials(sock: socket.socket) -> tuple[int, frozenset[int]]:
    """The peer's user and all its groups, as they were when it connected."""
    size = struct.calcsize("iII")
    _, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * 1024)
    except OSError:
        raw = b""  # more groups than one admin has: the primary one counts
    return uid, frozenset({gid, *(number for (number,) in struct.iter_unpack("I", raw))})
