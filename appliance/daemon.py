"""The control daemon: `python -m appliance.daemon`. The only constructor of its parts.

Owns wiring, start, stop and the loops that bring one part's news to another. Decides nothing: each
part is a module of its own. Runs as its own user with CAP_NET_ADMIN; holds no CA key and moves no
user byte. While it is down the data plane serves on, and nft and routes stay as they are: only the
supervisor takes them down.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from appliance.agent.build import agent_file
from appliance.api.auth import Caller, Context, Revoked
from appliance.api.peering import Peering
from appliance.api.server import AdminService
from appliance.apply import Applier
from appliance.ca.client import CaClient, CaInfo
from appliance.catalog import Catalog
from appliance.compile import hosts
from appliance.compile.hosts import leaf_key
from appliance.compile.offload import profile as offload_profile
from appliance.enroll.server import EnrolServer
from appliance.errors import ApplianceError, Unavailable
from appliance.leaves import Leaves
from appliance.linkwatch import LinkWatch, Told
from appliance.listeners import Listeners, Served
from appliance.membership import Membership
from appliance.observe.audit import Audit
from appliance.observe.flows import Flows
from appliance.observe.metrics import Metrics
from appliance.observe.traffic import Traffic
from appliance.paths import Paths
from appliance.peerbook import PeerBook
from appliance.publish import Published, Publisher
from appliance.registry.allocations import Allocator
from appliance.registry.codes import Codes
from appliance.registry.enrolment import Enrolment
from appliance.registry.health import Health, Target
from appliance.registry.hosts import Hosts
from appliance.registry.nic_settings import NicSettings
from appliance.registry.peers import Peers
from appliance.registry.revisions import Revisions
from appliance.registry.revocations import Revocations
from appliance.registry.services import Services
from appliance.registry.store import Store
from appliance.registry.view import RegistryView
from appliance.report import Reporter, Troubles
from appliance.site import Site, load_site
from appliance.system import checks, nft
from appliance.system.network import Network
from appliance.system.offload import Offload
from appliance.system.rooted import SupervisorClient
from dataplane.client import Dataplanes, ProcessDown, ProcessUp
from dataplane.descriptors import collect, read_publish_key
from dataplane.events import FlowEvent
from dataplane.snapshot import Leaf

log = logging.getLogger("sluice.daemon")

RETRY_S = 2.0
READY_S = 10.0
EXPORT_S = 0.5  # peers hear of health this much later
CA_LOOK_S = 60.0
BEAT_S = 4.0  # the supervisor waits many times as long


class Daemon:
    """Builds everything; `serve` runs it."""

    def __init__(self, site: Site, paths: Paths, publish_key: bytes) -> None:
        self.site, self.paths = site, paths
        self.store = Store(paths.database)
        self.ca = CaClient(paths.ca_socket)
        self.ca_info: CaInfo | None = None
        self.supervisor = SupervisorClient(paths.supervisor_socket)
        self.network = Network(site)
        self.dataplanes = Dataplanes(paths.dataplane_run, publish_key)
        self.troubles = Troubles({})
        self.packets: dict[str, nft.Count] = {}
        self.supervised: dict[str, int] = {}
        self.enrolled: Counter[str] = Counter()  # what the enrolment listeners counted
        self.audit = Audit(self.store)
        self.flows, self.traffic = Flows(), Traffic()

        self.services = Services(self.store)
        self.hosts = Hosts(self.store, self.services)
        self.peers, self.codes = Peers(self.store), Codes(self.store)
        self.revocations = Revocations(self.store, site.trust_domain)
        self.revisions = Revisions(self.store)
        self.view = RegistryView(self.hosts, self.services, self.peers, self.revocations)
        self.catalog = Catalog()
        self.health = Health(self.view.set_health)

        self.leaves = Leaves(self.ca, renewed=lambda: self.publisher.touch())
        self.publisher = Publisher(
            site,
            self.store,
            self.view,
            Allocator(self.store, site.spec.vip),
            self.leaves,
            self.dataplanes,
        )
        self.applier = Applier(
            site, self.revisions, self.view, self.publisher, self.leaves, self.audit
        )
        self.book = PeerBook(
            site,
            self.peers,
            self.revocations,
            self.view,
            self.catalog,
            self.audit,
            in_force=lambda: self.publisher.settled,
        )
        self.peering = Peering(
            site.trust_domain, self.book.facts, self.book, self.own_leaf, self.revoked
        )
        self.membership = Membership(
            site,
            self.store,
            self.hosts,
            self.peers,
            self.codes,
            self.revocations,
            self.view,
            self.publisher,
            self.audit,
            pin=self.pin,
            hear=self.hear,
        )
        self.offload = Offload(
            site,
            self.preferred_records,
            self.supervisor,
            NicSettings(self.store),
            self.audit.record,
        )
        self.reporter = Reporter(
            site,
            self.revisions,
            self.view,
            self.publisher,
            self.catalog,
            self.leaves,
            self.traffic,
            self.flows,
            self.audit,
            self.health,
            self.troubles,
            self.supervisor,
            ca_not_after=lambda: self.ca_info.not_after if self.ca_info else 0,
            dropped=lambda: self.dataplanes.reports_dropped,
            refusals=self.refusals,
            checks=self.findings,
        )
        self.link_watch = LinkWatch(
            self.store,
            frozenset(site.spec.hosts.interfaces),
            Told(
                self.links_changed,
                self.offload.appeared,
                self.offload.switched_on,
                self.dataplanes.lose_links,
            ),
        )
        self.view.listen(lambda services: self.registry_changed(services))
        self.publisher.listen(self.was_published)
        self.bound, self.network_changed = asyncio.Event(), asyncio.Event()
        self.network_changed.set()  # nothing is there yet
        self.listeners = Listeners(
            site,
            paths,
            self.view,
            self.troubles,
            Served(
                self.own_leaf,
                self.revoked,
                self.service,
                self.enrolment,
                self.peering,
                Metrics(self.reporter.numbers),
            ),
        )
        self.whole = 0  # version of the last whole snapshot that was looked at

    # -- what parts ask of each other ------------------------------------------------------------

    def own_leaf(self) -> Leaf | None:
        held = self.leaves.get(leaf_key(self.site.appliance_id, None))
        return held.leaf if held is not None else None

    def revoked(self) -> Revoked:
        now = self.view.now
        return Revoked(frozenset(now.denied_serials), frozenset(now.denied_ids))

    async def pin(self) -> bytes:
        return (await self.ca.info()).pin

    async def hear(self, last: int, seconds: float) -> None:
        self.peering.changed()
        await self.book.hear(last, seconds, self.peering.connected)

    async def findings(self) -> list[tuple[str, str, str]]:
        return await checks.findings(self.site, self.offload)

    def preferred_records(self) -> str:
        """As the OffloadProfile says."""
        profile = offload_profile(self.publisher.model)
        return profile.prefer if profile is not None else "user"

    def refusals(self) -> dict[str, int]:
        """What parts other than the data plane counted."""
        asked = self.ca_info.counters if self.ca_info is not None else {}
        return {
            **{f"nft_{name}": count.packets for name, count in self.packets.items()},
            **{f"enrol_{name}": count for name, count in self.enrolled.items()},
            **{f"ca_{name}": count for name, count in asked.items()},
            **{f"supervisor_{name}": count for name, count in self.supervised.items()},
            **self.listeners.refused(),
            "peering_refused": self.peering.refused,
            "peering_words_held_back": self.peering.held_back,
            "peering_words_refused": self.peering.malformed,
        }

    def registry_changed(self, services: frozenset[str] | None) -> None:
        if services is None:
            self.peering.set_peers(self.view.now.peers)
            self.peering.changed()

    def was_published(self, published: Published) -> None:
        self.catalog.set(published)
        if published.version == self.whole:  # endpoints' health alone, perhaps of many
            asyncio.get_running_loop().call_later(EXPORT_S, self.peering.changed)
            return
        self.peering.changed()
        self.whole = published.version
        if self.own_leaf() is not None:
            self.listeners.certified.set()
        self.bound.set()
        self.health.set(
            Target(view.key, endpoint.address, number, view.health)
            for view in self.catalog.views()
            if view.health is not None and view.ports
            for endpoint in view.endpoints
            for number in [
                view.health.port or endpoint.ports.get(view.ports[0].number, view.ports[0].target)
            ]
        )

    def links_changed(self) -> None:
        """What a lost interface took with it is put back when it is there again."""
        self.network_changed.set()
        self.bound.set()

    # -- loops -----------------------------------------------------------------------------------

    async def read_reports(self) -> None:
        """What the data plane tells. Never returns."""
        async for report in self.dataplanes.reports():
            if isinstance(report, FlowEvent):
                self.flows.take(report)
            elif isinstance(report, ProcessUp):
                try:
                    self.publisher.seen(report.version)
                except ApplianceError as error:  # a full disk
                    log.error("%s runs snapshot %d: %s", report.process, report.version, error)
            elif isinstance(report, ProcessDown):
                self.flows.process_down(report.process)
                self.traffic.process_down(report.process)
            else:
                self.traffic.take(report)

    async def keep_network(self) -> None:
        """nft, routes and pinned neighbours follow the hosts. Never returns."""
        while True:
            self.bound.clear()
            bound = nft.bindings(hosts(self.publisher.model, self.view.now))
            try:
                if self.network_changed.is_set():
                    self.network_changed.clear()
                    await self.network.install(bound)
                else:
                    await self.network.bind(bound)
                self.troubles.clear("network")
            except ApplianceError as error:
                self.network_changed.set()
                self.troubles.set("network", str(error))
                log.error("network: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self.bound.wait()

    async def count(self) -> None:
        """What nftables and the supervisor counted is known here too. Never returns."""
        while True:
            with contextlib.suppress(ApplianceError):  # no table yet: keep_network says why
                self.packets = await self.network.counters()
            with contextlib.suppress(ApplianceError):  # `status` says that it is silent
                self.supervised = (await self.supervisor.call("status", RETRY_S))["counts"]
            await asyncio.sleep(RETRY_S)

    async def keep_ca(self) -> None:
        """The site's own bundle follows the CA. Never returns."""
        while True:
            try:
                self.ca_info = await self.ca.info()
                if self.view.set_bundle(await self.ca.bundle()):
                    await self.leaves.renew_all()
                self.troubles.clear("ca")
                await asyncio.sleep(CA_LOOK_S)
            except ApplianceError as error:
                self.troubles.set("ca", str(error))
                await asyncio.sleep(RETRY_S)

    # -- listeners -------------------------------------------------------------------------------

    def service(self, caller: Callable[[Context], Caller]) -> AdminService:
        return AdminService(
            self.site,
            caller,
            applier=self.applier,
            membership=self.membership,
            publisher=self.publisher,
            revisions=self.revisions,
            view=self.view,
            catalog=self.catalog,
            leaves=self.leaves,
            flows=self.flows,
            audit=self.audit,
            reporter=self.reporter,
            supervisor=self.supervisor,
            peer_detail=self.peering.detail,
            dropped=lambda: self.dataplanes.reports_dropped,
            offload=self.offload,
        )

    def enrolment(self, bundle_pem: str) -> EnrolServer:
        store = Enrolment(
            self.site.trust_domain,
            self.hosts,
            self.peers,
            self.codes,
            self.view,
            self.audit,
            self.catalog.ports,
        )
        server = EnrolServer(
            self.site, store, self.ca, bundle_pem, agent_file(), self.publisher.settle
        )
        server.counters = self.enrolled  # of all that there were, one after the other
        return server

    # -- life ------------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Until stop is set. Then a change that is under way is finished first."""
        async with AsyncExitStack() as stack:
            stack.callback(self.store.close)
            for part in (self.ca, self.health, self.peering, self.offload):
                stack.push_async_callback(part.close)
            await self.applier.start()
            self.peering.set_peers(self.view.now.peers)
            await stack.enter_async_context(self.listeners)
            stack.push_async_callback(self.applier.close)
            starting = self.listeners.start()
            async with asyncio.TaskGroup() as loops:
                running = [
                    loops.create_task(loop, name=name)
                    for name, loop in {
                        "data planes": self.dataplanes.run(),
                        "reports": self.read_reports(),
                        "publisher": self.publisher.run(),
                        "applier": self.applier.run(),
                        "leaves": self.leaves.run(),
                        "peers": self.book.run(self.peering),
                        "ca": self.keep_ca(),
                        "network": self.keep_network(),
                        "links": self.link_watch.run(),
                        "counts": self.count(),
                    }.items()
                ]
                await _patiently(starting, stop)
                ready()
                log.info("serving site %s (%s)", self.site.name, self.site.trust_domain)
                await stop.wait()
                log.info("stopping")
                await self.applier.close()
                for task in running:
                    task.cancel()


