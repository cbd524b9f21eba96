"""The product as it runs on a box, without CA and daemon: the supervisor's own parts open the
sockets and start the data plane with its user, capability and sandbox; the daemon's client
publishes the snapshot and reads every report. Identities, policy, statistics and flow events are
always on, so both profiles of the bench see the same product.

On loopback the virtual address is an address of the machine and the service's port is the
transparent listener's, so that nothing has to steer the connection there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from appliance.paths import Paths
from appliance.site import Site
from appliance.supervisor import layout
from appliance.supervisor.child import Command
from appliance.supervisor.kept import Files, Kept
from appliance.supervisor.keys import TicketKeys, publish_key
from appliance.supervisor.sockets import Listeners, Pipes
from appliance.supervisor.tree import commands
from dataplane import snapshot as s
from dataplane.client import Dataplanes
from dataplane.events import EventKind, FlowEvent, Reason
from dataplane.stats import StatsReport
from perf.peers.contestant import LOOPBACK, Contestant, Start, Task, Wiring
from perf.pki import CLIENT_PATH, SERVER_PATH, Authority
from perf.process import BenchError

VIP = "127.77.0.1"
SERVICE = "echo.default"
DRAIN_SECONDS = 30
START_SECONDS = 30.0
# Streams that ended so were no fault of the load.
BROKEN = {Reason.TRUNCATED, Reason.INTERNAL, Reason.LIMIT, Reason.POOL_FULL, Reason.BAD_REPLY}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one box listens."""

    number: int
    transparent: int
    mesh: int


def site_of(place: Place, trust_domain: str) -> Site:
    return Site.model_validate(
        {
            "apiVersion": "sluice.dev/v1",
            "kind": "Site",
            "metadata": {"name": trust_domain.replace(".", "-")},
            "spec": {
                "trustDomain": trust_domain,
                "appliance": "one",
                "hosts": {"interfaces": ["lo"], "addresses": [f"127.0.53.{place.number}"]},
                "mesh": {"addresses": [LOOPBACK]},
                "ports": {"transparent": place.transparent, "mesh": place.mesh},
                "dataplane": {"workers": 1, "drainSeconds": DRAIN_SECONDS},
            },
        }
    )


class Box:
    """One data plane under the supervisor's care, and the client that programs it."""

    def __init__(self, site: Site, scratch: Path, task: Task) -> None:
        self.site = site
        self.paths = Paths(scratch / "state", scratch / "run")
        self.refusals: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()  # who sealed and opened, client's leg first
        self.counters: Mapping[str, int] = {}  # as last told
        self._task = task
        self._kept = Kept(
            "dataplane",
            self._prepare,
            drain_s=float(DRAIN_SECONDS),
            hangup=True,
            hurries=True,
            on_end=self._ended,
        )
        layout.make(self.paths, site.spec.users)
        self._command = commands(scratch / "site.yaml", site, self.paths).dataplane
        self._key = publish_key(self.paths.supervisor_state)
        self._tickets = TicketKeys()
        self._listeners = Listeners(site, 1)
        with self._opened_key() as number:
            self.planes = Dataplanes(self.paths.dataplane_run, os.pread(number, 32, 0))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.ensure_future(each)
            for each in (self._kept.run(), self.planes.run(), self._read_reports())
        ]
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._kept.serving.wait()
            yield
        finally:
            self._kept.stop()
            self._kept.stop()  # without the drain
            await asyncio.wait({tasks[0]})
            for each in tasks[1:]:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._listeners.close()
            self._tickets.file.close()
            self._key.close()
            for what, count in (*self.layers.most_common(3), *self.refusals.most_common(5)):
                print(f"{self.site.name}: {count} × {what}", file=sys.stderr)

    def pids(self) -> tuple[int, ...]:
        """Of the process that serves and those that drain."""
        return tuple(
            pid for each in self._kept.processes() if isinstance(pid := each["pid"], int) and pid
        )

    async def restart(self) -> None:
        """A hot restart; returns when the new process serves."""
        await self._kept.replace()

    @property
    def crashes(self) -> int:
        return self._kept.counts.restarts + self._kept.counts.failed_starts

    async def _read_reports(self) -> None:
        async for report in self.planes.reports():
            if isinstance(report, StatsReport):
                self.counters = report.counters
            if not isinstance(report, FlowEvent):
                continue
            if report.kind is EventKind.OPEN:
                self.layers[f"{report.down_layer.name} → {report.up_layer.name}".lower()] += 1
            if report.kind is EventKind.REFUSED or report.reason in BROKEN:
                self.refusals[f"{report.reason.name}: {report.detail}"] += 1

    def _prepare(self, generation: int) -> tuple[Command, AbstractContextManager[Files]]:
        command = self._command(generation)
        pinned = ("taskset", "-c", str(self._task.proxy_processor), *command.argv)
        if self._task.records:
            pinned += ("--records", self._task.records)
        if not self._task.resume:
            pinned += ("--sessions", "0")
        if self._task.tree is not None:
            pinned = ("env", f"PYTHONPATH={self._task.tree}", *pinned)
        return replace(command, argv=pinned), self._files()

    @contextlib.contextmanager
    def _opened_key(self) -> Iterator[int]:
        number = self._key.open()
        try:
            yield number
        finally:
            os.close(number)

    @contextlib.contextmanager
    def _files(self) -> Iterator[Files]:
        """As the supervisor's Tree hands them over."""
        with contextlib.ExitStack() as stack:
            pipes = Pipes(1)
            stack.callback(pipes.close)
            tickets = self._tickets.file.open()
            stack.callback(os.close, tickets)
            key = stack.enter_context(self._opened_key())
            yield {
                **self._listeners.by_name,
                "pipe": list(pipes.ends),
                "tickets": [tickets],
                "publish-key": [key],
            }

    def _ended(self, generation: int) -> None:
        (self.paths.dataplane_run / f"dp-{generation}.sock").unlink(missing_ok=True)


