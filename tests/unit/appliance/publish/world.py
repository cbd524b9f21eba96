"""A site's control plane without its neighbours: a data plane and a CA that remember, a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.apply import Applier
from appliance.ca.issue import Asked, Signed
from appliance.catalog import Catalog
from appliance.errors import ApplianceError, Denied, Unavailable
from appliance.leaves import Leaves
from appliance.membership import Membership
from appliance.observe.audit import Audit
from appliance.publish import Publisher
from appliance.registry.allocations import Allocator
from appliance.registry.codes import Codes
from appliance.registry.hosts import Hosts, host_of
from appliance.registry.peers import Peers
from appliance.registry.revisions import Revisions
from appliance.registry.revocations import Revocations
from appliance.registry.services import Services
from appliance.registry.store import Store
from appliance.registry.view import RegistryView
from dataplane.client import Ack, PublishRefused, PublishUnavailable
from dataplane.snapshot import EndpointSet, Snapshot
from tests.unit.appliance.sites import SITE


class Plane:
    """The data plane: runs what it is given, unless told to do otherwise."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.sets: list[EndpointSet] = []
        self.refuse = ""
        self.silent = False
        self.during: Callable[[], None] = lambda: None
        self.gate: asyncio.Event | None = None

    async def publish(self, snapshot: Snapshot, timeout_s: float = 10) -> Ack:
        if self.gate is not None:
            await self.gate.wait()
        self._answer()
        self.snapshots.append(snapshot)
        self.during()
        return Ack(snapshot.version, 1.5, "dp-1")

    async def publish_set(self, set: EndpointSet, timeout_s: float = 10) -> Ack:
        self._answer()
        self.sets.append(set)
        return Ack(self.snapshots[-1].version, 0.5, "dp-1")

    def _answer(self) -> None:
        if self.silent:
            raise PublishUnavailable("no process")
        if self.refuse:
            raise PublishRefused(self.refuse)

    @property
    def now(self) -> Snapshot:
        return self.snapshots[-1]


class Ca:
    """Signs all but what is refused; its certificates are only text."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.refused: set[str] = set()
        self.silent = False
        self.signed: list[str] = []

    async def sign_each(self, asked: Sequence[Asked]) -> list[Signed | ApplianceError]:
        if self.silent:
            raise Unavailable("the CA does not answer")
        return [self._sign(each) for each in asked]

    def _sign(self, asked: Asked) -> Signed | ApplianceError:
        if asked.spiffe_id in self.refused:
            return Denied(f"{asked.spiffe_id} is not approved")
        self.signed.append(asked.spiffe_id)
        return Signed("CHAIN", f"{len(self.signed):x}", int(self.clock()) + asked.ttl_s)


async def until(condition: Callable[[], bool]) -> None:
    """Lets others run until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class World:
    """Everything but listeners. Opening another World on the same path is a restart."""

    def __init__(self, path: Path) -> None:
        self.time = 1_800_000_000.0
        self.store = Store(path / "state.db")
        self.plane, self.ca = Plane(), Ca(self.clock)
        self.audit = Audit(self.store, self.clock)
        self.services = Services(self.store)
        self.hosts = Hosts(self.store, self.services)
        self.peers, self.codes = Peers(self.store), Codes(self.store)
        self.revocations = Revocations(self.store, SITE.trust_domain)
        self.revisions = Revisions(self.store)
        self.view = RegistryView(self.hosts, self.services, self.peers, self.revocations)
        self.leaves = Leaves(self.ca, lambda: self.publisher.touch(), clock=self.clock)
        self.allocator = Allocator(self.store, SITE.spec.vip)
        self.publisher = Publisher(
            SITE, self.store, self.view, self.allocator, self.leaves, self.plane, self.clock
        )
        self.catalog = Catalog()
        self.publisher.listen(self.catalog.set)
        self.applier = Applier(
            SITE, self.revisions, self.view, self.publisher, self.leaves, self.audit, self.clock
        )
        self.heard: list[int] = []
        self.membership = Membership(
            SITE, self.store, self.hosts, self.peers, self.codes, self.revocations, self.view,
            self.publisher, self.audit, self.pin, self.hear, self.clock,
        )  # fmt: skip

    def clock(self) -> float:
        return self.time

    async def pin(self) -> bytes:
        return bytes(16)

    async def hear(self, last: int, seconds: float) -> None:
        self.heard.append(last)

    async def start(self) -> None:
        await self.applier.start()
        await self.publisher.settle()

    def add(self, name: str, address: str, *services: str, **more: object) -> None:
        """An agentless host, straight into the registry."""
        host = host_of(name=name, addresses=[address], **more)  # type: ignore[arg-type]
        self.hosts.add(host, services)
        self.view.changed()
