"""What the daemon uses: every data plane process that lives, serving or draining.

Finds processes by their sockets, gives each newcomer what was published last, and brings back
what they report. Owns connections and the wanted state; compiles nothing and loads no native code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from dataplane import events, seal, stats, wire
from dataplane._gen import dataplane_pb2 as pb
from dataplane._gen import dataplane_pb2_grpc as rpc
from dataplane.events import FlowEvent
from dataplane.snapshot import Address, EndpointSet, Snapshot
from dataplane.stats import StatsReport

log = logging.getLogger(__name__)

SCAN_SECONDS = 0.1
PROCESSES_MAX = 8
LOSSES_MAX = 64  # of links, that a newcomer to us is told of
DRAINING_SECONDS_MAX = 2.0  # to wait for the answer of a process that is not the newest
REPORTS_MAX = 8_192  # waiting for the daemon to read them
OPTIONS = [
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", wire.BODY_BYTES_MAX + 4096),
    ("grpc.use_local_subchannel_pool", 1),
]
_SOCKET = re.compile(r"dp-([0-9]{1,9})\.sock")


class PublishRefused(Exception):
    """The data plane says why not; the snapshot before stays in force."""


class PublishUnavailable(Exception):
    """No process answered in time; the snapshot stays wanted and the next process gets it."""


@dataclass(frozen=True, slots=True)
class Ack:
    version: int
    applied_ms: float  # from receipt until every worker ran it
    process: str


@dataclass(frozen=True, slots=True)
class ProcessUp:
    process: str
    version: int  # of the snapshot that it runs already; 0 = none


@dataclass(frozen=True, slots=True)
class ProcessDown:
    process: str


Report = FlowEvent | StatsReport | ProcessUp | ProcessDown


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What every process should run: a snapshot and the later state of some of its sets."""

    version: int
    snapshot: pb.Sealed
    sets: dict[int, pb.Sealed] = field(default_factory=dict)
    sequence: int = 0


class _Process:
    """One connected process; its calls are made one after the other."""

    def __init__(self, generation: int, channel: grpc.aio.Channel) -> None:
        self.generation = generation
        self.name = f"dp-{generation}"
        self.stub = rpc.DataplaneStub(channel)
        self.lock = asyncio.Lock()
        self.gone = False


