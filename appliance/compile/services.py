"""What services there are: the registry's, the documents' and the peers', merged by key. Pure.

A Service document describes what hosts registered further; a ServiceEntry declares one of its
own. Endpoints are the union. Peers' imports add ports and where else to go, never policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Protocol, TypeVar

from appliance.compile.hosts import hosts_by_name, identity
from appliance.config import istio, own
from appliance.config.model import Document, Model
from appliance.identity import is_label, mesh_names, resolve, service_key
from appliance.registry.model import (
    Endpoint,
    HealthCheck,
    Host,
    HostState,
    ImportedService,
    Peer,
    PeerState,
    Registry,
    Service,
    ServicePort,
)
from appliance.site import Site
from dataplane.snapshot import Address

LabelSets = Sequence[Mapping[str, str]]
DEFAULT_ACCOUNT = "default"
SITE, DOCUMENT = OWN = ("site", "document")  # where our own services come from
_PROTOCOLS = {"HTTPS": "tls", "MONGO": "tcp"}


class _Placed(Protocol):
    @property
    def namespace(self) -> str: ...


P = TypeVar("P", bound=_Placed)
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Remote:
    """A peer that offers the service."""

    peer: Peer
    service: ImportedService


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service as the site sees it."""

    name: str
    namespace: str
    ports: tuple[ServicePort, ...]  # by number; local ones and peers'
    local_ports: frozenset[int] = frozenset()  # empty = only peers offer it
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    service_account: str | None = None  # None = not of this site, or outside the mesh
    exported: bool = False
    external: bool = False
    source_address: str = "appliance"
    health: HealthCheck | None = None
    addresses: tuple[Address, ...] = ()  # virtual ones that a document asks for
    vips: tuple[Address, ...] = ()
    origin: str = SITE  # one of OWN, or a peer's name
    endpoints: tuple[Endpoint, ...] = ()  # of this site
    remotes: tuple[Remote, ...] = ()

    @property
    def key(self) -> str:
        return service_key(self.name, self.namespace)

    @property
    def is_local(self) -> bool:
        return bool(self.local_ports)

    def spiffe_id(self, trust_domain: str) -> str | None:
        if self.service_account is None:
            return None
        return identity(trust_domain, self.namespace, self.service_account)

    def mesh_names(self, zone: str) -> tuple[str, str]:
        return mesh_names(self.name, self.namespace, zone)

    def label_sets(self) -> LabelSets:
        """Labels of each kind of workload behind it: the service's, with the endpoint's over."""
        if not any(endpoint.labels for endpoint in self.endpoints):
            return (self.labels,)
        distinct = {tuple(sorted(endpoint.labels.items())) for endpoint in self.endpoints}
        return [{**self.labels, **dict(labels)} for labels in sorted(distinct)]


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def services(
    model: Model,
    registry: Registry,
    site: Site,
    hosts: Mapping[str, Host] | None = None,
    entries: Entries | None = None,
    only: str | None = None,
) -> tuple[ServiceView, ...]:
    """By key; just one of them when `only` is its key. `hosts` and `entries` save indexing the
    documents again."""
    if hosts is None:
        hosts = hosts_by_name(model, registry)
    if entries is None:
        entries = index(model, site.spec.zone)
    return tuple(_Build(model, registry, site, hosts, entries, only).views())


def workload_name(doc: Document[istio.WorkloadEntry]) -> str:
    """As an endpoint; never a host's name, which is one label."""
    return f"{doc.name}.{doc.namespace}"


@dataclass(frozen=True, slots=True)
class EntryName:
    """One host of a ServiceEntry, and the service it makes."""

    host: str
    key: str | None  # None = it makes none
    foreign: bool  # no mesh name: reached as <document's name>.<namespace>


def entry_names(doc: Document[istio.ServiceEntry], zone: str) -> Iterator[EntryName]:
    for host in doc.spec.hosts:
        key = resolve(host, doc.namespace, zone)
        if key is not None and (host.count(".") != 1 or key.endswith(f".{doc.namespace}")):
            yield EntryName(host, key, False)
        else:
            usable = is_label(doc.name) and "*" not in host
            yield EntryName(host, service_key(doc.name, doc.namespace) if usable else None, True)


@dataclass(frozen=True, slots=True)
class Entries:
    """The names that ServiceEntries define; of several for one, the first counts."""

    by_key: Mapping[str, Document[istio.ServiceEntry]]  # service key
    aliases: Mapping[str, str]  # foreign host -> service key, for documents that refer to it


