"""A TLS leg over a socket pair: half-close both ways, cuts, resets, much data."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.agent.relay import Idle, relay
from appliance.agent.tls import PlainLeg, TlsLeg, Truncated
from tests.unit.appliance.enroll.fakes import Need, leaf_of, running_site

LIMIT_S = 20


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[TlsLeg, TlsLeg]]:
    async with running_site(tmp_path / "a") as site:
        need = Need("own", site.site.appliance_id, None)
        leaf = await leaf_of(site.ca, need)
        (tmp_path / "leaf.pem").write_text(leaf.chain_pem + leaf.key_pem)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(cadata=site.bundle_pem)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(str(tmp_path / "leaf.pem"))
        one, two = tcp_pair()
        legs = TlsLeg(one, client, server_side=False), TlsLeg(two, server, server_side=True)
        await asyncio.wait_for(asyncio.gather(*(leg.handshake() for leg in legs)), LIMIT_S)
        yield legs
        for leg in legs:
            leg.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


async def all_of(leg: TlsLeg | PlainLeg) -> bytes:
    parts = []
    while data := await asyncio.wait_for(leg.read(), LIMIT_S):
        parts.append(data)
    return b"".join(parts)


@pytest.mark.parametrize("first", [0, 1])
async def test_one_side_ends_and_the_other_goes_on(pair: tuple[TlsLeg, TlsLeg], first: int) -> None:
    near, far = pair[first], pair[1 - first]
    await near.write(b"request")
    await near.write_eof()
    assert await all_of(far) == b"request"
    big = bytes(range(256)) * 8000
    sent = asyncio.ensure_future(far.write(big))
    for_near = asyncio.ensure_future(all_of(near))
    await asyncio.wait_for(sent, LIMIT_S)
    await far.write_eof()
    assert await for_near == big


async def test_both_ways_at_once(pair: tuple[TlsLeg, TlsLeg]) -> None:
    data = (b"a" * 3_000_000, b"b" * 3_000_000)

    async def send(leg: TlsLeg, what: bytes) -> None:
        await leg.write(what)
        await leg.write_eof()

    results = await asyncio.gather(
        send(pair[0], data[0]), send(pair[1], data[1]), all_of(pair[0]), all_of(pair[1])
    )
    assert results[2] == data[1]
    assert results[3] == data[0]


async def test_data_in_flight_while_we_end(pair: tuple[TlsLeg, TlsLeg]) -> None:
    """Records wait unread when close_notify is sent: they are not lost."""
    near, far = pair
    await far.write(b"x" * 100_000)
    await near.write_eof()
    await far.write(b"y" * 1000)
    await far.write_eof()
    assert await all_of(near) == b"x" * 100_000 + b"y" * 1000
    assert await all_of(far) == b""


async def test_a_fin_without_close_notify_is_a_cut(pair: tuple[TlsLeg, TlsLeg]) -> None:
    near, far = pair
    await far.write(b"part")
    far.socket.shutdown(socket.SHUT_WR)
    assert await near.read() == b"part"
    with pytest.raises(Truncated):
        await near.read()


async def test_a_reset_is_an_error(pair: tuple[TlsLeg, TlsLeg]) -> None:
    near, far = pair
    far.abort()
    with pytest.raises(ConnectionResetError):
        await near.read()


async def test_garbage_instead_of_records(pair: tuple[TlsLeg, TlsLeg]) -> None:
    near, far = pair
    far.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await near.read()


async def test_relay_keeps_bytes_and_half_close(pair: tuple[TlsLeg, TlsLeg]) -> None:
    program, ours = tcp_pair()
    near, far = pair
    running = asyncio.ensure_future(relay(PlainLeg(ours), near, first_down=b"early "))
    here = PlainLeg(program)
    await here.write(b"question")
    await here.write_eof()
    assert await all_of(far) == b"question"
    await far.write(b"answer")
    await far.write_eof()
    assert await all_of(here) == b"early answer"
    assert await asyncio.wait_for(running, LIMIT_S) == (8, 12)
    here.close()
    ours.close()


async def test_relay_ends_what_is_idle(pair: tuple[TlsLeg, TlsLeg]) -> None:
    program, ours = tcp_pair()
    with pytest.raises(Idle):
        await asyncio.wait_for(relay(PlainLeg(ours), pair[0], idle_s=0.05), LIMIT_S)
    program.close()
    ours.close()


async def test_a_cut_is_not_passed_on_as_an_end(pair: tuple[TlsLeg, TlsLeg]) -> None:
    program, ours = tcp_pair()
    near, far = pair
    running = asyncio.ensure_future(relay(PlainLeg(ours), near))
    await far.write(b"half of it")
    far.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(Truncated):
        await asyncio.wait_for(running, LIMIT_S)
    PlainLeg(ours).abort()
    here = PlainLeg(program)
    with pytest.raises(ConnectionResetError):
        await all_of(here)
    here.close()
