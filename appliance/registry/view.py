"""The registry as one frozen value, kept in step with the store and with what is known only now.

Owns the value that compile reads, the results of health checks and which peers are connected;
these two are not kept on disk. Listeners are told what changed: endpoints of some services only,
or more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from appliance.registry.hosts import Hosts
from appliance.registry.model import Endpoint, PeerState, Registry
from appliance.registry.peers import Peers, with_state
from appliance.registry.revocations import Revocations
from appliance.registry.services import Services
from dataplane.snapshot import Address

# Keys of services of which only endpoints changed; None = anything may have.
Listener = Callable[[frozenset[str] | None], None]


class RegistryView:
    def __init__(
        self, hosts: Hosts, services: Services, peers: Peers, revocations: Revocations
    ) -> None:
        self._hosts, self._services = hosts, services
        self._peers, self._revocations = peers, revocations
        self._unhealthy: frozenset[tuple[str, Address]] = frozenset()
        self._peer_states: Mapping[str, tuple[PeerState, int]] = {}
        self._bundle_pem = ""
        self._listeners: list[Listener] = []
        self.now = self._read()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def changed(self) -> None:
        """The store's tables changed: reads them again and tells the listeners."""
        self.now = self._read()
        self._tell(None)

    def set_bundle(self, bundle_pem: str) -> bool:
        """The site's own CA certificates. Returns whether they replace others."""
        before, self._bundle_pem = self._bundle_pem, bundle_pem
        if bundle_pem != before:
            self.now = replace(self.now, bundle_pem=bundle_pem)
            self._tell(None)
        return before not in ("", bundle_pem)

    def set_peer_states(self, states: Mapping[str, tuple[PeerState, int]]) -> None:
        """name: state, last seen. Only what makes imports come or go is told."""
        before = {peer.name: peer.state is PeerState.STALE for peer in self.now.peers}
        self._peer_states = dict(states)
        peers = tuple(
            with_state(peer, *states[peer.name]) if peer.name in states else peer
            for peer in self.now.peers
        )
        self.now = replace(self.now, peers=peers)
        if before != {peer.name: peer.state is PeerState.STALE for peer in peers}:
            self._tell(None)

    def set_health(self, results: Collection[tuple[str, Address, bool]]) -> None:
        """(service key, address, healthy): what active checks found. Only endpoints change."""
        unhealthy = set(self._unhealthy)
        for key, address, healthy in results:
            if healthy:
                unhealthy.discard((key, address))
            else:
                unhealthy.add((key, address))
        touched = frozenset(key for key, _ in unhealthy.symmetric_difference(self._unhealthy))
        if not touched:
            return
        self._unhealthy = frozenset(unhealthy)
        endpoints = tuple(
            self._judged(endpoint) if endpoint.service in touched else endpoint
            for endpoint in self.now.endpoints
        )
        self.now = replace(self.now, endpoints=endpoints, unhealthy=self._unhealthy)
        self._tell(touched)

    def _judged(self, endpoint: Endpoint) -> Endpoint:
        healthy = (endpoint.service, endpoint.address) not in self._unhealthy
        return endpoint if endpoint.healthy == healthy else replace(endpoint, healthy=healthy)

    def _read(self) -> Registry:
        hosts, services = self._hosts.all(), self._services.all()
        revoked = self._revocations.all()
        return Registry(
            hosts=hosts,
            services=services,
            endpoints=tuple(map(self._judged, self._services.endpoints(hosts, services))),
            peers=tuple(
                with_state(peer, *self._peer_states[peer.name])
                if peer.name in self._peer_states
                else peer
                for peer in self._peers.all()
            ),
            bundle_pem=self._bundle_pem,
            vips=MappingProxyType({}),
            sets=MappingProxyType({}),
            unhealthy=self._unhealthy,
            denied_serials=tuple((r.trust_domain, r.serial) for r in revoked if r.serial),
            denied_ids=tuple(r.spiffe_id for r in revoked if r.spiffe_id),
        )

    def _tell(self, services: frozenset[str] | None) -> None:
        for listener in self._listeners:
            listener(services)
