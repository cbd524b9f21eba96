"""The real process, started as the supervisor does, and the daemon's client: traffic, publishes,
drain, hot restart and kill, over loopback and without privileges."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import dns.message
import grpc.aio
import pytest
import pytest_asyncio

from dataplane import snapshot as s
from dataplane.__main__ import NICE
from dataplane._gen import dataplane_pb2 as pb
from dataplane._gen import dataplane_pb2_grpc as rpc
from dataplane.client import (
    Ack,
    Dataplanes,
    ProcessDown,
    ProcessUp,
    PublishRefused,
    PublishUnavailable,
    Report,
)
from dataplane.events import EventKind, FlowEvent, Reason
from dataplane.stats import StatsReport
from tests.unit.dataplane.material import (
    DEADLINE_S,
    KEY,
    ROOT,
    Process,
    Sockets,
    authority,
    endpoint_set,
    run_directory,
    running,
    small,
)

LEAF = authority().leaf("ns/default/sa/db")


@pytest.fixture
def directory() -> Iterator[Path]:
    with run_directory() as path:
        (path / "run").mkdir()
        yield path


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


@contextlib.asynccontextmanager
async def dataplanes(directory: Path) -> AsyncIterator[Dataplanes]:
    client = Dataplanes(directory / "run", KEY)
    task = asyncio.ensure_future(client.run())
    try:
        yield client
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest_asyncio.fixture
async def client(directory: Path) -> AsyncIterator[Dataplanes]:
    async with dataplanes(directory) as client:
        yield client


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a service that says everything again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def routed(version: int, sockets: Sockets, port: int) -> s.Snapshot:
    """The transparent listener's own address is the service's virtual one, so that loopback
    stands for TPROXY."""
    address, listening = sockets.transparent.getsockname()
    base = small(version, (LEAF,))
    service = replace(base.services[0], vips=(IPv4Address(address),), port=listening, policies=())
    endpoint = s.Endpoint("here", s.EndpointKind.PLAIN, IPv4Address("127.0.0.1"), port)
    return replace(
        base,
        own_addresses=(),
        services=(service,),
        inbound=(),
        hosts=(s.Host("me", s.Grade.L2, LEAF.key, address=IPv4Address("127.0.0.1")),),
        sets=(s.EndpointSet(1, "db.default", (endpoint,)),),
    )


async def say(sockets: Sockets, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*sockets.transparent.getsockname())
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):  # a process may have to start first
        answer = await reader.read()
    await shut(writer)
    return answer


async def shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def first(client: Dataplanes, wanted: Callable[[Report], bool]) -> Report:
    async with asyncio.timeout(DEADLINE_S):
        async for report in client.reports():
            if wanted(report):
                return report
    raise AssertionError


async def ask(sockets: Sockets, name: str) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(sockets.dns_udp.getsockname())
        await loop.sock_sendall(sock, dns.message.make_query(name, "A").to_wire())
        return dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(sock, 4096), DEADLINE_S))


async def test_traffic_names_events_and_counters(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets):
        ack = await client.publish(routed(3, sockets, echo))
        assert (ack.version, ack.process) == (3, "dp-1")
        assert await say(sockets, b"x" * 300_000) == b"x" * 300_000
        reply = await ask(sockets, "db.default.mesh")
        assert [str(each) for each in reply.answer[0]] == ["198.19.0.1"]
        event = await first(
            client, lambda r: isinstance(r, FlowEvent) and r.kind == EventKind.CLOSE
        )
        assert isinstance(event, FlowEvent)
        assert event.src_id == LEAF.spiffe_id
        assert event.grade == s.Grade.L2
        assert event.service == "db.default"
        assert event.bytes_up == event.bytes_down == 300_000
        assert event.reason == Reason.NONE
        report = await first(
            client,
            lambda r: (
                isinstance(r, StatsReport)
                and r.counters["streams_closed"] == r.counters["dns_queries_udp"] == 1
            ),
        )
        assert isinstance(report, StatsReport)
        assert report.published == report.applied == 1
        assert sum(report.histograms["connect_ns"].counts) == 1


def threads(pid: int, what: str = "comm") -> dict[int, str]:
    """By number: their names, or what another file of theirs says."""
    found = {}
    for each in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found[int(each.name)] = (each / what).read_text().strip()
    return found


@pytest.mark.parametrize("nicer", [0, NICE + 2], ids=["as it is", "started nice"])
async def test_workers_come_before_all_other_threads(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int, nicer: int
) -> None:
    """Whatever the process began with, which it could not lower as its own user."""
    with running(directory, sockets, nicer=nicer) as process:
        await client.publish(routed(3, sockets, echo))
        here = os.getpriority(os.PRIO_PROCESS, 0) + nicer
        for number, name in threads(process.child.pid).items():
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                nice = os.getpriority(os.PRIO_PROCESS, number)
                assert nice == min(19, here + (0 if name == "dp-worker-0" else NICE)), name
        assert "dp-worker-0" in threads(process.child.pid).values()


async def test_a_denied_stream_says_which_policy(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets):
        value = routed(3, sockets, echo)
        service = replace(value.services[0], policies=("AuthorizationPolicy default/p",))
        await client.publish(replace(value, services=(service,)))
        with pytest.raises(OSError, match=r"\[Errno (104|32|107)\]"):
            await say(sockets, b"x")  # which of them: the reset may come at any step
        event = await first(client, lambda r: isinstance(r, FlowEvent))
        assert isinstance(event, FlowEvent)
        assert (event.kind, event.reason) == (EventKind.REFUSED, Reason.DENIED)
        assert "AuthorizationPolicy default/p" in event.detail


async def test_a_refused_snapshot_leaves_the_one_before(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets):
        await client.publish(routed(3, sockets, echo))
        with pytest.raises(PublishRefused, match="no leaf none"):
            await client.publish(replace(small(4), appliance_leaf="none"))
        with pytest.raises(PublishRefused, match="endpoint set 77"):
            await client.publish_set(endpoint_set(77, 1))
        assert await say(sockets, b"still") == b"still"
        assert (await client.publish(routed(5, sockets, echo))).version == 5


async def test_another_key_publishes_nothing(directory: Path, sockets: Sockets) -> None:
    with running(directory, sockets):
        client = Dataplanes(directory / "run", bytes(32))
        task = asyncio.ensure_future(client.run())
        with pytest.raises(PublishRefused, match="not signed"):
            await client.publish(small(1))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_without_a_process_publishing_says_so_and_the_next_one_gets_it(
    directory: Path, sockets: Sockets, client: Dataplanes
) -> None:
    with pytest.raises(PublishUnavailable):
        await client.publish_set(endpoint_set(1, 1), timeout_s=0.1)
    with pytest.raises(PublishUnavailable):
        await client.publish(small(8), timeout_s=0.1)
    (directory / "run" / "dp-0.sock").touch()  # left behind by somebody
    (directory / "run" / "dp-x.sock").touch()
    with running(directory, sockets):
        up = await first(client, lambda r: isinstance(r, ProcessUp))
        assert up == ProcessUp("dp-1", 0)
        ack = await client.publish_set(endpoint_set(1, 2))
        assert (ack.version, ack.process) == (8, "dp-1")


async def test_a_stream_lives_through_a_hot_restart_and_none_is_refused(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets, drain_s=DEADLINE_S) as old:
        await client.publish(routed(3, sockets, echo))
        await client.publish_set(routed(3, sockets, echo).sets[0])
        reader, writer = await asyncio.open_connection(*sockets.transparent.getsockname())
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        failed: list[BaseException] = []
        done = asyncio.Event()
        count = 0

        async def load() -> None:
            nonlocal count
            while not done.is_set():
                try:
                    assert await say(sockets, b"y" * 100) == b"y" * 100
                    count += 1
                except (OSError, AssertionError, TimeoutError) as error:
                    failed.append(error)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(load())
            with contextlib.ExitStack() as stack:
                new = stack.enter_context(contextlib.closing(Process(directory, sockets, 2)))
                await asyncio.to_thread(new.wait_ready)
                old.signal(signal.SIGTERM)
                up = await first(client, lambda r: r == ProcessUp("dp-2", 3))
                assert isinstance(up, ProcessUp)
                before = count
                async with asyncio.timeout(DEADLINE_S):
                    while count < before + 50:  # noqa: ASYNC110 - a plain counter
                        await asyncio.sleep(0.01)
                # Both get what is published, the one that drains too.
                assert (await client.publish(routed(4, sockets, echo))).process == "dp-2"
                done.set()
                await asyncio.sleep(0)
                writer.write(b"after")
                assert await reader.readexactly(5) == b"after"
                await shut(writer)
                assert await asyncio.to_thread(old.wait) == 0
                down = await first(client, lambda r: isinstance(r, ProcessDown))
                assert down == ProcessDown("dp-1")
                assert await say(sockets, b"new") == b"new"
                new.signal(signal.SIGTERM)
                assert await asyncio.to_thread(new.wait) == 0
        assert failed == []


async def test_after_a_kill_connections_wait_and_the_next_serves_from_disk(
    directory: Path, sockets: Sockets, echo: int
) -> None:
    async with dataplanes(directory) as client:
        with running(directory, sockets) as old:
            await client.publish(routed(3, sockets, echo))
            old.signal(signal.SIGKILL)
            await asyncio.to_thread(old.wait)
    waiting = asyncio.ensure_future(say(sockets, b"patience"))
    with running(directory, sockets, generation=2):  # and no daemon
        assert await waiting == b"patience"
        assert (await ask(sockets, "db.default.mesh")).answer


async def test_a_killed_process_misses_nothing_that_was_published(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets) as old:
        await client.publish(routed(3, sockets, 1))  # nobody listens there
        await client.publish_set(routed(3, sockets, echo).sets[0])
        old.signal(signal.SIGKILL)
        await asyncio.to_thread(old.wait)
        publishing: asyncio.Future[Ack] = asyncio.ensure_future(
            client.publish_set(routed(3, sockets, echo).sets[0], timeout_s=DEADLINE_S)
        )
        with running(directory, sockets, generation=2):
            assert (await publishing).process == "dp-2"
            assert await say(sockets, b"set") == b"set"


async def test_the_drain_deadline_ends_what_is_left(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int
) -> None:
    with running(directory, sockets, drain_s=0.2) as process:
        await client.publish(routed(3, sockets, echo))
        reader, writer = await asyncio.open_connection(*sockets.transparent.getsockname())
        writer.write(b"hold")
        assert await reader.readexactly(4) == b"hold"
        process.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await shut(writer)
        event = await first(
            client, lambda r: isinstance(r, FlowEvent) and r.kind == EventKind.CLOSE
        )
        assert isinstance(event, FlowEvent)
        assert event.reason == Reason.DRAIN


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(
    directory: Path, sockets: Sockets, client: Dataplanes, echo: int, second: signal.Signals
) -> None:
    with running(directory, sockets, drain_s=600) as process:
        await client.publish(routed(3, sockets, echo))
        reader, writer = await asyncio.open_connection(*sockets.transparent.getsockname())
        writer.write(b"hold")
        assert await reader.readexactly(4) == b"hold"
        process.signal(signal.SIGTERM)
        await first(client, lambda r: isinstance(r, StatsReport) and r.draining)
        process.signal(second)
        assert await asyncio.to_thread(process.wait) == 0
        await shut(writer)


async def test_ticket_keys_are_read_again(directory: Path, sockets: Sockets) -> None:
    async with dataplanes(directory) as client:
        with running(directory, sockets) as process:
            os.ftruncate(sockets.tickets, 7)
            process.signal(signal.SIGHUP)
            await client.publish(small(1))  # it lives
            async with asyncio.timeout(DEADLINE_S):
                while "ticket keys stay" not in process.log.read_text():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            os.pwrite(sockets.tickets, os.urandom(240), 0)
            process.signal(signal.SIGHUP)
            await client.publish(small(2))
            assert process.log.read_text().count("ticket keys stay") == 1


def test_the_process_is_in_its_sandbox(directory: Path, sockets: Sockets) -> None:
    with running(directory, sockets) as process:
        statuses = threads(process.child.pid, "status").values()
        assert len(statuses) > 1
        for status in statuses:
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
        assert process.socket.stat().st_mode & 0o777 == 0o660
        assert resource.prlimit(process.child.pid, resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize(
    ("fds", "says"),
    [
        ("", "publish-key"),
        ("mesh4=nonsense", "mesh4"),
        ("mesh4=999", "999"),
    ],
)
def test_a_bad_start_is_one_line(directory: Path, fds: str, says: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "dataplane", "--state", directory, "--socket", directory / "s"],
        cwd=ROOT,
        env={"SLUICE_FDS": fds},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert says in line


async def test_lost_links_are_told_to_who_is_there_and_who_is_found_later(
    directory: Path, sockets: Sockets, client: Dataplanes
) -> None:
    def counted(lost: int) -> Callable[[Report], bool]:
        return lambda r: isinstance(r, StatsReport) and r.counters["links_lost"] == lost

    await client.lose_links([IPv4Address("198.18.0.1")], 1)
    with running(directory, sockets):
        await first(client, counted(1))
        await client.lose_links(map(IPv4Address, range(1, 100)), 2)  # in two messages
        await first(client, counted(3))


class Older(rpc.DataplaneServicer):
    """A process of a version that knows nothing of lost links."""

    async def Watch(self, request: pb.WatchRequest, context: object) -> AsyncIterator[pb.Report]:
        yield pb.Report(hello=pb.Hello())
        yield pb.Report(stats=pb.Stats(published=7))
        await asyncio.Event().wait()

    async def Publish(self, request: pb.Sealed, context: object) -> pb.Ack:
        return pb.Ack(accepted=True, version=1, process="dp-1")


async def test_who_cannot_be_told_of_lost_links_is_served_all_the_same(
    directory: Path, client: Dataplanes, caplog: pytest.LogCaptureFixture
) -> None:
    await client.lose_links([IPv4Address("198.18.0.1")], 1)
    server = grpc.aio.server()
    rpc.add_DataplaneServicer_to_server(Older(), server)
    server.add_insecure_port(f"unix:{directory}/run/dp-1.sock")
    await server.start()
    try:
        assert (await client.publish(small(1))).version == 1
        await first(client, lambda report: isinstance(report, StatsReport))  # still watched
        assert "LoseLinks: UNIMPLEMENTED" in caplog.text
    finally:
        await server.stop(None)
