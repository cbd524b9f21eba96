"""DNS on descriptors that somebody else opened: UDP and TCP, bounded, counted.

Owns sockets, limits and counters; what to answer is dns's. Never blocks the event loop for long:
a bounded number of datagrams a turn, and a rate a source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable

from dataplane import dns

log = logging.getLogger(__name__)

DATAGRAMS_A_TURN = 16
QUERIES_A_SECOND = 500  # a source address
BURST = 1_000
SOURCES_MAX = 4_096  # remembered; the one heard longest ago is forgotten
STREAMS_MAX = 128
STREAMS_OF_SOURCE_MAX = 16
STREAM_IDLE_SECONDS = 10.0
RCODES = ("noerror", "nxdomain", "refused", "formerr", "servfail", "notimp", "badvers")

COUNTERS = (
    "dns_queries_udp",
    "dns_queries_tcp",
    *(f"dns_replies_{rcode}" for rcode in RCODES),
    "dns_dropped_malformed",
    "dns_dropped_rate",
    "dns_dropped_send",
    "dns_streams_refused",
)


class Rate:
    """Token buckets by source, a bounded number of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, source: str) -> bool:
        now = self._clock()
        tokens, then = self._buckets.pop(source, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - then) * QUERIES_A_SECOND)
        self._buckets[source] = (max(tokens - 1.0, 0.0), now)
        if len(self._buckets) > SOURCES_MAX:
            self._buckets.popitem(last=False)
        return tokens >= 1.0


class DnsServer:
    """Answers from whatever zone() gives at the time."""

    def __init__(self, zone: Callable[[], dns.Zone | None]) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._zone = zone
        self._rate = Rate()
        self._udp: list[socket.socket] = []
        self._tcp: list[asyncio.Server] = []
        self._streams: dict[asyncio.Task[None], str] = {}  # and whom each comes from

    async def start(self, udp: tuple[int, ...], tcp: tuple[int, ...]) -> None:
        """Takes duplicates of the descriptors: bound UDP and listening TCP sockets."""
        loop = asyncio.get_running_loop()
        for number in udp:
            sock = socket.socket(fileno=os.dup(number))
            sock.setblocking(False)
            self._udp.append(sock)
            loop.add_reader(sock, self._datagrams, sock)
        for number in tcp:
            listener = socket.socket(fileno=os.dup(number))
            self._tcp.append(
                await asyncio.start_server(self._stream, sock=listener, limit=8192, backlog=1024)
            )

    async def stop(self) -> None:
        """Takes no more queries; the sockets stay open for whoever else has them."""
        for sock in self._udp:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        for server in self._tcp:
            server.close()
        self._udp, self._tcp = [], []
        for task in tuple(self._streams):
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)

    def _datagrams(self, sock: socket.socket) -> None:
        for _ in range(DATAGRAMS_A_TURN):
            try:
                query, source = sock.recvfrom(dns.QUERY_BYTES_MAX + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error to an earlier reply of ours
            self.counters["dns_queries_udp"] += 1
            reply = self._reply(query, str(source[0]), stream=False)
            if reply is None:
                continue
            try:
                sock.sendto(reply, source)
            except OSError:
                self.counters["dns_dropped_send"] += 1

    def _reply(self, query: bytes, source: str, stream: bool) -> bytes | None:
        if not self._rate.allows(source):
            self.counters["dns_dropped_rate"] += 1
            return None
        reply = dns.answer(query, self._zone(), stream)
        if reply is None:
            self.counters["dns_dropped_malformed"] += 1
            return None
        self.counters[f"dns_replies_{reply.rcode}"] += 1
        return reply.wire

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = str((writer.get_extra_info("peername") or ("",))[0])
        of_source = sum(each == source for each in self._streams.values())
        if len(self._streams) >= STREAMS_MAX or of_source >= STREAMS_OF_SOURCE_MAX:
            self.counters["dns_streams_refused"] += 1
            writer.transport.abort()
            return
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self._streams[task] = source
        try:
            while True:
                async with asyncio.timeout(STREAM_IDLE_SECONDS):
                    reply = await self._next(reader, source)
                if not reply:
                    break
                writer.write(len(reply).to_bytes(2) + reply)
                async with asyncio.timeout(STREAM_IDLE_SECONDS):
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # idle, or gone
        finally:
            writer.close()
            try:  # whoever asks but does not read would keep what waits for it, for ever
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(STREAM_IDLE_SECONDS):
                        await writer.wait_closed()
            finally:
                writer.transport.abort()
                del self._streams[task]

    async def _next(self, reader: asyncio.StreamReader, source: str) -> bytes | None:
        """The reply to the stream's next query; None = it has earned none, close."""
        length = int.from_bytes(await reader.readexactly(2))
        self.counters["dns_queries_tcp"] += 1
        if length > dns.QUERY_BYTES_MAX:
            self.counters["dns_dropped_malformed"] += 1
            return None
        return self._reply(await reader.readexactly(length), source, stream=True)
