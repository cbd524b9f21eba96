"""TLS connections for the enrolment server, bounded in number, handshake and life.

Owns accepting; knows no HTTP. aiohttp's own listeners limit neither how many connections there
are nor how long one may say nothing, so each is accepted here and handed to its parser.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from appliance.tasks import Tasks

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 256
EACH_MAX = 32  # from one address
HANDSHAKE_S = 10.0
SHUTDOWN_S = 2.0
LIFE_S = 30.0  # one question, one answer


class _Watched(asyncio.Protocol):
    """Passes everything on; says when the connection is lost."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        self.lost.set()


class Listener:
    """`context` may be replaced while it runs: later connections get the new one."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self._protocol = protocol
        self.context = context
        self._tasks = Tasks()
        self._sockets: list[socket.socket] = []
        self._live: dict[str, int] = {}  # by address
        self.refused = 0

    @property
    def connections(self) -> int:
        return sum(self._live.values())

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        return tuple(sock.getsockname()[:2] for sock in self._sockets)

    def start(self, addresses: Sequence[str], port: int) -> None:
        """Binds and accepts. Raises OSError with the address that cannot be bound."""
        for address in dict.fromkeys(addresses):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            self._sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            try:
                sock.bind((address, port))
                sock.listen(128)
            except OSError as error:
                raise OSError(error.errno, f"enrolment on {address}:{port}: {error}") from error
            self._tasks.start(self._accept(sock), f"accept enrolment on {address}")

    async def close(self) -> None:
        await self._tasks.close()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, remote = await loop.sock_accept(sock)
            except OSError as error:  # out of descriptors, or the client was gone already
                log.warning("cannot accept an enrolment: %s", error)
                await asyncio.sleep(0.1)
                continue
            source = cast(str, remote[0])
            if self.connections >= CONNECTIONS_MAX or self._live.get(source, 0) >= EACH_MAX:
                self.refused += 1
                connection.close()
                continue
            self._live[source] = self._live.get(source, 0) + 1
            self._tasks.start(self._serve(connection, source), f"enrolment from {source}")

    async def _serve(self, connection: socket.socket, source: str) -> None:
        watched = _Watched(self._protocol())
        transport: asyncio.BaseTransport | None = None
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: watched,
                connection,
                ssl=self.context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
            async with asyncio.timeout(LIFE_S):
                await watched.lost.wait()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("enrolment connection from %s ended: %s", source, error)
        finally:
            if transport is None:
                connection.close()
            elif not transport.is_closing():  # else it ends by itself, in SHUTDOWN_S at most
                cast(asyncio.Transport, transport).abort()
            self._live[source] -= 1
            if not self._live[source]:
                del self._live[source]
