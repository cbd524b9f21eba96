"""Receives snapshots, has them built, handed to the workers and kept on disk, and answers.

Owns the order of these steps and what runs now. Native work is binding's, disk work slots', gRPC
service's. One publish at a time; building happens in one thread beside the event loop, so that
DNS goes on being answered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from dataplane import binding, dns, seal, wire
from dataplane.slots import Slots
from dataplane.snapshot import Address, Name, Snapshot

log = logging.getLogger(__name__)
T = TypeVar("T")

APPLY_SECONDS_MAX = 5.0
APPLY_POLL_SECONDS = 0.0005
UNSIGNED = "not signed with the publish key of this site: restart the daemon with the supervisor"

COUNTERS = (
    "publishes_accepted",
    "publishes_refused_mac",
    "publishes_refused_content",
    "publishes_refused_version",
    "sets_accepted",
    "sets_refused",
    "links_lost",
    "links_refused",
    "slots_written",
    "slots_failed",
    "slots_behind_now",  # 1 = what runs is not on disk
    "applies_late",
    "bundles_left_out",  # peers', that cannot be read
)


@dataclass(frozen=True, slots=True)
class Answer:
    """To a publish. version: of the snapshot that runs now; reason: "" when accepted."""

    accepted: bool
    version: int
    reason: str
    applied_ms: float


@dataclass(frozen=True, slots=True)
class _Running:
    version: int = 0
    mac: bytes = b""
    sequence: int = 0  # of the last update of a single set
    sequence_mac: bytes = b""
    applied_ms: float = 0.0  # of the last publish of either kind


_Names = tuple[tuple[str, ...], tuple[Name, ...], tuple[Address, ...]]


@dataclass(frozen=True, slots=True)
class _Built:
    version: int
    native: binding.NativeSnapshot
    zone: dns.Zone


class Refused(Exception):
    """A publish is not good; counter says which kind."""

    def __init__(self, counter: str, reason: str) -> None:
        super().__init__(reason)
        self.counter = counter


class Host:
    """Everything between a sealed message and workers that run it."""

    def __init__(self, engine: binding.Engine, slots: Slots, key: bytes) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.zone: dns.Zone | None = None
        self._named: tuple[dns.Zone, _Names] = dns.Zone(), ((), (), ())  # made last, and of what
        self._engine = engine
        self._slots = slots
        self._key = key
        self._certificates = binding.Certificates()
        self._running = _Running()
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="build")
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="slots")

    @property
    def version(self) -> int:
        """Of the snapshot that runs; 0 = none yet."""
        return self._running.version

    async def load(self) -> None:
        """Runs the newest kept snapshot that is good, without its expired leaves."""
        async with self._lock:
            for kept in await self._in(self._disk, lambda: list(self._slots.load())):
                try:
                    built = await self._in(self._thread, partial(self._build, kept.body, True))
                    self._run(built, kept.mac)
                except Refused as refused:
                    log.warning("kept snapshot %d cannot be used: %s", kept.version, refused)
                    continue
                log.info("serving snapshot %d from disk", kept.version)
                return

    async def publish(self, body: bytes, mac: bytes) -> Answer:
        """Replaces everything. Never raises for what is in the message."""
        async with self._lock:
            return await self._answer(partial(self._publish, body, mac), "publishes_accepted")

    async def publish_set(self, body: bytes, mac: bytes) -> Answer:
        """Replaces one endpoint set. Never raises for what is in the message."""
        async with self._lock:
            return await self._answer(partial(self._publish_set, body, mac), "sets_accepted")

    async def lose_links(self, body: bytes, mac: bytes) -> Answer:
        """Links are lost. Never raises for what is in the message."""
        async with self._lock:
            return await self._answer(partial(self._lose_links, body, mac), "links_lost")

    def close(self) -> None:
        """Waits for the threads; call it after the engine stopped."""
        self._thread.shutdown()
        self._disk.shutdown()
        self._slots.close()

    async def _answer(self, work: Callable[[], Awaitable[float]], counter: str) -> Answer:
        applied_ms, reason = 0.0, ""
        try:
            applied_ms = await work()
        except Refused as refused:
            counter = refused.counter
            reason = " ".join(str(refused).split())
            log.warning("refused: %s", reason)
        self.counters[counter] += 1
        return Answer(not reason, self.version, reason, applied_ms)

    async def _publish(self, body: bytes, mac: bytes) -> float:
        start = time.monotonic()
        if not await self._in(self._thread, partial(seal.verify, self._key, "snapshot", body, mac)):
            raise Refused("publishes_refused_mac", UNSIGNED)
        if mac == self._running.mac:
            return self._running.applied_ms  # it runs already; said again
        built = await self._in(self._thread, partial(self._build, body, False))
        sequence = self._run(built, mac)
        kept = self._in(self._disk, partial(self._keep, built.version, body, mac))
        _, applied_ms = await asyncio.gather(kept, self._applied(sequence, start))
        await self._in(self._thread, self._engine.collect)
        return applied_ms

    async def _publish_set(self, body: bytes, mac: bytes) -> float:
        start = time.monotonic()
        if not seal.verify(self._key, "set", body, mac):
            raise Refused("sets_refused", UNSIGNED)
        if mac == self._running.sequence_mac:
            return self._running.applied_ms
        try:
            update = wire.decode_set_update(body)
            if update.snapshot_version != self._running.version:
                raise Refused(
                    "sets_refused",
                    f"endpoint set {update.set.id} belongs to snapshot {update.snapshot_version}, "
                    f"but {self._running.version} runs",
                )
            if update.sequence <= self._running.sequence:
                raise Refused("sets_refused", f"update {update.sequence} comes too late")
            sequence = self._engine.publish_set(binding.build_set(update.set))
        except (wire.WireError, binding.Rejected, binding.NativeError) as error:
            raise Refused("sets_refused", str(error)) from error
        self._running = replace(self._running, sequence=update.sequence, sequence_mac=mac)
        return await self._applied(sequence, start)

    async def _lose_links(self, body: bytes, mac: bytes) -> float:
        start = time.monotonic()
        if not seal.verify(self._key, "lost", body, mac):
            raise Refused("links_refused", UNSIGNED)
        try:
            lost = wire.decode_lost_links(body)
            sequence = self._engine.lose_links(lost.addresses, lost.seen_ns)
        except (wire.WireError, binding.NativeError) as error:
            raise Refused("links_refused", str(error)) from error
        return await self._applied(sequence, start)

    def _build(self, body: bytes, at_start: bool) -> _Built:
        """In the thread."""
        try:
            snapshot = wire.decode_snapshot(body)
            if snapshot.version <= self._running.version:
                raise Refused(
                    "publishes_refused_version",
                    f"snapshot {snapshot.version} is not newer than {self._running.version}, "
                    "which runs",
                )
            if at_start:
                expired = binding.expired_leaves(self._certificates, snapshot.leaves, time.time())
                snapshot = without_leaves(snapshot, expired)
            native = binding.build(snapshot, self._certificates)
            for why in native.left_out:
                self.counters["bundles_left_out"] += 1
                log.warning("%s: no connection of this peer is good until it is", why)
            return _Built(snapshot.version, native, self._zone_of(snapshot))
        except (ValueError, binding.NativeError) as error:
            raise Refused("publishes_refused_content", str(error)) from error

    def _zone_of(self, snapshot: Snapshot) -> dns.Zone:
        """The one that was made last, when its names are the same."""
        now, named = self._named
        key = snapshot.zones, snapshot.names, snapshot.own_addresses
        if named != key:
            now, named = dns.zone(snapshot), key
            self._named = now, named
        return now

    def _run(self, built: _Built, mac: bytes) -> int:
        """The commit: once the engine has it, nothing that follows may fail. Returns its
        sequence."""
        try:
            sequence = self._engine.publish(built.native)
        except binding.NativeError as error:
            raise Refused("publishes_refused_content", str(error)) from error
        if not self._engine.started:
            self._engine.start()
        self._certificates.keep(built.native)
        self._running = _Running(built.version, mac)
        self.zone = built.zone
        return sequence

    async def _applied(self, sequence: int, start: float) -> float:
        """Milliseconds from start until every worker runs it."""
        deadline = time.monotonic() + APPLY_SECONDS_MAX
        while self._engine.applied < sequence:
            if time.monotonic() > deadline:
                # It is handed over and will run; but somebody should know.
                self.counters["applies_late"] += 1
                log.error(
                    "a worker has not taken publish %d within %.0f s", sequence, APPLY_SECONDS_MAX
                )
                break
            await asyncio.sleep(APPLY_POLL_SECONDS)
        applied_ms = (time.monotonic() - start) * 1000
        self._running = replace(self._running, applied_ms=applied_ms)
        return applied_ms

    def _keep(self, version: int, body: bytes, mac: bytes) -> None:
        """On the disk's thread. It runs already: that it is not kept is counted and said."""
        try:
            if self._slots.write(version, body, mac):
                self.counters["slots_written"] += 1
            self.counters["slots_behind_now"] = 0
        except OSError as error:
            self.counters["slots_failed"] += 1
            self.counters["slots_behind_now"] = 1
            log.error("snapshot %d is not kept on disk: %s", version, error.strerror)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


def without_leaves(snapshot: Snapshot, keys: AbstractSet[str]) -> Snapshot:
    """The same, but what those leaves stood for has no identity in use."""
    if not keys:
        return snapshot
    appliance = snapshot.appliance_leaf
    return replace(
        snapshot,
        appliance_leaf=None if appliance in keys else appliance,
        leaves=tuple(leaf for leaf in snapshot.leaves if leaf.key not in keys),
        hosts=tuple(replace(h, leaf=None) if h.leaf in keys else h for h in snapshot.hosts),
        services=tuple(replace(s, leaf=None) if s.leaf in keys else s for s in snapshot.services),
    )
