"""The daemon's listeners: admin API (Unix socket and mTLS), peering, enrolment, metrics.

Owns where each listens, and trying again while one cannot: it may have to wait for this
appliance's certificate, or for an address. What they serve is made by daemon.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from appliance.api import tls
from appliance.api._gen import admin_pb2_grpc
from appliance.api.auth import Caller, Context, Revoked, local_caller, remote_caller
from appliance.api.peercred import PeerCredFront, inner_directory
from appliance.api.peering import Peering
from appliance.api.server import CALLS_MAX, OPTIONS, AdminService
from appliance.enroll.server import EnrolServer
from appliance.errors import ApplianceError, Unavailable
from appliance.observe.metrics import Metrics
from appliance.paths import Paths
from appliance.registry.view import RegistryView
from appliance.report import Troubles
from appliance.site import Site
from appliance.system.credentials import Seats
from appliance.tasks import Tasks
from dataplane.snapshot import Leaf

log = logging.getLogger(__name__)

RETRY_S = 2.0
CONNECTIONS_MAX = 256
LOOPBACK = "127.0.0.1"
Start = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Served:
    """What the listeners show, and whom they ask."""

    own_leaf: Callable[[], Leaf | None]
    revoked: Callable[[], Revoked]
    admin: Callable[[Callable[[Context], Caller]], AdminService]
    enrolment: Callable[[str], EnrolServer]  # given the site's bundle
    peering: Peering
    metrics: Metrics


class Listeners:
    """Async context manager; the Unix socket listens inside it, `start` begins with the others."""

    def __init__(
        self, site: Site, paths: Paths, view: RegistryView, troubles: Troubles, served: Served
    ) -> None:
        self._site, self._paths, self._view = site, paths, view
        self._troubles, self._served = troubles, served
        self._tasks = Tasks()
        self._stack = AsyncExitStack()
        self._seats = Seats(CONNECTIONS_MAX)
        self._enrolling: EnrolServer | None = None
        self.certified = asyncio.Event()  # set it when this appliance has a leaf of its own

    async def __aenter__(self) -> Listeners:
        await self._stack.enter_async_context(self._local_api())
        self._stack.push_async_callback(self._tasks.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def start(self) -> list[asyncio.Task[None]]:
        """One task a listener, done when it serves."""
        ports = self._site.spec.ports
        parts: dict[str, Start] = {"peering": self._peering, "enrolment": self._enrolment}
        if ports.admin:
            parts["admin API by mTLS"] = self._remote_api
        found = [self._tasks.start(self._certified(p, s), p) for p, s in parts.items()]
        if ports.metrics:
            found.append(self._tasks.start(self._keep("metrics", self._metrics), "metrics"))
        return found

    async def _certified(self, part: str, start: Start) -> None:
        await self.certified.wait()
        await self._keep(part, start)

    async def _keep(self, part: str, start: Start) -> None:
        """Until it serves."""
        while True:
            try:
                await start()
            except ApplianceError as error:
                if self._troubles.now.get(part) != str(error):
                    log.warning("%s: %s", part, error)
                self._troubles.set(part, str(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._troubles.clear(part)
            return

    def refused(self) -> dict[str, int]:
        """Connections too many, by listener."""
        return {
            "admin_connections_refused": self._seats.refused,
            "enrol_connections_refused": (
                self._enrolling.connections_refused if self._enrolling else 0
            ),
        }

    def _addresses(self, *, hosts: bool) -> tuple[str, ...]:
        """The mesh's, and with `hosts` those that hosts know us by."""
        spec = self._site.spec
        chosen = (*spec.mesh.addresses, *(spec.hosts.addresses if hosts else ()))
        return tuple(dict.fromkeys(map(str, chosen)))

    # -- each ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _local_api(self) -> AsyncIterator[None]:
        group = self._site.spec.users.admin_group
        service = self._served.admin(lambda context: local_caller(context, group))
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        admin_pb2_grpc.add_AdminServicer_to_server(service, server)
        inner = inner_directory(self._paths.daemon_run / "inner") / "admin.sock"
        inner.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{inner}")
        await server.start()
        try:
            async with PeerCredFront(self._paths.admin_socket, inner, self._seats):
                yield
        finally:
            await server.stop(None)

    async def _remote_api(self) -> None:
        def caller(context: Context) -> Caller:
            bundle = self._view.now.bundle_pem
            return remote_caller(context, self._site.trust_domain, bundle, self._served.revoked())

        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        admin_pb2_grpc.add_AdminServicer_to_server(self._served.admin(caller), server)
        credentials = tls.server_credentials(
            self._served.own_leaf, lambda: self._view.now.bundle_pem
        )
        for address in self._addresses(hosts=True):
            tls.listen(server, tls.host_port(address, self._site.spec.ports.admin), credentials)
        await server.start()
        self._stack.push_async_callback(server.stop, None)

    async def _peering(self) -> None:
        port, peering = self._site.spec.ports.peering, self._served.peering
        await peering.serve(tls.host_port(each, port) for each in self._addresses(hosts=False))

    async def _metrics(self) -> None:
        addresses = (LOOPBACK, *map(str, self._site.spec.metrics.addresses))
        await self._served.metrics.serve(addresses, self._site.spec.ports.metrics)
        self._stack.push_async_callback(self._served.metrics.close)

    async def _enrolment(self) -> None:
        leaf, bundle = self._served.own_leaf(), self._view.now.bundle_pem
        if leaf is None or not bundle:
            raise Unavailable("this appliance has no certificate yet: is the CA running?")
        server = self._served.enrolment(bundle)
        server.set_leaf(leaf)
        try:
            await server.__aenter__()
        except OSError as error:
            await server.__aexit__(None, None, None)
            raise Unavailable(f"enrolment cannot listen: {error.strerror}") from error
        self._enrolling = server
        self._tasks.start(self._follow(server, leaf, bundle), "enrolment's leaf")

    async def _follow(self, server: EnrolServer, leaf: Leaf, bundle: str) -> None:
        """The server's leaf follows ours; when the CA's bundle changes, it starts anew."""
        try:
            while self._view.now.bundle_pem == bundle:
                await asyncio.sleep(RETRY_S)
                now = self._served.own_leaf()
                if now is not None and now is not leaf:
                    leaf = now
                    server.set_leaf(leaf)
        finally:
            await server.__aexit__(None, None, None)
        await self._keep("enrolment", self._enrolment)
