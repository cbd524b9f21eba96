"""The control daemon: `python -m appliance.daemon`. The only constructor of its parts.

Owns wiring, start, stop and the loops that bring one part's news to another. Decides nothing: each
part is a module of its own. Runs as its own user with CAP_NET_ADMIN; holds no CA key and moves no
user byte. While it is down the data plane serves on, and nft and routes stay as they are: only the
supervisor takes them down.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from appliance.agent.build import agent_file
from appliance.api import tls
from appliance.api._gen import admin_pb2_grpc
from appliance.api.auth import Caller, Context, Revoked, local_caller, remote_caller
from appliance.api.peercred import PeerCredFront, inner_directory
from appliance.api.peering import Peering
from appliance.api.server import CALLS_MAX, OPTIONS, AdminService
from appliance.apply import Applier
from appliance.ca.client import CaClient, CaInfo
from appliance.catalog import Catalog
from appliance.compile import hosts
from appliance.compile.hosts import leaf_key
from appliance.enroll.server import EnrolServer
from appliance.errors import ApplianceError, Unavailable
from appliance.leaves import Leaves
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
from appliance.system.rooted import SupervisorClient
from appliance.tasks import Tasks
from dataplane.client import Dataplanes, ProcessDown, ProcessUp
from dataplane.descriptors import collect, read_publish_key
from dataplane.events import FlowEvent
from dataplane.snapshot import Leaf

log = logging.getLogger("sluice.daemon")

RETRY_S = 2.0
READY_S = 10.0
CA_LOOK_S = 60.0
LOOPBACK = "127.0.0.1"


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
        self.audit = Audit(self.store)
        self.flows, self.traffic = Flows(), Traffic()
        self.tasks = Tasks()

        self.services = Services(self.store)
        self.hosts = Hosts(self.store, self.services)
        self.peers, self.codes = Peers(self.store), Codes(self.store)
        self.revocations = Revocations(self.store, site.trust_domain)
        self.revisions = Revisions(self.store)
        self.view = RegistryView(self.hosts, self.services, self.peers, self.revocations)
        self.catalog = Catalog(site)
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
            site, self.peers, self.revocations, self.view, self.catalog, self.audit
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
            checks=self.findings,
        )
        self.view.listen(lambda services: self.registry_changed(services))
        self.publisher.listen(self.was_published)
        self.bound = asyncio.Event()
        self.certified = asyncio.Event()  # we have a leaf of our own
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
        return await checks.findings(self.site)

    def registry_changed(self, services: frozenset[str] | None) -> None:
        if services is None:
            self.peering.set_peers(self.view.now.peers)
            self.peering.changed()

    def was_published(self, published: Published) -> None:
        self.catalog.set(published)
        self.peering.changed()
        if published.version == self.whole:
            return  # endpoints' health alone
        self.whole = published.version
        if self.own_leaf() is not None:
            self.certified.set()
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

    # -- loops -----------------------------------------------------------------------------------

    async def read_reports(self) -> None:
        """What the data plane tells. Never returns."""
        async for report in self.dataplanes.reports():
            if isinstance(report, FlowEvent):
                self.flows.take(report)
            elif isinstance(report, ProcessUp):
                self.publisher.seen(report.version)
            elif isinstance(report, ProcessDown):
                self.flows.process_down(report.process)
                self.traffic.process_down(report.process)
            else:
                self.traffic.take(report)

    async def keep_network(self) -> None:
        """nft, routes and pinned neighbours follow the hosts. Never returns."""
        installed = False
        while True:
            self.bound.clear()
            bound = nft.bindings(hosts(self.publisher.model, self.view.now))
            try:
                await (self.network.bind(bound) if installed else self.network.install(bound))
                installed = True
                self.troubles.clear("network")
            except ApplianceError as error:
                self.troubles.set("network", str(error))
                log.error("network: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            await self.bound.wait()

    async def keep_ca(self) -> None:
        """The site's own bundle follows the CA. Never returns."""
        while True:
            try:
                self.ca_info = await self.ca.info()
                self.view.set_bundle(await self.ca.bundle())
                self.troubles.clear("ca")
                await asyncio.sleep(CA_LOOK_S)
            except ApplianceError as error:
                self.troubles.set("ca", str(error))
                await asyncio.sleep(RETRY_S)

    async def keep(self, part: str, serve: Callable[[], Awaitable[None]]) -> None:
        """Tries until the part serves: it may have to wait for a certificate or an address."""
        await self.certified.wait()
        while True:
            try:
                await serve()
            except ApplianceError as error:
                if self.troubles.now.get(part) != str(error):
                    log.warning("%s: %s", part, error)
                self.troubles.set(part, str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self.troubles.clear(part)
            return

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
        )

    @asynccontextmanager
    async def local_api(self) -> AsyncIterator[None]:
        """The admin API on the Unix socket."""
        group = self.site.spec.users.admin_group
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        admin_pb2_grpc.add_AdminServicer_to_server(
            self.service(lambda context: local_caller(context, group)), server
        )
        inner = inner_directory(self.paths.daemon_run / "inner") / "admin.sock"
        inner.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        try:
            async with PeerCredFront(self.paths.admin_socket, inner):
                yield
        finally:
            await server.stop(None)

    async def remote_api(self, stack: AsyncExitStack) -> None:
        """The admin API by mTLS."""

        def caller(context: Context) -> Caller:
            now = self.view.now
            return remote_caller(context, self.site.trust_domain, now.bundle_pem, self.revoked())

        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        admin_pb2_grpc.add_AdminServicer_to_server(self.service(caller), server)
        credentials = tls.server_credentials(self.own_leaf, lambda: self.view.now.bundle_pem)
        for address in self.addresses(mesh=True, hosts=True):
            tls.listen(server, tls.host_port(address, self.site.spec.ports.admin), credentials)
        await server.start()
        stack.push_async_callback(server.stop, None)

    async def enrol(self) -> None:
        """Hosts and peers may join from now on."""
        leaf, bundle = self.own_leaf(), self.view.now.bundle_pem
        if leaf is None or not bundle:
            raise Unavailable("this appliance has no certificate yet: is the CA running?")
        enrolment = Enrolment(
            self.site.trust_domain,
            self.hosts,
            self.peers,
            self.codes,
            self.view,
            self.audit,
            self.catalog.ports,
        )
        server = EnrolServer(self.site, enrolment, self.ca, bundle, agent_file())
        server.set_leaf(leaf)
        try:
            await server.__aenter__()
        except OSError as error:
            await server.__aexit__(None, None, None)
            raise Unavailable(f"enrolment cannot listen: {error.strerror}") from error
        self.tasks.start(self.keep_enrolment(server, leaf, bundle), "enrolment's leaf")

    async def keep_enrolment(self, server: EnrolServer, leaf: Leaf, bundle: str) -> None:
        """Its leaf follows ours; when the CA's bundle changes, it starts anew."""
        try:
            while self.view.now.bundle_pem == bundle:
                await asyncio.sleep(RETRY_S)
                now = self.own_leaf()
                if now is not None and now is not leaf:
                    leaf = now
                    server.set_leaf(leaf)
        finally:
            await server.__aexit__(None, None, None)
        await self.keep("enrolment", self.enrol)

    def addresses(self, *, mesh: bool = False, hosts: bool = False) -> tuple[str, ...]:
        spec = self.site.spec
        chosen = (*(spec.mesh.addresses if mesh else ()), *(spec.hosts.addresses if hosts else ()))
        return tuple(dict.fromkeys(map(str, chosen)))

    # -- life ------------------------------------------------------------------------------------

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Until stop is set. Then a change that is under way is finished first."""
        ports = self.site.spec.ports
        async with AsyncExitStack() as stack:
            stack.callback(self.store.close)
            stack.push_async_callback(self.ca.close)
            stack.push_async_callback(self.health.close)
            stack.push_async_callback(self.peering.close)
            stack.push_async_callback(self.tasks.close)
            await self.applier.start()
            self.peering.set_peers(self.view.now.peers)
            await stack.enter_async_context(self.local_api())
            stack.push_async_callback(self.applier.close)

            async def peering() -> None:
                addresses = self.addresses(mesh=True)
                await self.peering.serve(tls.host_port(each, ports.peering) for each in addresses)

            async def metrics() -> None:
                served = Metrics(self.reporter.numbers)
                await served.serve((LOOPBACK, *self.addresses(mesh=True)), ports.metrics)
                stack.push_async_callback(served.close)

            parts: dict[str, Callable[[], Awaitable[None]]] = {
                "peering": peering,
                "enrolment": self.enrol,
            }
            if ports.admin:
                parts["admin API by mTLS"] = lambda: self.remote_api(stack)
            if ports.metrics:
                parts["metrics"] = metrics
            starting = [
                self.tasks.start(self.keep(part, start), part) for part, start in parts.items()
            ]
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
            os.write(files.ready, b"ready\n")
            os.close(files.ready)

    await Daemon(site, paths, key).serve(stop, ready)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.daemon")
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    os.umask(0o077)
    try:
        asyncio.run(_run(load_site(args.site), Paths(args.state, args.run)))
    except (ApplianceError, OSError, ValueError) as error:
        print(f"sluice daemon: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ApplianceError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