def index(model: Model, zone: str) -> Entries:
    by_key: dict[str, Document[istio.ServiceEntry]] = {}
    aliases: dict[str, str] = {}
    for doc in model.of(istio.ServiceEntry):
        for name in entry_names(doc, zone):
            if name.key is not None:
                by_key.setdefault(name.key, doc)
                if name.foreign:
                    aliases[name.host.lower()] = name.key
    return Entries(by_key, aliases)


def is_sound(service: ImportedService) -> bool:
    """Whether what a peer told can be used as it stands; the rest of it is not believed."""
    return (
        is_label(service.name)
        and is_label(service.namespace)
        and 0 < len(service.ports) <= 256
        and all(1 <= port.number <= 65535 for port in service.ports)
        and all(is_label(subset) for subset in service.subsets)
    )


def _by_namespace(items: Iterable[P]) -> dict[str, list[P]]:
    groups: dict[str, list[P]] = {}
    for item in items:
        groups.setdefault(item.namespace, []).append(item)
    return groups


class _Build:
    """Indexes of one merge."""

    def __init__(
        self,
        model: Model,
        registry: Registry,
        site: Site,
        hosts: Mapping[str, Host],
        entries: Entries,
        only: str | None,
    ) -> None:
        self.model, self.registry, self.only = model, registry, only
        self.hosts, self.entries = hosts, entries
        self.endpoints: dict[str, list[Endpoint]] = {}
        for endpoint in registry.endpoints:
            if (only is None or endpoint.service == only) and self._lives(endpoint.host):
                self.endpoints.setdefault(endpoint.service, []).append(endpoint)
        self.remotes: dict[str, list[Remote]] = {}
        for peer in registry.peers:
            if peer.state is not PeerState.STALE and peer.trust_domain != site.trust_domain:
                for told in peer.imports:
                    if self.wanted(told.key) and is_sound(told):
                        self.remotes.setdefault(told.key, []).append(Remote(peer, told))

    def wanted(self, key: str) -> bool:
        return self.only is None or key == self.only

    def _lives(self, name: str) -> bool:
        host = self.hosts.get(name)
        return host is None or host.state is HostState.ACTIVE

    @cached_property
    def host_groups(self) -> dict[str, list[Host]]:
        by_name = (self.hosts[name] for name in sorted(self.hosts))
        return _by_namespace(h for h in by_name if h.state is HostState.ACTIVE and h.addresses)

    @cached_property
    def workloads(self) -> dict[str, list[Document[istio.WorkloadEntry]]]:
        return _by_namespace(self.model.of(istio.WorkloadEntry))

    def views(self) -> list[ServiceView]:
        found: dict[str, ServiceView] = {}
        for key, doc in self._entries():
            found[key] = self._entry(key, doc)
        for service in self.registry.services:
            if self.wanted(service.key):
                found[service.key] = self._merged(_registered(service), found.get(service.key))
        for described in self.model.of(own.Service):
            key = service_key(described.name, described.namespace)
            if self.wanted(key):
                found[key] = self._described(described, found.get(key))
        for key, remotes in self.remotes.items():
            if key not in found:
                peer, told = remotes[0].peer, remotes[0].service
                found[key] = ServiceView(told.name, told.namespace, (), origin=peer.name)
        return [self._complete(key, found[key]) for key in sorted(found)]

    def _entries(self) -> Iterable[tuple[str, Document[istio.ServiceEntry]]]:
        if self.only is None:
            return self.entries.by_key.items()
        doc = self.entries.by_key.get(self.only)
        return [(self.only, doc)] if doc is not None else []

    def _complete(self, key: str, view: ServiceView) -> ServiceView:
        remotes = tuple(self.remotes.get(key, ()))
        ports = {port.number: port for remote in remotes for port in remote.service.ports}
        ports.update((port.number, port) for port in view.ports)
        known = {endpoint.address for endpoint in self.endpoints.get(key, ())}
        documents = (each for each in view.endpoints if each.address not in known)
        return replace(
            view,
            ports=tuple(ports[number] for number in sorted(ports)),
            local_ports=frozenset(port.number for port in view.ports),
            endpoints=(*self.endpoints.get(key, ()), *documents),
            vips=view.addresses or self.registry.vips.get(key, ()),
            remotes=remotes,
        )

    def _merged(self, view: ServiceView, entry: ServiceView | None) -> ServiceView:
        return replace(view, endpoints=entry.endpoints) if entry else view

    def _described(self, doc: Document[own.Service], registered: ServiceView | None) -> ServiceView:
        spec = doc.spec
        account = spec.service_account or (registered.service_account if registered else None)
        ports = tuple(
            ServicePort(port.port, port.target_port or port.port, port.protocol, port.name)
            for port in spec.ports
        )
        key = service_key(doc.name, doc.namespace)
        selected: Iterable[Endpoint] = ()
        if spec.selector:
            selected = self._selected(key, doc.namespace, spec.selector.match_labels, ports)
        return ServiceView(
            name=doc.name,
            namespace=doc.namespace,
            ports=ports,
            labels={**(registered.labels if registered else {"app": doc.name}), **doc.labels},
            service_account=account or DEFAULT_ACCOUNT,
            exported=spec.export,
            source_address=spec.source_address,
            health=_health(spec.health) or (registered.health if registered else None),
            addresses=spec.addresses,
            origin=SITE if registered and registered.origin == SITE else DOCUMENT,
            endpoints=(*(registered.endpoints if registered else ()), *selected),
        )

    def _entry(self, key: str, doc: Document[istio.ServiceEntry]) -> ServiceView:
        spec = doc.spec
        name, _, namespace = key.partition(".")
        ports = tuple(
            ServicePort(
                port.number,
                port.target_port or port.number,
                _PROTOCOLS.get(port.protocol, port.protocol.lower()),
                port.name,
            )
            for port in spec.ports
        )
        if spec.workload_selector is not None:
            labels = spec.workload_selector.labels
            endpoints = tuple(self._selected(key, doc.namespace, labels, ports))
        else:
            endpoints = tuple(
                self._workload(key, str(inline.address), inline, {}, ports)
                for inline in spec.endpoints
            )
        external = spec.location == "MESH_EXTERNAL"
        accounts = sorted({each.service_account for each in endpoints if each.service_account})
        return ServiceView(
            name=name,
            namespace=namespace,
            ports=ports,
            labels={"app": name, **doc.labels},
            service_account=None if external else (accounts or [DEFAULT_ACCOUNT])[0],
            exported=not external and doc.annotations.get("sluice.dev/export") != "false",
            external=external,
            addresses=spec.addresses,
            origin=DOCUMENT,
            endpoints=endpoints,
        )

    def _selected(
        self,
        key: str,
        namespace: str,
        labels: Mapping[str, str],
        ports: tuple[ServicePort, ...],
    ) -> Iterator[Endpoint]:
        for host in self.host_groups.get(namespace, ()):
            if selects(labels, host.labels):
                yield self._host(key, host)
        for doc in self.workloads.get(namespace, ()):
            if selects(labels, {**doc.labels, **doc.spec.labels}):
                yield self._workload(key, workload_name(doc), doc.spec, doc.labels, ports)

    def _host(self, key: str, host: Host) -> Endpoint:
        address = host.addresses[0]
        healthy = (key, address) not in self.registry.unhealthy
        return Endpoint(key, host.name, address, {}, host.labels, 1, healthy, host.service_account)

    def _workload(
        self,
        key: str,
        name: str,
        entry: istio.WorkloadEntry,
        labels: Mapping[str, str],
        ports: tuple[ServicePort, ...],
    ) -> Endpoint:
        return Endpoint(
            service=key,
            host=name,
            address=entry.address,
            ports={p.number: entry.ports[p.name] for p in ports if p.name in entry.ports},
            labels={**labels, **entry.labels},
            weight=max(1, entry.weight),
            healthy=(key, entry.address) not in self.registry.unhealthy,
            service_account=entry.service_account,
        )


def _registered(service: Service) -> ServiceView:
    return ServiceView(
        name=service.name,
        namespace=service.namespace,
        ports=service.ports,
        labels={"app": service.name, **service.labels},
        service_account=service.service_account,
        exported=service.exported,
        source_address=service.source_address,
        health=service.health,
    )


def _health(health: own.Health | None) -> HealthCheck | None:
    if health is None:
        return None
    return HealthCheck(
        kind=health.kind,
        port=health.port,
        path=health.path,
        interval_ms=health.interval.ms if health.interval else 5_000,
        timeout_ms=health.timeout.ms if health.timeout else 1_000,
        healthy_after=health.healthy_after,
        unhealthy_after=health.unhealthy_after,
    )
