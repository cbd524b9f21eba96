"""The agent's streams both ways on loopback, against real leaves of a real CA.

program → Outbound → (mTLS) → appliance here          appliance here → (mTLS) → Inbound → service
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.agent import contexts, enrol, inbound, link, outbound
from appliance.agent.inbound import Inbound
from appliance.agent.listen import Listeners
from appliance.agent.outbound import Outbound
from appliance.agent.state import Directory, State
from appliance.agent.strangers import Full, Strangers, source_of
from appliance.agent.tls import PlainLeg, TlsLeg
from appliance.enroll import code
from dataplane.snapshot import Grade, Leaf
from tests.unit.appliance.enroll.fakes import DB, ROOT, Need, Site1, leaf_of, running_site

LIMIT_S = 20
STREAMS, STRANGERS = 8, 4
WEB = "spiffe://a.example/ns/default/sa/web"
FLOW = b"f" * 16
VIP = ip_address("198.19.0.7")


class Counting(Counter[str]):
    """Counters that say when they change."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def __setitem__(self, name: str, value: int) -> None:
        super().__setitem__(name, value)
        self.changed.set()


class Host:
    """An enrolled host: agent parts on ports of their own, a service, and the site."""

    def __init__(self, site: Site1, directory: Directory, state: State) -> None:
        self.site, self.directory, self.state = site, directory, state
        self.counters = Counting()
        self.opened: list[Listeners] = []
        self.refreshed = 0
        self.gains: tuple[int, ...] = ()  # ports that a refresh brings

    async def refresh(self) -> None:
        self.refreshed += 1
        self.use(replace(self.state, ports=(*self.state.ports, *self.gains)))

    def use(self, state: State) -> None:
        self.state = state
        self.inbound.use(state, contexts.server(self.directory, state))
        self.outbound.use(state, contexts.client(self.directory, state))

    def start(self) -> None:
        into = contexts.server(self.directory, self.state)
        self.strangers = Strangers(STRANGERS)
        self.inbound = Inbound(self.state, into, self.counters, self.refresh, self.strangers)
        out = contexts.client(self.directory, self.state)
        self.outbound = Outbound(self.state, out, self.counters)
        self.outbound.target_of = lambda client: (VIP, 80)
        self.port = self.listen(
            "in", self.inbound.serve, streams_max=STREAMS, strangers=self.strangers
        )

    def listen(self, name: str, serve: object, **more: object) -> int:
        """Closed after the test."""
        self.opened.append(Listeners(name, serve, self.counters, **more))
        return self.opened[-1].open("127.0.0.1", 0)

    async def counted(self, name: str) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not self.counters[name]:
                self.counters.changed.clear()
                await self.counters.changed.wait()

    async def leaf_for(self, identity: str, grade: Grade | None) -> Leaf:
        if "/sluice/" not in identity:
            self.site.ca.rules.approve(ROOT, identity, Grade.KEY)
        return await leaf_of(self.site.ca, Need("x", identity, grade))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with running_site(tmp_path / "a") as site:
        directory = Directory(tmp_path / "agent")
        text = code.parse(site.add_host())
        state = await asyncio.to_thread(enrol.join, directory, site.address, text)
        made = Host(site, directory, state)
        made.start()
        yield made
        for listeners in made.opened:
            await listeners.close()


def context_of(leaf: Leaf, host: Host, server: bool, alpn: tuple[str, ...] = link.ALPN):
    kind = ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=host.site.bundle_pem)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    path = host.directory.path / "other.pem"
    path.write_text(leaf.chain_pem + leaf.key_pem)
    context.load_cert_chain(str(path))
    path.unlink()
    return context