async def _patiently(starting: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Until all serve; the site is of use without them, so not for long."""
    stopped = asyncio.ensure_future(stop.wait())
    everything = asyncio.ensure_future(asyncio.wait(starting))
    await asyncio.wait((stopped, everything), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    everything.cancel()


async def _run(site: Site, paths: Paths) -> None:
    files = collect(os.environ, 0)
    os.environ.pop("SLUICE_FDS", None)
    if files.publish_key is None:
        raise Unavailable("no publish key was handed over: start it by `sluice up`")
    key = read_publish_key(files.publish_key)
    os.close(files.publish_key)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready() -> None:
        if files.ready is not None:
            os.set_inheritable(files.ready, False)
            os.write(files.ready, b"ready\n")
            _beat(files.ready)

    await Daemon(site, paths, key).serve(stop, ready)


def _beat(file: int) -> None:
    """Tells the supervisor, for ever, that the loop turns."""
    with contextlib.suppress(OSError):  # it is stopped or gone
        os.write(file, b".")
    asyncio.get_running_loop().call_later(BEAT_S, _beat, file)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.daemon")
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    os.umask(0o077)
    # Documents and snapshots are large and hold no cycles: looking for some as often as by default
    # takes a third of an apply.
    gc.set_threshold(100_000, 50, 100)
    try:
        asyncio.run(_run(load_site(args.site), Paths(args.state, args.run)))
    except (ApplianceError, OSError, ValueError) as error:
        print(f"sluice daemon: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ApplianceError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
