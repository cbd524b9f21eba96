"""One TLS leg over a socket, with what asyncio's own streams lack: half-close both ways, and the
difference between an end (close_notify) and a cut. Knows nothing of who the peer may be.

After close_notify was sent one may go on reading, and after it came go on writing (RFC 8446
section 6.1). A FIN without close_notify raises `Truncated`: the bytes may be short.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

CHUNK_BYTES = 256 * 1024
_RECORD_BYTES = 16 * 1024


class Truncated(ConnectionError):
    """The peer's TCP ended before its TLS did."""


class TlsLeg:
    """Owns the socket from now on. One reader and one writer at a time."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._ended = False  # close_notify came

    @property
    def socket(self) -> socket.socket:
        return self._sock

    @property
    def tls(self) -> ssl.SSLObject:
        return self._tls

    async def handshake(self) -> None:
        """Raises ssl.SSLError or ConnectionError."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                await self._flush()  # the alert says why
                raise
        await self._flush()

    async def read(self) -> bytes:
        """Some bytes; b"" after close_notify. Raises Truncated, ssl.SSLError, ConnectionError."""
        while not self._ended:
            parts = self._decrypt()
            if self._out.pending:
                await self._flush()  # an answer to KeyUpdate, or an alert
            if parts:
                return b"".join(parts)
            if not self._ended:
                await self._receive()
        return b""

    def _decrypt(self) -> list[bytes]:
        parts = []
        while not self._ended:
            try:
                data = self._tls.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if data:
                parts.append(data)
            else:
                self._ended = True
        return parts

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self._tls.write(view[:CHUNK_BYTES])
            view = view[sent:]
            await self._flush()

    async def write_eof(self) -> None:
        """Sends close_notify and FIN. What comes is still read."""
        try:
            self._tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            pass  # sent; the peer's has not come
        except ssl.SSLError:
            if not self._out.pending:  # it was not sent
                raise
        await self._flush()
        self._sock.shutdown(socket.SHUT_WR)

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._sock, CHUNK_BYTES)
        if not data:
            raise Truncated("the connection ended without close_notify")
        self._in.write(data)

    async def _flush(self) -> None:
        async with self._sending:
            data = self._out.read()
            if data:
                await self._loop.sock_sendall(self._sock, data)

    def close(self) -> None:
        self._sock.close()

    def abort(self) -> None:
        """Closes with a reset."""
        reset(self._sock)


class PlainLeg:
    """The same shape over TCP alone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self._sock, CHUNK_BYTES)

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def write_eof(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()

    def abort(self) -> None:
        reset(self._sock)


def reset(sock: socket.socket) -> None:
    """Closes so that the other end sees a reset, not an end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it is closed already
    sock.close()