async def echo_service() -> tuple[asyncio.Server, int]:
    """Answers what came once the client ended, and its length."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"%d:" % len(data) + data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def dial(host: Host, leaf: Leaf, alpn: tuple[str, ...] = link.ALPN) -> TlsLeg:
    context = context_of(leaf, host, server=False, alpn=alpn)
    leg = TlsLeg(socket.create_connection(("127.0.0.1", host.port)), context, server_side=False)
    await asyncio.wait_for(leg.handshake(), LIMIT_S)
    return leg


def header(port: int) -> bytes:
    source, target = ip_address("198.18.0.9"), ip_address("198.18.0.5")
    return link.encode_header(link.Header(source, 4444, target, port, FLOW))


async def answer(leg: TlsLeg, version: int = 2) -> tuple[link.Reply, bytes]:
    data = b""
    while True:
        more = await asyncio.wait_for(leg.read(), LIMIT_S)
        assert more, "ended without a reply"
        data += more
        found = link.decode_reply(data, version)
        if found is not None:
            return found[0], data[found[1] :]


async def rest(leg: TlsLeg | PlainLeg) -> bytes:
    data = b""
    while more := await asyncio.wait_for(leg.read(), LIMIT_S):
        data += more
    return data


# -- inbound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grade", [Grade.L3, Grade.KEY, None])
async def test_the_appliance_reaches_a_service(host: Host, grade: Grade | None) -> None:
    """With a source's delegated leaf, or (None here) with its own."""
    server, port = await echo_service()
    host.use(replace(host.state, ports=(port,)))
    identity = WEB if grade is not None else host.state.appliance_id
    leg = await dial(host, await host.leaf_for(identity, grade))
    big = b"payload " * 50_000
    await leg.write(header(port) + big)  # need not wait for the reply
    await leg.write_eof()
    reply, data = await answer(leg)
    assert (reply.reason, reply.flow_id) == (link.CONNECTED, FLOW)
    assert data + await rest(leg) == b"%d:" % len(big) + big
    assert host.counters["in_streams"] == 1
    leg.close()
    server.close()


async def test_an_older_link_version_has_no_detail(host: Host) -> None:
    leg = await dial(host, await host.leaf_for(WEB, Grade.L2), alpn=("sluice-l4/1",))
    await leg.write(header(1))
    reply, _ = await answer(leg, version=1)
    assert (reply.reason, reply.detail) == (link.NO_ROUTE, "")
    leg.close()


async def test_only_ports_of_services_and_a_new_one_after_a_refresh(host: Host) -> None:
    server, port = await echo_service()
    leaf = await host.leaf_for(WEB, Grade.L2)
    leg = await dial(host, leaf)
    await leg.write(header(port))
    reply, _ = await answer(leg)
    assert reply.reason == link.NO_ROUTE
    assert f"port {port} is no service" in reply.detail
    assert await rest(leg) == b""  # and a clean end
    leg.close()
    again = await dial(host, leaf)
    await again.write(header(port))
    assert (await answer(again))[0].reason == link.NO_ROUTE
    assert host.refreshed == 1  # asked once, not for every stream
    again.close()
    host.gains = (port,)
    host.inbound._refreshed_at = -1e9
    allowed = await dial(host, leaf)
    await allowed.write(header(port))
    assert (await answer(allowed))[0].reason == link.CONNECTED
    assert host.refreshed == 2
    allowed.close()
    server.close()


async def test_a_service_that_is_down(host: Host) -> None:
    server, port = await echo_service()
    server.close()
    await server.wait_closed()
    host.use(replace(host.state, ports=(port,)))
    leg = await dial(host, await host.leaf_for(WEB, Grade.L2))
    await leg.write(header(port))
    assert (await answer(leg))[0].reason == link.CONNECT_FAILED
    leg.close()


async def refused(host: Host, leg: TlsLeg, data: bytes) -> None:
    """The other end closes without a reply."""

    async def ask() -> None:
        await leg.write(data)
        await rest(leg)

    with pytest.raises((ConnectionError, ssl.SSLError)):
        await ask()
    leg.close()


async def test_another_hosts_own_leaf_is_refused(host: Host) -> None:
    leg = await dial(host, await host.leaf_for(WEB, None))
    await refused(host, leg, header(1))
    await host.counted("in_refused_stranger")
    assert host.refreshed == 0


async def test_no_common_link_version_is_refused(host: Host) -> None:
    for alpn in ((), ("h2",)):
        leg = await dial(host, await host.leaf_for(WEB, Grade.L2), alpn=alpn)
        await refused(host, leg, header(1))
        await host.counted("in_refused_stranger")


async def test_a_foreign_sites_leaf_is_refused(host: Host, tmp_path: Path) -> None:
    async with running_site(tmp_path / "b") as other:  # even with our trust domain's name
        other.ca.rules.approve(ROOT, WEB, Grade.KEY)
        leaf = await leaf_of(other.ca, Need("x", WEB, Grade.L2))
    leg = await dial(host, leaf)
    await refused(host, leg, header(1))
    await host.counted("in_refused_tls")