class Dataplanes:
    """run() must be running for anything to happen."""

    def __init__(self, directory: Path, key: bytes) -> None:
        seal.mac(key, "snapshot", b"")  # a key of the wrong size is said now
        self.reports_dropped = 0
        self._directory = directory
        self._key = key
        self._wanted: _Wanted | None = None
        self._losses: deque[pb.Sealed] = deque(maxlen=LOSSES_MAX)
        self._processes: dict[int, _Process] = {}
        self._changed = asyncio.Condition()
        self._publishing = asyncio.Lock()
        self._reports: asyncio.Queue[Report] = asyncio.Queue(REPORTS_MAX)

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of those connected, oldest first."""
        return tuple(self._processes[each].name for each in sorted(self._processes))

    async def run(self) -> None:
        """Finds processes, serves each until it is gone. Never returns; cancel it."""
        known: dict[str, asyncio.Task[None]] = {}
        dead: dict[str, int] = {}  # sockets that nobody listens on, by inode
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name, inode in self._sockets():
                    if name in known and not known[name].done():
                        continue
                    if dead.get(name) == inode or len(self._processes) >= PROCESSES_MAX:
                        continue
                    if not await self._listens(name):
                        dead[name] = inode
                        continue
                    known[name] = tasks.create_task(self._serve(name), name=name)
                known = {name: task for name, task in known.items() if not task.done()}
                await asyncio.sleep(SCAN_SECONDS)

    async def publish(self, snapshot: Snapshot, timeout_s: float = 10) -> Ack:
        """To every process. Returns the answer of the newest; what an older one, which drains,
        says is only logged. Raises PublishRefused, PublishUnavailable, ValueError (a number or
        an address that cannot be sent)."""
        body = await asyncio.to_thread(wire.encode_snapshot, snapshot)
        if len(body) > wire.BODY_BYTES_MAX:
            raise PublishRefused(
                f"the snapshot has {len(body)} bytes: at most {wire.BODY_BYTES_MAX} can be sent"
            )
        sealed = pb.Sealed(body=body, mac=seal.mac(self._key, "snapshot", body))
        async with self._publishing:
            before = self._wanted
            self._wanted = _Wanted(snapshot.version, sealed)
            try:
                return await self._to_all("Publish", sealed, timeout_s)
            except PublishRefused:
                self._wanted = before
                raise

    async def publish_set(self, set: EndpointSet, timeout_s: float = 10) -> Ack:
        """Replaces one set of the snapshot published last. Raises as publish does."""
        async with self._publishing:
            before = self._wanted
            if before is None:
                raise PublishUnavailable("no snapshot was published yet: publish one first")
            sequence = before.sequence + 1
            body = wire.encode_set_update(wire.SetUpdate(before.version, sequence, set))
            sealed = pb.Sealed(body=body, mac=seal.mac(self._key, "set", body))
            # In the order of their sequence, as a newcomer has to get them.
            sets = {id: each for id, each in before.sets.items() if id != set.id}
            sets[set.id] = sealed
            self._wanted = _Wanted(before.version, before.snapshot, sets, sequence)
            try:
                return await self._to_all("PublishSet", sealed, timeout_s)
            except PublishRefused:
                self._wanted = _Wanted(before.version, before.snapshot, before.sets, sequence)
                raise

    async def lose_links(self, addresses: Iterable[Address], seen_ns: int) -> None:
        """Says to every process, also to those that are found later, that the links of these local
        addresses were lost, as was seen at seen_ns of the monotonic clock. Who does not take it in
        time is logged."""
        given = tuple(addresses)
        deadline = time.monotonic() + DRAINING_SECONDS_MAX
        for start in range(0, len(given), wire.LOST_MAX):
            part = wire.LostLinks(given[start : start + wire.LOST_MAX], seen_ns)
            body = wire.encode_lost_links(part)
            sealed = pb.Sealed(body=body, mac=seal.mac(self._key, "lost", body))
            self._losses.append(sealed)
            processes = tuple(self._processes.values())
            await asyncio.gather(
                *(self._call(each, "LoseLinks", sealed, deadline) for each in processes)
            )

    async def reports(self) -> AsyncIterator[Report]:
        """What processes report, for one reader. What it does not read in time is dropped and
        counted in reports_dropped."""
        while True:
            yield await self._reports.get()

    # ------------------------------------------------------------------------ publishing

    async def _to_all(self, method: str, sealed: pb.Sealed, timeout_s: float) -> Ack:
        deadline = time.monotonic() + timeout_s
        while True:
            newest = await self._newest(deadline)
            soon = min(deadline, time.monotonic() + DRAINING_SECONDS_MAX)
            others = [each for each in self._processes.values() if each is not newest]
            answer, *_ = await asyncio.gather(
                self._call(newest, method, sealed, deadline),
                *(self._call(each, method, sealed, soon) for each in others),
            )
            if answer is None:  # it died: its successor, until the deadline
                await self._change(min(deadline, time.monotonic() + SCAN_SECONDS))
                continue
            if not answer.accepted:
                raise PublishRefused(answer.reason)
            return Ack(answer.version, answer.applied_ms, answer.process)

    async def _newest(self, deadline: float) -> _Process:
        while not self._processes and time.monotonic() < deadline:
            await self._change(deadline)
        if not self._processes or time.monotonic() >= deadline:
            raise PublishUnavailable("no data plane process answers: `sluice status` shows why")
        return self._processes[max(self._processes)]

    async def _change(self, deadline: float) -> None:
        """Until processes came or went, or the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._changed:
                await self._changed.wait()

    async def _call(
        self, process: _Process, method: str, sealed: pb.Sealed, deadline: float
    ) -> pb.Ack | None:
        """None = no answer. What an old process refuses is logged."""
        async with process.lock:
            left = deadline - time.monotonic()
            if left <= 0 or process.gone:
                return None
            try:
                answer: pb.Ack = await getattr(process.stub, method)(sealed, timeout=left)
            except grpc.aio.AioRpcError as error:
                log.warning("%s: %s: %s", process.name, method, error.code().name)
                return None
        if not answer.accepted:
            log.warning("%s refused: %s", process.name, answer.reason)
        return answer

    # --------------------------------------------------------------------------- processes

    def _sockets(self) -> list[tuple[str, int]]:
        """Names and inodes, oldest generation first."""
        try:
            with os.scandir(self._directory) as entries:
                found = [
                    (int(match[1]), each.name, each.inode())
                    for each in entries
                    if (match := _SOCKET.fullmatch(each.name))
                ]
        except FileNotFoundError:
            return []
        return [(name, inode) for _, name, inode in sorted(found)]

    async def _listens(self, name: str) -> bool:
        """Tells a live process from a socket that one left behind."""
        try:
            _, writer = await asyncio.open_unix_connection(self._directory / name)
        except OSError:
            return False
        writer.close()
        return True

    async def _serve(self, name: str) -> None:
        """One process, from the first connection until it is gone."""
        generation = int(name.removeprefix("dp-").removesuffix(".sock"))
        async with grpc.aio.insecure_channel(
            f"unix:{self._directory / name}", options=OPTIONS
        ) as channel:
            process = _Process(generation, channel)
            try:
                await self._watch(process)
            except grpc.aio.AioRpcError as error:
                log.info("%s: %s", process.name, error.code().name)
            except events.EventError as error:
                log.error("%s: %s", process.name, error)
            finally:
                await self._forget(process)
            async with process.lock:  # a call under way ends with its own error, not by our close
                pass

    async def _watch(self, process: _Process) -> None:
        bounds: tuple[int, ...] = ()
        async for report in process.stub.Watch(pb.WatchRequest()):
            kind = report.WhichOneof("report")
            if kind == "hello":
                bounds = tuple(report.hello.histogram_bounds)
                await self._welcome(process, report.hello.version)
            elif kind == "stats":
                self._put(stats.decode(report.stats, process.name, bounds))
            elif kind == "events":
                for event in events.decode(report.events, process.name):
                    self._put(event)

    async def _welcome(self, process: _Process, version: int) -> None:
        """Brings it to the wanted state before publishes go to it."""
        async with process.lock:
            async with self._changed:
                self._processes[process.generation] = process
                self._changed.notify_all()
            self._put(ProcessUp(process.name, version))
            wanted, losses = self._wanted, tuple(self._losses)
            if wanted is not None:
                answer = await process.stub.Publish(wanted.snapshot, timeout=10)
                for each in wanted.sets.values():
                    if not answer.accepted:
                        break
                    answer = await process.stub.PublishSet(each, timeout=10)
                if not answer.accepted:
                    log.warning("%s refused: %s", process.name, answer.reason)
        deadline = time.monotonic() + DRAINING_SECONDS_MAX
        for each in losses:
            if await self._call(process, "LoseLinks", each, deadline) is None:
                break  # it is logged

    async def _forget(self, process: _Process) -> None:
        process.gone = True
        async with self._changed:
            if self._processes.get(process.generation) is process:
                del self._processes[process.generation]
                self._changed.notify_all()
                self._put(ProcessDown(process.name))

    def _put(self, report: Report) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._reports.put_nowait(report)
            return
        self.reports_dropped += 1
