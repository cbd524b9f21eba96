"""Who is at the other end of a Unix socket, for gRPC servers. Owns the public socket.

gRPC for Python does not show SO_PEERCRED. So the front accepts on the public socket, reads the
credentials from the kernel, and relays to the gRPC server's inner socket (in a directory that
only its own user can enter) from a socket bound to an abstract name of its own. The handler sees
that name as `context.peer()`, and `peer_of` finds the credentials under it. The front never looks
at the bytes and decides nothing but how many connections there may be.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from appliance.api.channel import Closing
from appliance.errors import Denied
from appliance.system.credentials import Peer, Seats, credentials

log = logging.getLogger(__name__)

_CHUNK_BYTES = 65_536
_PREFIX = "unix-abstract:"


class Context(Protocol):
    """The part of a gRPC handler's context that is needed here."""

    def peer(self) -> str: ...


_live: dict[str, Peer] = {}  # by abstract name, while the connection lasts


def peer_of(context: Context) -> Peer:
    """The caller's credentials. Raises Denied when the call came by another way."""
    name = context.peer()
    peer = _live.get(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else None
    if peer is None:
        raise Denied("the caller's credentials are not known: connect to the public socket")
    return peer


class PeerCredFront(Closing):
    """Listens on `public`, relays to the gRPC server at `inner`. Async context manager.

    For whom there is no seat, the connection is closed.
    """

    def __init__(self, public: Path, inner: Path, seats: Seats) -> None:
        self.public, self.inner = public, inner
        self._seats = seats
        self._random = secrets.token_hex(8)
        self._numbers = count()
        self._relays: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self.public.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(self.public))
            os.chmod(self.public, 0o666)
            self._server = await asyncio.start_unix_server(self._accepted, sock=sock, backlog=128)
        except BaseException:
            sock.close()
            raise
        return self

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._relays:
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        await self._server.wait_closed()
        self.public.unlink(missing_ok=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            sock = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
            with sock:
                peer = credentials(sock)
            if not self._seats.take(peer.uid):
                log.warning("%s: too many connections, refused uid %d", self.public, peer.uid)
                return
            try:
                await self._relay(peer, reader, writer)
            finally:
                self._seats.leave(peer.uid)
        except OSError as problem:
            log.debug("%s: connection ended: %s", self.public, problem)
        finally:
            self._relays.discard(task)
            writer.transport.abort()

    async def _relay(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = next(self._numbers)
        name = f"sluice/{self._random}/{peer.uid}.{peer.gid}.{peer.pid}.{number}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(sock, str(self.inner))
            inner_reader, inner_writer = await asyncio.open_unix_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        _live[name] = peer
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, inner_writer))
                group.create_task(_pump(inner_reader, writer))
        except* OSError as problems:
            log.debug("%s: connection ended: %s", self.public, problems.exceptions[0])
        finally:
            del _live[name]
            inner_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def inner_directory(directory: Path) -> Path:
    """Makes the directory for inner sockets, for this user alone; returns it."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    return directory