async def test_no_certificate_and_no_tls_are_refused(host: Host) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(link.ALPN))
    sock = socket.create_connection(("127.0.0.1", host.port))
    leg = TlsLeg(sock, context, server_side=False)
    await asyncio.wait_for(leg.handshake(), LIMIT_S)
    await refused(host, leg, header(1))
    plain = PlainLeg(socket.create_connection(("127.0.0.1", host.port)))
    await plain.write(header(1))
    with pytest.raises(ConnectionError):  # after an alert
        await rest(plain)
    plain.close()


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\r\n\r\n", header(1)[:12] + b"\x20\x00\x00\x00"])
async def test_a_malformed_header_is_answered(host: Host, bad: bytes) -> None:
    leg = await dial(host, await host.leaf_for(WEB, Grade.L2))
    await leg.write(bad)
    assert (await answer(leg))[0].reason == link.BAD_HEADER
    assert host.counters["in_refused_header"] == 1
    leg.close()


async def test_silence_ends(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "HANDSHAKE_S", 0.1)
    plain = PlainLeg(socket.create_connection(("127.0.0.1", host.port)))
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(plain.read(), LIMIT_S)
    assert host.counters["in_timeout"] == 1
    plain.close()


async def is_reset(host: Host, source: str, count: str) -> None:
    leg = PlainLeg(silent(host, source))
    before = host.counters[count]
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(leg.read(), LIMIT_S)
    assert host.counters[count] == before + 1
    leg.close()


