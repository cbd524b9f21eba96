"""Puts a snapshot together from services, hosts, policies and endpoint sets. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from appliance.address import plain
from appliance.compile import traffic
from appliance.compile.authn import Authentication, Demand
from appliance.compile.authz import Authorization
from appliance.compile.hosts import host_grade, host_id, leaf_key, sources
from appliance.compile.mesh import Mesh
from appliance.compile.offload import offload
from appliance.compile.services import ServiceView
from appliance.compile.sets import (
    SetKey,
    Sets,
    is_reachable,
    server_name,
    set_keys,
    subsets,
)
from appliance.errors import InvalidInput, LimitReached
from appliance.identity import parse
from appliance.registry.model import Host, HostState, ImportedService, Registry
from appliance.site import Site
from dataplane.snapshot import (
    Address,
    Bundle,
    Denied,
    EndpointSet,
    Grade,
    Inbound,
    Leaf,
    Name,
    Service,
    Snapshot,
    SourceAddress,
)

_SOURCE_ADDRESS = {
    "appliance": SourceAddress.APPLIANCE,
    "transparent": SourceAddress.TRANSPARENT,
    "proxy": SourceAddress.PROXY,
}


@dataclass(frozen=True, slots=True)
class Allocations:
    """What the store has to have ready, by key."""

    vip_keys: tuple[str, ...]  # services that need virtual addresses
    set_keys: tuple[str, ...]
    guests: frozenset[str] = frozenset()  # those of vip_keys that only peers offer
    reserved: tuple[Address, ...] = ()  # asked for by documents: not to be given away


@dataclass(frozen=True, slots=True)
class LeafNeed:
    """`key` is what the leaf must be handed to compile under."""

    key: str
    spiffe_id: str
    grade: Grade | None  # None = the appliance's own


def allocations(mesh: Mesh) -> Allocations:
    views, trust_domain = mesh.views.values(), mesh.site.trust_domain
    return Allocations(
        vip_keys=tuple(view.key for view in views if not view.addresses),
        set_keys=tuple(
            str(key)
            for view in views
            for key in set_keys(view, mesh.rules.get(view.key), trust_domain)
        ),
        guests=frozenset(view.key for view in views if not view.is_local),
        reserved=tuple(sorted({a for view in views for a in view.addresses}, key=_address_order)),
    )


def leaf_needs(mesh: Mesh) -> tuple[LeafNeed, ...]:
    """By key. The appliance's own comes with them."""
    site, denied = mesh.site, frozenset(mesh.registry.denied_ids)
    needs = {leaf_key(site.appliance_id, None): LeafNeed(
        leaf_key(site.appliance_id, None), site.appliance_id, None)}  # fmt: skip
    pairs: list[tuple[str | None, Grade]] = [
        (host_id(host, site.trust_domain), host_grade(host))
        for host in mesh.hosts.values()
        if host.state is HostState.ACTIVE
    ]
    pairs += [
        (view.spiffe_id(site.trust_domain), _weakest(view, mesh.hosts))
        for view in mesh.views.values()
        if view.is_local
    ]
    for spiffe_id, grade in pairs:
        if spiffe_id is not None and spiffe_id not in denied:
            key = leaf_key(spiffe_id, grade)
            needs[key] = LeafNeed(key, spiffe_id, grade)
    return tuple(needs[key] for key in sorted(needs))


def compile(mesh: Mesh, leaves: Mapping[str, Leaf], version: int) -> Snapshot:
    """Raises LimitReached when a set has no id; see `allocations`."""
    site, registry = mesh.site, mesh.registry
    own = (*site.spec.hosts.addresses, *site.spec.mesh.addresses)
    build = _Build(mesh, leaves)
    for view in mesh.views.values():
        build.add(view)
    appliance = leaf_key(site.appliance_id, None)
    bound = sources(mesh.hosts, site.trust_domain, build.leaves)
    used = {host.leaf for host in bound} | {service.leaf for service in build.services}
    used.add(appliance)
    return Snapshot(
        version=version,
        trust_domain=site.trust_domain,
        zones=site.zones,
        own_addresses=plain(own),
        appliance_leaf=appliance if appliance in build.leaves else None,
        bundles=tuple(_bundles(registry, site)),
        leaves=tuple(build.leaves[key] for key in sorted(build.leaves) if key in used),
        hosts=bound,
        services=tuple(build.services),
        inbound=tuple(build.inbound),
        sets=tuple(build.sets),
        policies=build.authorization.policies(),
        names=tuple(build.names),
        denied=tuple(dict.fromkeys(_denied(registry))),
        offload=offload(mesh.model),
    )


def endpoint_sets(mesh: Mesh, service: str) -> tuple[EndpointSet, ...]:
    """The sets of one service (its key) alone, for a change of its endpoints; as compile has them.

    () when there is no such service. Raises LimitReached when a set has no id.
    """
    view, rule = mesh.views.get(service), mesh.rules.get(service)
    if view is None:
        return ()
    builder = Sets(mesh.site, mesh.hosts)
    return tuple(
        builder.build(view, key, _set_id(mesh.registry, key), rule)
        for key in set_keys(view, rule, mesh.site.trust_domain)
    )


