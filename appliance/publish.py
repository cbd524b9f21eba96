"""Brings what is wanted to the data plane: documents and registry in, snapshots out.

Owns the current model and the order allocate → leaves → compile → publish. One publish at a time;
what changes meanwhile goes with the next. A change of endpoints alone swaps their sets and
compiles nothing else. Decides nothing about documents (apply.py) and keeps nothing (registry/).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from appliance.compile import (
    LeafNeed,
    Mesh,
    allocations,
    compile,
    endpoint_sets,
    leaf_needs,
)
from appliance.config.model import Model
from appliance.errors import ApplianceError, Conflict, Unavailable
from appliance.leaves import Leaves
from appliance.registry.allocations import Allocator
from appliance.registry.model import Registry
from appliance.registry.store import Store
from appliance.registry.view import RegistryView
from appliance.site import Site
from appliance.stopwatch import Stopwatch
from appliance.tasks import woken
from dataplane.client import Ack, PublishRefused, PublishUnavailable
from dataplane.snapshot import EndpointSet, Snapshot

log = logging.getLogger(__name__)

SETS_AT_ONCE_MAX = 64  # more changed sets than this: one whole snapshot is less work
RETRY_S = 5.0
_VERSION = "snapshot version"


class Target(Protocol):
    """The data plane processes; dataplane.client.Dataplanes."""

    async def publish(self, snapshot: Snapshot, timeout_s: float = 10) -> Ack: ...

    async def publish_set(self, set: EndpointSet, timeout_s: float = 10) -> Ack: ...


@dataclass(frozen=True, slots=True)
class Published:
    """What the data plane runs, as far as we know."""

    mesh: Mesh = field(repr=False)  # with the allocations it was compiled with
    snapshot: Snapshot = field(repr=False)  # the last whole one
    applied_ms: float

    @property
    def model(self) -> Model:
        return self.mesh.model

    @property
    def registry(self) -> Registry:
        return self.mesh.registry

    @property
    def version(self) -> int:
        return self.snapshot.version


@dataclass(frozen=True, slots=True)
class Plan:
    """What a publish takes."""

    mesh: Mesh  # with its allocations
    needs: tuple[LeafNeed, ...]
    guests: frozenset[str]  # services that only peers offer


class Publisher:
    def __init__(
        self,
        site: Site,
        store: Store,
        view: RegistryView,
        allocator: Allocator,
        leaves: Leaves,
        target: Target,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site, self._store, self._view = site, store, view
        self._allocator, self._leaves, self._target = allocator, leaves, target
        self._clock = clock
        self.model = Model()  # wanted
        self.published: Published | None = None
        self.problem = ""  # why the last publish failed; "" = it did not
        self.without_address = 0  # services of peers alone for which no virtual address is left
        self.publishes = 0
        self.failures = 0
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._all = False  # a whole snapshot is due
        self._services: set[str] = set()  # whose sets are due
        self._listeners: list[Callable[[Published], None]] = []
        view.listen(self.touch)

    def listen(self, listener: Callable[[Published], None]) -> None:
        """listener is told after each publish that was accepted."""
        self._listeners.append(listener)

    def touch(self, services: frozenset[str] | None = None) -> None:
        """Something changed; None = anything, else endpoints of these services only."""
        if services is None:
            self._all = True
        else:
            self._services |= services
        self._wake.set()

    @property
    def settled(self) -> bool:
        """The data plane runs all that was touched so far."""
        due = self._all or self._services or self._lock.locked()
        return not due and not self.problem

    @property
    def version(self) -> int:
        """Of the last snapshot that was sent."""
        return int(self._store.get(_VERSION, "0"))

    def seen(self, version: int) -> None:
        """A data plane process runs this version: after a restored backup it may be above ours."""
        if version > self.version:
            self._store.put(_VERSION, str(version))
            self.touch()

    async def run(self) -> None:
        """Publishes what was touched. Never returns."""
        while True:
            await woken(self._wake, RETRY_S if self.problem else None)
            await self.settle()

    async def settle(self) -> None:
        """Publishes now what was touched so far; problems are logged and kept in `problem`."""
        async with self._lock:
            self._wake.clear()
            services, self._services = self._services, set()
            everything, self._all = self._all, False
            try:
                if everything or (services and self.published is None):
                    await self._publish(await self.mesh(self.model), strict=False)
                elif services:
                    await self._publish_sets(services)
            except ApplianceError as error:
                self._all = True  # also what sets have missed; `run` tries again
                if str(error) != self.problem:
                    log.error("not published: %s", error)
                self.problem = str(error)
                self.failures += 1
            except BaseException:
                self._all = True
                raise

    async def mesh(self, model: Model) -> Mesh:
        """The model with the registry as it is now."""
        return await asyncio.to_thread(Mesh.of, model, self._view.now, self._site)

    async def replace(self, mesh: Mesh) -> Published:
        """Publishes its model; it is the wanted one from now on if, and only if, this returns.

        Raises Conflict (the data plane refused it), Unavailable, Denied, LimitReached.
        """
        async with self._lock:
            if mesh.registry is not self._view.now:
                mesh = await self.mesh(mesh.model)
            try:
                published = await self._publish(mesh, strict=True)
            except BaseException:
                self.touch()  # a newcomer shall get the old one
                raise
            self.model = mesh.model
            return published

    def wanted(self, model: Model) -> None:
        """model is the wanted one, whatever the data plane says to it."""
        self.model = model
        self.touch()

    async def plan(self, mesh: Mesh, *, keep: bool = False) -> Plan:
        """keep=False changes nothing."""
        need = await asyncio.to_thread(allocations, mesh)
        given = self._allocator.ensure(
            need.vip_keys,
            need.set_keys,
            frozenset(need.reserved),
            int(self._clock()),
            keep=keep,
            guests=need.guests,
        )
        registry = replace(mesh.registry, vips=given.vips, sets=given.sets)
        mesh = await asyncio.to_thread(mesh.allocated, registry)
        return Plan(mesh, await asyncio.to_thread(leaf_needs, mesh), need.guests)

    async def _publish(self, mesh: Mesh, *, strict: bool) -> Published:
        watch = Stopwatch()
        plan = await self.plan(mesh, keep=True)
        given = plan.mesh.registry
        without = sum(not given.vips[key] for key in plan.guests)
        if without > self.without_address:
            log.warning(
                "%d services of peers have no virtual address, for their half of the range is used "
                "up: set a larger vip range in the Site document",
                without,
            )
        self.without_address = without
        watch.lap("allocated")
        leaves = await self._leaves.ensure(plan.needs, strict=strict)
        version = self._store.next_number(_VERSION)
        watch.lap("leaves")
        snapshot = await asyncio.to_thread(compile, plan.mesh, leaves, version)
        watch.lap("compiled")
        ack = await _sent(self._target.publish(snapshot))
        watch.lap("sent and applied")
        log.info("snapshot %d: %s; %.0f of it in the data plane", version, watch, ack.applied_ms)
        self._allocator.release(given.vips.keys(), given.sets.keys(), int(self._clock()))
        return self._done(Published(plan.mesh, snapshot, ack.applied_ms))

    async def _publish_sets(self, services: set[str]) -> None:
        assert self.published is not None
        before = self.published
        given = before.registry
        registry = replace(self._view.now, vips=given.vips, sets=given.sets)
        mesh = before.mesh.updated(registry, services)
        sets = [each for key in sorted(services) for each in endpoint_sets(mesh, key)]
        if len(sets) > SETS_AT_ONCE_MAX:
            await self._publish(await self.mesh(self.model), strict=False)
            return
        applied_ms = 0.0
        for each in sets:
            ack = await _sent(self._target.publish_set(each))
            applied_ms = max(applied_ms, ack.applied_ms)
        self._done(replace(before, mesh=mesh, applied_ms=applied_ms))

    def _done(self, published: Published) -> Published:
        self.published, self.problem = published, ""
        self.publishes += 1
        for listener in self._listeners:
            listener(published)
        return published


async def _sent(sending: Awaitable[Ack]) -> Ack:
    try:
        return await sending
    except (PublishRefused, ValueError) as error:
        raise Conflict(f"the data plane refused it: {error}") from error
    except PublishUnavailable as error:
        raise Unavailable(f"the data plane does not answer: {error}") from error
