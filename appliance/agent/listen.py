"""Accepts connections and runs a bounded number of streams; full means reset and counted.

Owns the listening sockets and the tasks; knows nothing of what a stream does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

from appliance.agent.strangers import Strangers
from appliance.agent.tls import reset

log = logging.getLogger(__name__)

STREAMS_MAX = 1024
BACKLOG = 512


class Listeners:
    def __init__(
        self,
        name: str,
        serve: Callable[[socket.socket], Awaitable[None]],
        counters: Counter[str],
        streams_max: int = STREAMS_MAX,
        strangers: Strangers | None = None,
    ) -> None:
        """`strangers`, where callers have to say who they are: `serve` takes one out of it once it
        is known."""
        self._name, self._serve, self._counters = name, serve, counters
        self._streams_max = streams_max
        self._strangers = strangers
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Future[None]] = []
        self._streams: set[asyncio.Future[None]] = set()

    def open(self, address: str, port: int) -> int:
        """Returns the port. Raises OSError with the address in it."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(
                error.errno, f"cannot listen on {address} port {port}: {error}"
            ) from error
        self._sockets.append(sock)
        self._accepting.append(asyncio.ensure_future(self._accept(sock)))
        return int(sock.getsockname()[1])

    @property
    def live(self) -> int:
        return len(self._streams)

    async def close(self) -> None:
        """Ends every stream."""
        for sock in self._sockets:
            sock.close()
        tasks = [*self._accepting, *self._streams]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sockets.clear()
        self._accepting.clear()

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(sock)
            except OSError as error:
                self._counters[f"{self._name}_accept_failed"] += 1
                log.warning("%s: cannot accept: %s", self._name, error)
                await asyncio.sleep(0.1)  # out of descriptors: streams must end first
                continue
            full = self._full(client, address[0])
            if full:
                self._counters[f"{self._name}_refused_{full}"] += 1
                reset(client)
                continue
            self._counters[f"{self._name}_accepted"] += 1
            task = asyncio.ensure_future(self._run(client))
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)

    def _full(self, client: socket.socket, address: str) -> str:
        """What is; "" when there is room, which is taken."""
        if len(self._streams) >= self._streams_max:
            return "full"
        no_room = self._strangers.enter(client, address) if self._strangers else None
        return f"full_of_{no_room.value}" if no_room else ""

    async def _run(self, client: socket.socket) -> None:
        try:
            await self._serve(client)
        except Exception:
            self._counters[f"{self._name}_failed"] += 1
            log.exception("%s: a stream failed", self._name)
        finally:
            if self._strangers:
                self._strangers.leave(client)
            client.close()