def exports(mesh: Mesh) -> tuple[ImportedService, ...]:
    """What peers are told: never what other peers told us."""
    found: list[ImportedService] = []
    for view in mesh.views.values():
        spiffe_id = view.spiffe_id(mesh.site.trust_domain)
        ports = tuple(port for port in view.ports if is_reachable(view, port))
        if spiffe_id is not None and ports:
            names = tuple(subset.name for subset in subsets(mesh.rules.get(view.key)))
            healthy = any(endpoint.healthy for endpoint in view.endpoints)
            found.append(
                ImportedService(view.name, view.namespace, ports, (spiffe_id,), names, healthy)
            )
    return tuple(found)


class _Build:
    """What a snapshot is collected in, service by service."""

    def __init__(self, mesh: Mesh, leaves: Mapping[str, Leaf]) -> None:
        self.registry, self.site = mesh.registry, mesh.site
        denied = frozenset(mesh.registry.denied_ids)
        self.leaves = {k: leaf for k, leaf in leaves.items() if leaf.spiffe_id not in denied}
        self.builder = Sets(mesh.site, mesh.hosts)
        self.rules = mesh.rules
        self.authentication = Authentication(mesh.model)
        self.authorization = Authorization(mesh.model, mesh.site)
        self.services: list[Service] = []
        self.inbound: list[Inbound] = []
        self.sets: list[EndpointSet] = []
        self.names: list[Name] = []
        self.owners: dict[Address, str] = {}

    def add(self, view: ServiceView) -> None:
        """An address that two services ask for is the first one's."""
        vips = tuple(a for a in view.vips if self.owners.setdefault(a, view.key) == view.key)
        view = replace(view, vips=vips) if vips != view.vips else view
        rule = self.rules.get(view.key)
        trust_domain = self.site.trust_domain
        ids: dict[SetKey, int] = {}
        local = {port.number: self.builder.local(view, port) for port in view.ports}
        for key in set_keys(view, rule, trust_domain):
            ids[key] = _set_id(self.registry, key)
            self.sets.append(
                self.builder.with_endpoints(view, key, ids[key], rule, local[key.port])
            )
            if key.inbound:
                name = server_name(view, key.port, key.subset, trust_domain) or ""
                self.inbound.append(Inbound(name, view.key, key.port, ids[key]))
        self._services(view, rule, ids)
        if view.vips:
            self.names += [Name(n, view.vips) for n in view.mesh_names(self.site.spec.zone)]

    def _services(
        self, view: ServiceView, rule: traffic.Rule | None, ids: Mapping[SetKey, int]
    ) -> None:
        """A service that only peers offer is judged by them."""
        leaf = self._leaf(view)
        label_sets = view.label_sets()
        policies = self.authorization.attach(view, label_sets) if view.is_local else ()
        demands = self.authentication.demands(view, label_sets) if view.is_local else {}
        source = _SOURCE_ADDRESS[view.source_address]
        if traffic.sends_proxy(rule):
            source = SourceAddress.PROXY
        for port in view.ports:
            settings = traffic.settings(rule, port.number)
            demand = demands.get(port.number, Demand())
            service = Service(
                name=view.key,
                namespace=view.namespace,
                port=port.number,
                vips=view.vips,
                outbound_set=ids[SetKey(view.key, port.number)],
                leaf=leaf,
                mtls=demand.mode,
                grade_min=demand.grade,
                source_address=source,
                policies=policies,
                connect_timeout_ms=settings.connect_timeout_ms,
                idle_timeout_ms=settings.idle_timeout_ms,
                duration_max_ms=settings.duration_max_ms,
            )
            self.services.append(service)

    def _leaf(self, view: ServiceView) -> str | None:
        spiffe_id = view.spiffe_id(self.site.trust_domain) if view.is_local else None
        if spiffe_id is None:
            return None
        key = leaf_key(spiffe_id, _weakest(view, self.builder.hosts))
        return key if key in self.leaves else None


def _set_id(registry: Registry, key: SetKey) -> int:
    number = registry.sets.get(str(key))
    if number is None:
        raise LimitReached(f"the endpoint set {key} has no id: allocate one before compiling")
    return number


def _weakest(view: ServiceView, by_name: Mapping[str, Host]) -> Grade:
    """The grade of the weakest host behind a service; of what is no host, l3."""
    known = (by_name.get(endpoint.host) for endpoint in view.endpoints)
    return min((host_grade(host) if host else Grade.L3 for host in known), default=Grade.L3)


def _bundles(registry: Registry, site: Site) -> Iterator[Bundle]:
    """One a trust domain; a peer cannot stand for ours."""
    pairs = [(site.trust_domain, registry.bundle_pem)]
    pairs += [(peer.trust_domain, peer.bundle_pem) for peer in registry.peers]
    seen: set[str] = set()
    for trust_domain, certs_pem in pairs:
        if certs_pem and trust_domain not in seen:
            yield Bundle(trust_domain, certs_pem)
        seen.add(trust_domain)


def _denied(registry: Registry) -> Iterator[Denied]:
    """A serial is a number: however many zeros stand before it."""
    for trust_domain, serial in registry.denied_serials:
        number = int(serial, 16)
        digits = number.to_bytes(max(1, (number.bit_length() + 7) // 8)).hex()
        yield Denied(trust_domain, serial=digits)
    for spiffe_id in registry.denied_ids:
        try:
            found = parse(spiffe_id)
        except InvalidInput:  # nobody can have it
            continue
        if found.path:  # a trust domain's own ID is no leaf's
            yield Denied(found.trust_domain, spiffe_id=spiffe_id)


def _address_order(address: Address) -> tuple[int, int]:
    return address.version, int(address)