def silent(host: Host, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", host.port), source_address=(source, 0))


async def connected(host: Host, leaf: Leaf, port: int) -> TlsLeg:
    leg = await dial(host, leaf)
    await leg.write(header(port))
    assert (await answer(leg))[0].reason == link.CONNECTED
    return leg


async def test_too_many_streams_are_reset_and_counted(host: Host) -> None:
    server, port = await echo_service()
    host.use(replace(host.state, ports=(port,)))
    leaf = await host.leaf_for(WEB, Grade.L2)
    known = [await connected(host, leaf, port) for _ in range(STREAMS)]  # more than strangers
    await is_reset(host, "127.0.0.1", "in_refused_full")
    for leg in known:
        leg.close()
    server.close()


async def test_strangers_leave_room_for_others(host: Host) -> None:
    server, port = await echo_service()
    host.use(replace(host.state, ports=(port,)))
    leaf = await host.leaf_for(WEB, Grade.L2)
    known = await connected(host, leaf, port)
    socks = [silent(host, "127.0.9.1") for _ in range(STRANGERS // 2)]
    await is_reset(host, "127.0.9.1", "in_refused_full_of_strangers_of_a_source")
    (await connected(host, leaf, port)).close()  # from another address
    socks += [silent(host, f"127.0.9.{n}") for n in range(2, 2 + STRANGERS // 2)]
    await is_reset(host, "127.0.9.9", "in_refused_full_of_strangers")
    await known.write(b"still here")
    await known.write_eof()
    assert await rest(known) == b"10:still here"
    for sock in socks:
        sock.close()
    while host.counters["in_reset"] < STRANGERS:
        host.counters.changed.clear()
        await asyncio.wait_for(host.counters.changed.wait(), LIMIT_S)
    (await connected(host, leaf, port)).close()  # there is room again
    known.close()
    server.close()


def test_a_stranger_leaves_once() -> None:
    strangers = Strangers(1)
    one, two = socket.socket(), socket.socket()
    with one, two:
        assert strangers.enter(one, "fe80::1%eth0") is None
        assert strangers.enter(two, "192.0.2.1") is Full.ALL
        strangers.leave(one)
        strangers.leave(one)
        assert strangers.enter(two, "192.0.2.1") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_ipv6_subnet_is_one_source(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


# -- outbound ------------------------------------------------------------------------------------

Serve = Callable[[TlsLeg], Awaitable[None]]


async def mesh_listener(host: Host, leaf: Leaf, serve: Serve) -> int:
    """An appliance's mesh listener, which the agent is told of: its port."""
    context = context_of(leaf, host, server=True)

    async def accepted(sock: socket.socket) -> None:
        leg = TlsLeg(sock, context, server_side=True)
        try:
            await leg.handshake()
            await serve(leg)
        except (OSError, ssl.SSLError):
            pass  # the agent refused us: what such a test is about
        leg.close()

    port = host.listen("mesh", accepted)
    host.use(replace(host.state, mesh=(("127.0.0.1", port),)))
    return port


async def through(host: Host) -> PlainLeg:
    """A program's connection that nftables handed to the agent."""
    port = host.listen("out", host.outbound.serve)
    return PlainLeg(socket.create_connection(("127.0.0.1", port)))


async def read_header(leg: TlsLeg) -> tuple[link.Header, bytes]:
    data = b""
    while True:
        data += await leg.read()
        found = link.decode_header(data)
        if found is not None:
            return found[0], data[found[1] :]


async def test_a_program_reaches_the_mesh(host: Host) -> None:
    seen: list[link.Header] = []

    async def serve(leg: TlsLeg) -> None:
        got, early = await read_header(leg)
        seen.append(got)
        await leg.write(link.encode_reply(link.Reply(link.CONNECTED, got.flow_id), 2) + b"hello ")
        data = early + await rest(leg)
        await leg.write(data.upper())
        await leg.write_eof()
        await rest(leg)

    leaf = await host.leaf_for(host.state.appliance_id, None)
    await mesh_listener(host, leaf, serve)
    program = await through(host)
    await program.write(b"question " * 20_000)
    await program.write_eof()
    assert await rest(program) == b"hello " + b"QUESTION " * 20_000
    assert (seen[0].target, seen[0].target_port) == (VIP, 80)
    assert seen[0].source == ip_address("127.0.0.1")
    assert seen[0].flow_id != bytes(16)
    program.close()


async def test_the_server_may_speak_first(host: Host) -> None:
    async def serve(leg: TlsLeg) -> None:
        got, _ = await read_header(leg)
        await leg.write(link.encode_reply(link.Reply(link.CONNECTED, got.flow_id), 2))
        await leg.write(b"220 ready\r\n")
        await leg.write_eof()
        await rest(leg)

    leaf = await host.leaf_for(host.state.appliance_id, None)
    await mesh_listener(host, leaf, serve)
    program = await through(host)
    assert await rest(program) == b"220 ready\r\n"
    program.close()


def replying(make: Callable[[link.Header], bytes]) -> Serve:
    async def serve(leg: TlsLeg) -> None:
        got, _ = await read_header(leg)
        await leg.write(make(got))
        await leg.write_eof()
        await rest(leg)

    return serve


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (
            lambda h: link.encode_reply(link.Reply(5, h.flow_id, "policy x"), 2),
            "out_refused_denied_by_policy",
        ),
        (lambda h: link.encode_reply(link.Reply(0, b"x" * 16), 2), "out_reset"),
        (lambda h: b"HTTP/1.1 200 OK\r\n\r\n", "out_reset"),
        (lambda h: b"SL", "out_refused_no_reply"),
        (lambda h: b"", "out_refused_no_reply"),
    ],
    ids=["denied", "another-flow", "garbage", "cut", "nothing"],
)
async def test_refusals_become_a_reset(
    host: Host, make: Callable[[link.Header], bytes], count: str
) -> None:
    leaf = await host.leaf_for(host.state.appliance_id, None)
    await mesh_listener(host, leaf, replying(make))
    program = await through(host)
    with pytest.raises(ConnectionResetError):
        await rest(program)
    assert host.counters[count] == 1
    program.close()


@pytest.mark.parametrize(("identity", "grade"), [(WEB, None), (WEB, Grade.KEY)])
async def test_only_the_appliance_is_spoken_to(
    host: Host, identity: str, grade: Grade | None
) -> None:
    heard: list[bytes] = []

    async def serve(leg: TlsLeg) -> None:
        heard.append(await leg.read())

    await mesh_listener(host, await host.leaf_for(identity, grade), serve)
    program = await through(host)
    with pytest.raises(ConnectionResetError):
        await rest(program)
    assert host.counters["out_refused_no_appliance"] == 1
    assert heard == []
    program.close()


async def test_the_next_address_is_tried(host: Host) -> None:
    leaf = await host.leaf_for(host.state.appliance_id, None)
    ok = replying(lambda h: link.encode_reply(link.Reply(0, h.flow_id), 2) + b"ok")
    port = await mesh_listener(host, leaf, ok)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # nobody listens there
        host.use(replace(host.state, mesh=(silent.getsockname(), ("127.0.0.1", port))))
        program = await through(host)
        assert await rest(program) == b"ok"
        program.close()


async def test_what_was_not_intercepted_is_reset(host: Host) -> None:
    host.outbound.target_of = outbound.original_target
    program = await through(host)
    with pytest.raises(ConnectionResetError):
        await rest(program)
    assert sum(host.counters.values()) >= 1
    program.close()


async def test_identity_of_this_host(host: Host) -> None:
    assert host.state.spiffe_id == DB
    assert host.directory.key.stat().st_mode & 0o777 == 0o600
    assert host.directory.path.stat().st_mode & 0o777 == 0o700
