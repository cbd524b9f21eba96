"""How the site is: status, warnings and what `doctor` finds. Reads the parts, changes none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

from appliance.api._gen import admin_pb2 as pb
from appliance.api.offload_messages import legs
from appliance.catalog import Catalog
from appliance.compile import hosts
from appliance.errors import ApplianceError
from appliance.leaves import Leaves
from appliance.observe.audit import Audit
from appliance.observe.flows import Flows
from appliance.observe.ledger import Ledger
from appliance.observe.ledger import ledger as ledger_of
from appliance.observe.metrics import Numbers
from appliance.observe.traffic import Traffic
from appliance.publish import Publisher
from appliance.registry.health import Health
from appliance.registry.model import HostKind, HostState, PeerState
from appliance.registry.revisions import Revisions
from appliance.registry.view import RegistryView
from appliance.site import Site

CACHE_S = 1.0
CA_WARNING_S = 30 * 86_400


class Supervisor(Protocol):
    async def call(
        self, verb: str, timeout_s: float = 120.0, **arguments: Any
    ) -> dict[str, Any]: ...


class Findings(Protocol):
    """The system's own checks (level, what, fix)."""

    async def __call__(self) -> list[tuple[str, str, str]]: ...


@dataclass(slots=True)
class Troubles:
    """What parts of the daemon cannot do now: part -> one line. Empty when all is well."""

    now: dict[str, str]

    def set(self, part: str, why: str) -> None:
        self.now[part] = why

    def clear(self, part: str) -> None:
        self.now.pop(part, None)


