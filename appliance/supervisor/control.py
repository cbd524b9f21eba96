"""The supervisor's Unix socket: one JSON object a packet, asked and answered in turn.

Owns the protocol and who may ask; what is done is in verbs.py. SOCK_SEQPACKET keeps packets
apart, so nothing is framed or parsed but one small JSON object; peer credentials come from the
kernel at accept, and who may ask nothing is not kept. Bounded: connections, also of one user,
packet size, silence.

    {"verb": "restart-dataplane"}            → {"ok": true, "generation": 4}
    {"verb": "nic-set", "interface": "../x"} → {"ok": false, "code": …, "error": "…"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

from appliance.errors import ApplianceError, Denied, InvalidInput, LimitReached
from appliance.site import Users
from appliance.supervisor.tree import Tree
from appliance.supervisor.verbs import VERBS, check
from appliance.system.credentials import Peer, Seats, credentials

CONNECTIONS_MAX = 32
REQUEST_BYTES_MAX = 4096
SILENCE_MAX_S = 5.0  # who connects asks at once

log = logging.getLogger("sluice.supervisor")


class Control:
    """`serve` it as a task. What it refuses is counted in tree.counters."""

    def __init__(
        self,
        tree: Tree,
        who: Callable[[socket.socket], Peer] = credentials,
        silence_max_s: float = SILENCE_MAX_S,
    ) -> None:
        self.seats = Seats(CONNECTIONS_MAX)
        self._tree, self._who, self._silence_max_s = tree, who, silence_max_s

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
                        peer = self._seated(sock)
                        if peer is not None:
                            group.create_task(self._connection(sock, peer))
            finally:
                path.unlink(missing_ok=True)

    def _seated(self, sock: socket.socket) -> Peer | None:
        """Who may stay; the others are told why, and are gone."""
        counters, users = self._tree.counters, self._tree.site.spec.users
        try:
            peer = self._who(sock)
            if not (_is_admin(peer, users) or peer.uid == users.daemon):
                counters["asked_by_strangers"] += 1
                raise Denied(
                    f"user {peer.uid} may not ask this: be root or in group {users.admin_group}"
                )
            if not self.seats.take(peer.uid):
                counters["asked_by_too_many"] += 1
                raise LimitReached("too many ask the supervisor at once: try again in a moment")
            return peer
        except ApplianceError as error:
            log.warning("refused: %s", error)
            _hang_up(sock, _problem(error))
        except OSError:  # gone already
            sock.close()
        return None

    async def _connection(self, sock: socket.socket, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        try:
            with sock:
                while True:
                    async with asyncio.timeout(self._silence_max_s):
                        packet = await loop.sock_recv(sock, REQUEST_BYTES_MAX + 1)
                    if not packet:
                        return
                    answer = await self._answer(peer, packet)
                    async with asyncio.timeout(self._silence_max_s):
                        await loop.sock_sendall(sock, json.dumps(answer).encode())
        except TimeoutError:
            self._tree.counters["asked_nothing"] += 1
        except OSError:
            return
        finally:
            self.seats.leave(peer.uid)

    async def _answer(self, peer: Peer, packet: bytes) -> dict[str, Any]:
        try:
            name, arguments = parse(packet)
            verb = VERBS.get(name)
            if verb is None:
                raise InvalidInput(f"there is no verb {name[:40]!r}")
            users = self._tree.site.spec.users
            if not (verb.daemon_may or _is_admin(peer, users)):
                self._tree.counters["asked_too_much"] += 1
                raise Denied(
                    f"user {peer.uid} may not ask this: be root or in group {users.admin_group}"
                )
            check(verb, name, arguments)
            if name != "status":
                log.info("uid %d asks for %s", peer.uid, name)
            return {"ok": True, **await verb.do(self._tree, arguments)}
        except ApplianceError as error:
            return _problem(error)
        except OSError as error:
            return {"ok": False, "code": "INTERNAL", "error": str(error.strerror)}


def _is_admin(peer: Peer, users: Users) -> bool:
    return peer.uid == 0 or users.admin_group in peer.groups


def _problem(error: ApplianceError) -> dict[str, Any]:
    return {"ok": False, "code": error.code, "error": str(error)}


def _hang_up(sock: socket.socket, answer: dict[str, Any]) -> None:
    """Reads nothing more. What was sent is taken, or closing would tear up the answer."""
    with sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
        sock.send(json.dumps(answer).encode())
        while sock.recv(REQUEST_BYTES_MAX):
            pass


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
