"""dns_server: UDP and TCP on descriptors; rate, size and streams are bounded and counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import dns.message
import dns.rcode
import pytest
import pytest_asyncio

from dataplane import dns as mesh
from dataplane import dns_server
from dataplane.dns_server import DnsServer, Rate
from dataplane.snapshot import Name, Snapshot
from tests.unit.dataplane.material import listener

LIMIT_S = 60.0
ZONE = mesh.zone(
    Snapshot(
        version=1, trust_domain="a", names=(Name("db.default.mesh", (IPv4Address("198.19.0.1"),)),)
    )
)
QUERY = dns.message.make_query("db.default.mesh", "A").to_wire()


class Served:
    def __init__(self) -> None:
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.tcp = listener()
        self.server = DnsServer(lambda: ZONE)

    def client(self) -> socket.socket:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(self.udp.getsockname())
        return sock

    async def ask(self, query: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with self.client() as sock:
            await loop.sock_sendall(sock, query)
            return await asyncio.wait_for(loop.sock_recv(sock, 4096), LIMIT_S)

    async def stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.tcp.getsockname())

    async def counted(self, name: str, least: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.server.counters[name] < least:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0)


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    await served.server.start((served.udp.fileno(),), (served.tcp.fileno(),))
    yield served
    await served.server.stop()
    served.udp.close()
    served.tcp.close()


def framed(query: bytes) -> bytes:
    return len(query).to_bytes(2) + query


async def read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))


async def test_datagrams_are_answered(served: Served) -> None:
    reply = dns.message.from_wire(await served.ask(QUERY))
    assert str(reply.answer[0][0]) == "198.19.0.1"
    assert served.server.counters["dns_replies_noerror"] == 1


async def test_a_stream_carries_many_queries(served: Served) -> None:
    reader, writer = await served.stream()
    writer.write(framed(QUERY) * 3)
    for _ in range(3):
        assert dns.message.from_wire(await read(reader)).rcode() == dns.rcode.NOERROR
    await close(writer)
    assert served.server.counters["dns_queries_tcp"] == 3


async def test_garbage_is_counted_and_the_next_is_answered(served: Served) -> None:
    with served.client() as sock:
        for data in (b"", b"x", bytes(11), b"\xff" * 600):
            await asyncio.get_running_loop().sock_sendall(sock, data)
        await served.counted("dns_dropped_malformed", 3)
    assert await served.ask(QUERY)


async def test_an_oversized_message_ends_its_stream(served: Served) -> None:
    reader, writer = await served.stream()
    writer.write(b"\xff\xff" + QUERY)
    assert await asyncio.wait_for(reader.read(), LIMIT_S) == b""
    assert served.server.counters["dns_dropped_malformed"] == 1
    await close(writer)


async def test_an_idle_stream_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "STREAM_IDLE_SECONDS", 0.05)
    reader, writer = await served.stream()
    writer.write(b"\x00")
    assert await asyncio.wait_for(reader.read(), LIMIT_S) == b""
    await close(writer)


async def test_a_client_that_does_not_read_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "STREAM_IDLE_SECONDS", LIMIT_S)
    served.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, served.tcp.getsockname())
        await asyncio.get_running_loop().sock_sendall(client, framed(QUERY) * 1000)
        await served.counted("dns_replies_noerror", 1000)
        monkeypatch.setattr(dns_server, "STREAM_IDLE_SECONDS", 0.05)
        client.shutdown(socket.SHUT_WR)  # nothing more is asked: only the replies are in the way
        async with asyncio.timeout(LIMIT_S):
            while len(os.listdir("/proc/self/fd")) > before + 1:  # noqa: ASYNC110 - the kernel's
                await asyncio.sleep(0.01)


async def test_streams_of_one_source_are_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "STREAMS_OF_SOURCE_MAX", 2)
    kept = [await served.stream() for _ in range(2)]
    for reader, writer in kept:
        writer.write(framed(QUERY))
        await read(reader)
    reader, writer = await served.stream()
    assert await asyncio.wait_for(reader.read(), LIMIT_S) == b""
    assert served.server.counters["dns_streams_refused"] == 1
    await close(writer, *(each for _, each in kept))


async def test_a_flood_is_dropped_and_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "BURST", 3)
    monkeypatch.setattr(dns_server, "QUERIES_A_SECOND", 0)
    with served.client() as sock:
        for _ in range(10):
            await asyncio.get_running_loop().sock_sendall(sock, QUERY)
        await served.counted("dns_dropped_rate", 7)
    assert served.server.counters["dns_replies_noerror"] == 3


async def test_after_stop_the_descriptors_still_work_for_others(served: Served) -> None:
    await served.server.stop()
    other = DnsServer(lambda: ZONE)
    await other.start((served.udp.fileno(),), (served.tcp.fileno(),))
    assert await served.ask(QUERY)
    reader, writer = await served.stream()
    writer.write(framed(QUERY))
    assert await read(reader)
    await close(writer)
    await other.stop()


def test_a_source_gets_its_rate_back_with_time() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert [rate.allows("a") for _ in range(dns_server.BURST + 1)].count(True) == dns_server.BURST
    assert rate.allows("b")
    now[0] += 1 / dns_server.QUERIES_A_SECOND
    assert rate.allows("a")
    assert not rate.allows("a")


def test_sources_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "SOURCES_MAX", 2)
    monkeypatch.setattr(dns_server, "BURST", 1)
    rate = Rate(lambda: 0.0)
    assert rate.allows("a")
    assert not rate.allows("a")
    assert rate.allows("b")
    assert rate.allows("c")
    assert rate.allows("a")