class Reporter:
    def __init__(
        self,
        site: Site,
        revisions: Revisions,
        view: RegistryView,
        publisher: Publisher,
        catalog: Catalog,
        leaves: Leaves,
        traffic: Traffic,
        flows: Flows,
        audit: Audit,
        health: Health,
        troubles: Troubles,
        supervisor: Supervisor,
        ca_not_after: Callable[[], int],
        dropped: Callable[[], int],
        refusals: Callable[[], Mapping[str, int]],
        checks: Findings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site, self._revisions, self._view = site, revisions, view
        self._publisher, self._catalog, self._leaves = publisher, catalog, leaves
        self._traffic, self._flows, self._audit, self._health = traffic, flows, audit, health
        self._troubles, self._supervisor = troubles, supervisor
        self._ca_not_after, self._dropped, self._checks = ca_not_after, dropped, checks
        self._refusals = refusals
        self._clock = clock
        self._processes: tuple[float, list[pb.Process]] = (0.0, [])

    async def status(self) -> pb.Status:
        now, published, pending = self._view.now, self._publisher.published, None
        waits = self._revisions.pending()
        if waits is not None:
            pending = pb.PendingConfirm(
                revision=waits.revision, deadline=waits.deadline, by=waits.by
            )
        rate, ledger = self._traffic.throughput(), self.ledger()
        return pb.Status(
            site=self._site.name,
            trust_domain=self._site.trust_domain,
            appliance=self._site.spec.appliance,
            version=version(),
            revision=self._revisions.current,
            published=self._publisher.version,
            applied=published.version if published else 0,
            processes=await self._process_list(),
            hosts=len(hosts(self._publisher.model, now)),
            services=len(self._catalog.views()),
            peers=len(now.peers),
            peers_connected=sum(peer.state is PeerState.CONNECTED for peer in now.peers),
            streams=self._traffic.live,
            throughput=pb.Throughput(
                bytes_up=rate.bytes_up,
                bytes_down=rate.bytes_down,
                opened=rate.opened,
                refused=rate.refused,
            ),
            counters={**self._traffic.counters(), **self._totals()},
            pending=pending,
            ca_not_after=self._ca_not_after(),
            warnings=self.warnings(),
            layers=legs(ledger.layers),
            reasons=legs(ledger.reasons),
        )

    def warnings(self) -> list[str]:
        found = [f"{part}: {why}" for part, why in sorted(self._troubles.now.items())]
        if self._publisher.problem:
            found.append(f"not published: {self._publisher.problem}")
        found += [
            f"no certificate for {key.partition('|')[0]}: {why}"
            for key, why in sorted(self._leaves.refused.items())[:10]
        ]
        found += [
            f"peer {peer.name} is stale: its services are withdrawn"
            for peer in self._view.now.peers
            if peer.state is PeerState.STALE
        ]
        if self._traffic.counters().get("slots_behind_now"):
            found.append(
                "the data plane cannot keep its snapshot on disk, so a restart without the daemon "
                "would serve an older one: free some space, then change or apply anything"
            )
        left = self._ca_not_after() - self._clock()
        if 0 < self._ca_not_after() and left < CA_WARNING_S:
            found.append(f"the CA's certificate runs out in {max(0, left) / 86_400:.0f} days")
        return found

    async def doctor(self) -> list[pb.Finding]:
        """Each with what to do; "ok" ones too."""
        found = [
            pb.Finding(level=level, what=what, fix=fix) for level, what, fix in await self._checks()
        ]
        warnings = self.warnings()
        found += [pb.Finding(level="warning", what=text, fix="") for text in warnings]
        if self._publisher.published is None:
            found.append(
                pb.Finding(
                    level="error",
                    what="the data plane runs no snapshot of this daemon yet",
                    fix="look at `sluice status`: is the data plane's process up?",
                )
            )
        elif not warnings:
            found.append(pb.Finding(level="ok", what="published, certified, peers heard of"))
        found += self._plaintext_legs()
        return found

    def _plaintext_legs(self) -> list[pb.Finding]:
        agentless = [
            host.name
            for host in hosts(self._publisher.model, self._view.now)
            if host.kind is HostKind.AGENTLESS and host.state is HostState.ACTIVE
        ]
        if not agentless:
            return []
        named = ", ".join(agentless[:5]) + (" …" if len(agentless) > 5 else "")
        return [
            pb.Finding(
                level="warning",
                what=f"{len(agentless)} hosts have no agent ({named}): between "
                "them and this box is plain text, and neighbours on their segment reach their "
                "services round this box",
                fix="put an agent on them, or keep each on a port or VLAN of its own",
            )
        ]

    def ledger(self) -> Ledger:
        return ledger_of(self._traffic.counters())

    def numbers(self) -> Numbers:
        """For metrics."""
        now = self._view.now
        return Numbers(
            site=self._site.name,
            counters=self._traffic.counters(),
            histograms=self._traffic.histograms(),
            gauges={
                "hosts": len(now.hosts),
                "services": len(self._catalog.views()),
                "streams": self._traffic.live,
                "published_version": self._publisher.version,
                "revision": self._revisions.current,
                "leaves_refused": len(self._leaves.refused),
                "warnings": len(self.warnings()),
                "endpoints_checked": len(self._health.targets),
                "ca_not_after_seconds": self._ca_not_after(),
            },
            totals=self._totals(),
            peers={peer.name: peer.state is PeerState.CONNECTED for peer in now.peers},
        )

    def _totals(self) -> dict[str, int]:
        return {
            **self._refusals(),
            "publishes": self._publisher.publishes,
            "publishes_failed": self._publisher.failures,
            "flow_events_dropped": self._dropped() + self._flows.forgotten,
            "audit_entries_lost": self._audit.lost,
            "health_checks_good": self._health.counters["good"],
            "health_checks_bad": self._health.counters["bad"],
        }

    async def _process_list(self) -> list[pb.Process]:
        """The supervisor's, a second old at most."""
        at, known = self._processes
        if self._clock() - at < CACHE_S:
            return known
        try:
            answer = await self._supervisor.call("status", timeout_s=2.0)
            known = [
                pb.Process(
                    name=str(each["name"]),
                    state=str(each["state"]),
                    pid=int(each["pid"] or 0),
                    since=int(each["since"] or 0),
                    detail=str(each.get("detail", "")),
                )
                for each in answer["processes"]
            ]
        except ApplianceError as error:
            known = [pb.Process(name="supervisor", state="silent", detail=str(error))]
        self._processes = self._clock(), known
        return known


def version() -> str:
    try:
        return metadata.version("sluice")
    except metadata.PackageNotFoundError:
        return "0"