def _leaf(authority: Authority, path: str, grade: str) -> s.Leaf:
    pair = authority.leaf(path, grade=grade)
    spiffe_id = f"spiffe://{authority.trust_domain}/{path}"
    return s.Leaf(f"{spiffe_id}|{grade}", spiffe_id, pair.certificate, pair.key)


def allow(principal: str) -> s.Policy:
    match = s.Match(s.Part.FROM, 0, s.Field.PRINCIPAL, text=principal)
    return s.Policy("AuthorizationPolicy default/allow-web", s.Action.ALLOW, ((match,),))


def service_of(port: int, leaf: s.Leaf) -> s.Service:
    return s.Service(
        name=SERVICE,
        namespace="default",
        port=port,
        vips=(IPv4Address(VIP),),
        outbound_set=1,
        leaf=leaf.key,
        mtls=s.MtlsMode.STRICT,
        policies=("AuthorizationPolicy default/allow-web",),
    )


def _base(authority: Authority, *others: Authority) -> s.Snapshot:
    return s.Snapshot(
        version=1,
        trust_domain=authority.trust_domain,
        own_addresses=(IPv4Address("127.0.0.2"),),
        bundles=tuple(s.Bundle(each.trust_domain, each.bundle) for each in (authority, *others)),
        policies=(allow(f"a.bench/{CLIENT_PATH}"),),
    )


def endpoint(port: int) -> s.Endpoint:
    return s.Endpoint("origin", s.EndpointKind.PLAIN, IPv4Address(LOOPBACK), port)


def local_snapshot(task: Task) -> s.Snapshot:
    """Client and service at one site: plain TCP on both sides, identity by address."""
    client = _leaf(task.material.a, CLIENT_PATH, "l2")
    server = _leaf(task.material.a, SERVER_PATH, "l2")
    return replace(
        _base(task.material.a),
        leaves=(client, server),
        hosts=(s.Host("client", s.Grade.L2, client.key, address=IPv4Address(LOOPBACK)),),
        services=(service_of(task.port, server),),
        sets=(s.EndpointSet(1, SERVICE, (endpoint(task.origin),)),),
    )


def pair_snapshots(task: Task) -> tuple[s.Snapshot, s.Snapshot]:
    """Of the client's site and the service's site."""
    a, b = task.material.a, task.material.b
    client, server = _leaf(a, task.client, "l2"), _leaf(b, task.server, "l2")
    sni = f"_.{task.port}.{SERVICE}.{b.trust_domain}"
    peer = s.Endpoint(
        "b",
        s.EndpointKind.MESH,
        IPv4Address(LOOPBACK),
        mesh_port(task),
        sni=sni,
        expected=(f"spiffe://{b.trust_domain}/{SERVER_PATH}",),
    )
    source = replace(
        _base(a, b),
        leaves=(client,),
        hosts=(s.Host("client", s.Grade.L2, client.key, address=IPv4Address(LOOPBACK)),),
        services=(replace(service_of(task.port, client), leaf=None),),
        sets=(s.EndpointSet(1, SERVICE, (peer,)),),
    )
    target = replace(
        _base(b, a),
        leaves=(server,),
        services=(service_of(task.port, server),),
        inbound=(s.Inbound(sni, SERVICE, task.port, 1),),
        sets=(s.EndpointSet(1, SERVICE, (endpoint(task.origin),)),),
    )
    return source, target


def mesh_port(task: Task) -> int:
    """Where the service's site takes mesh links."""
    return task.port + 3


@contextlib.asynccontextmanager
async def boxes(task: Task) -> AsyncIterator[tuple[Box, ...]]:
    """Boxes that run and have a snapshot, the client's first."""
    number = task.port // 10 % 100 * 2
    places = [(Place(number, task.port, task.port + 1), task.material.a)]
    snapshots: tuple[s.Snapshot, ...] = (local_snapshot(task),)
    if task.wiring is Wiring.PAIR:
        places.append((Place(number + 1, task.port + 2, mesh_port(task)), task.material.b))
        snapshots = pair_snapshots(task)
    async with contextlib.AsyncExitStack() as stack:
        made: list[Box] = []
        for place, authority in reversed(places):
            scratch = task.scratch / authority.trust_domain
            scratch.mkdir()
            box = Box(site_of(place, authority.trust_domain), scratch, task)
            await stack.enter_async_context(box.running())
            made.insert(0, box)
        for box, snapshot in zip(made, snapshots, strict=True):
            await box.planes.publish(snapshot)
        yield tuple(made)
        if crashes := sum(box.crashes for box in made):
            raise BenchError(f"a data plane of ours died {crashes} times")


async def _handshakes(box: Box) -> tuple[int, int]:
    told = box.counters
    return told.get("handshakes_server", 0), told.get("handshakes_resumed", 0)


def contestant(task: Task, running: tuple[Box, ...], name: str = "sluice") -> Contestant:
    return Contestant(
        name,
        VIP,
        task.port,
        task.load_processor,
        lambda: tuple(pid for box in running for pid in box.pids()),
        lambda: _handshakes(running[-1]),
    )


@contextlib.asynccontextmanager
async def start(task: Task, name: str = "sluice") -> AsyncIterator[Contestant]:
    async with boxes(task) as running:
        yield contestant(task, running, name)


def of_tree(tree: Path) -> Start:
    """The data plane of another checkout, told by this one's supervisor and client."""
    return lambda task: start(replace(task, tree=tree), "before")
