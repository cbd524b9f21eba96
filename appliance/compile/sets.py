"""Endpoint sets: which there are of a service, and what is in them. Pure.

Keys: "<service>.<namespace>:<port>" is where hosts of the site go, "…|in" what peers reach,
"…|in|<subset>" the part of that with the subset's labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from appliance.address import plain
from appliance.compile import traffic
from appliance.compile.hosts import host_id
from appliance.compile.services import ServiceView, selects
from appliance.config import istio
from appliance.errors import InvalidInput
from appliance.identity import parse, sni
from appliance.registry import model as registry_model
from appliance.registry.model import Host, HostKind, ServicePort
from appliance.site import Site
from dataplane.snapshot import Endpoint, EndpointKind, EndpointSet

EXPECTED_MAX = 64  # native/include/dp.h DP_EXPECTED_MAX
_PRIORITY_MAX = 255
_PEER_ADDRESSES_MAX = 4  # that are tried; each takes room in every set with the peer in it


@dataclass(frozen=True, slots=True)
class SetKey:
    service: str
    port: int
    inbound: bool = False
    subset: str | None = None

    def __str__(self) -> str:
        text = f"{self.service}:{self.port}" + ("|in" if self.inbound else "")
        return f"{text}|{self.subset}" if self.subset is not None else text


def set_keys(view: ServiceView, rule: traffic.Rule | None, trust_domain: str) -> Iterator[SetKey]:
    """All sets of a service. A subset whose mesh name would not fit has none."""
    for port in view.ports:
        yield SetKey(view.key, port.number)
        if is_reachable(view, port):
            for name in (None, *(subset.name for subset in subsets(rule))):
                if server_name(view, port.number, name, trust_domain) is not None:
                    yield SetKey(view.key, port.number, True, name)


def is_reachable(view: ServiceView, port: ServicePort) -> bool:
    """Whether peers may reach this port here."""
    return view.exported and not view.external and port.number in view.local_ports


def subsets(rule: traffic.Rule | None) -> tuple[istio.Subset, ...]:
    """Each name once."""
    found = {subset.name: subset for subset in rule.spec.subsets} if rule else {}
    return tuple(found.values())


def server_name(view: ServiceView, port: int, subset: str | None, trust_domain: str) -> str | None:
    try:
        return sni(subset, port, view.name, view.namespace, trust_domain)
    except InvalidInput:
        return None


class Sets:
    """Builds sets; knows hosts by name."""

    def __init__(self, site: Site, hosts: Mapping[str, Host]) -> None:
        self.trust_domain = site.trust_domain
        self.hosts = hosts

    def build(
        self, view: ServiceView, key: SetKey, number: int, rule: traffic.Rule | None
    ) -> EndpointSet:
        port = next(each for each in view.ports if each.number == key.port)
        return self.with_endpoints(view, key, number, rule, self.local(view, port))

    def with_endpoints(
        self,
        view: ServiceView,
        key: SetKey,
        number: int,
        rule: traffic.Rule | None,
        local: tuple[Endpoint | None, ...],
    ) -> EndpointSet:
        """`local` runs along view.endpoints; None is one that cannot be used."""
        subset = next((each for each in subsets(rule) if each.name == key.subset), None)
        if subset is not None:
            local = tuple(
                built
                for built, given in zip(local, view.endpoints, strict=True)
                if selects(subset.labels, {**view.labels, **given.labels})
            )
        endpoints = [endpoint for endpoint in local if endpoint is not None]
        if not key.inbound:
            endpoints += self.remote(view, key.port)
        settings = traffic.settings(rule, key.port, subset)
        return EndpointSet(
            id=number,
            service=view.key,
            endpoints=_once(endpoints),
            balance=settings.balance,
            connections_max=settings.connections_max,
            failures_consecutive=settings.ejection.failures_consecutive,
            ejection_base_ms=settings.ejection.base_ms,
            ejection_max_ms=settings.ejection.max_ms,
            ejection_percent_max=settings.ejection.percent_max,
        )

    def local(self, view: ServiceView, port: ServicePort) -> tuple[Endpoint | None, ...]:
        if port.number not in view.local_ports:
            return (None,) * len(view.endpoints)
        return tuple(self._endpoint(view, port, endpoint) for endpoint in view.endpoints)

    def _endpoint(
        self, view: ServiceView, port: ServicePort, endpoint: registry_model.Endpoint
    ) -> Endpoint | None:
        target = endpoint.ports.get(port.number, port.target)
        reached = plain((endpoint.address,))
        if not reached:
            return None
        (address,) = reached
        host = self.hosts.get(endpoint.host)
        if host is None or host.kind is HostKind.AGENTLESS:
            return Endpoint(
                endpoint.host, EndpointKind.PLAIN, address, target,
                weight=endpoint.weight, healthy=endpoint.healthy,
            )  # fmt: skip
        expected = host_id(host, self.trust_domain)
        name = server_name(view, port.number, None, self.trust_domain)
        if expected is None or name is None:
            return None
        return Endpoint(
            endpoint.host,
            EndpointKind.AGENT,
            address,
            host.agent_port,
            weight=endpoint.weight,
            healthy=endpoint.healthy,
            target_port=target,
            sni=name,
            expected=(expected,),
        )

    def remote(self, view: ServiceView, port: int) -> Iterator[Endpoint]:
        """Peers that offer the port: a peer's first address before its others."""
        for remote in view.remotes:
            peer, service = remote.peer, remote.service
            if all(each.number != port for each in service.ports):
                continue
            expected = believed(service.identities, peer.trust_domain)
            name = server_name(view, port, None, peer.trust_domain)
            if not expected or name is None:
                continue
            for order, address in enumerate(plain(peer.mesh_addresses)[:_PEER_ADDRESSES_MAX]):
                yield Endpoint(
                    peer.name,
                    EndpointKind.MESH,
                    address,
                    peer.mesh_port,
                    priority=min(1 + order, _PRIORITY_MAX),
                    healthy=service.healthy,
                    sni=name,
                    expected=expected,
                )


def _once(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Where two lead to the same place, the first."""
    found: dict[tuple[object, ...], Endpoint] = {}
    for each in endpoints:
        found.setdefault((each.kind, each.address, each.port, each.sni), each)
    return tuple(found.values())


def believed(identities: Iterable[str], trust_domain: str) -> tuple[str, ...]:
    """Of what a peer says may answer: only workloads of its own trust domain."""
    found: dict[str, None] = {}
    for text in identities:
        try:
            spiffe_id = parse(text)
        except InvalidInput:
            continue
        if spiffe_id.trust_domain == trust_domain and spiffe_id.workload is not None:
            found[text] = None
    return tuple(found)[:EXPECTED_MAX]
