"""What the site knows of hosts, services, endpoints and peers, as frozen values.

Owns the shapes; does no I/O. The store keeps them, compile reads them through `Registry`.
Service keys are "<service>.<namespace>". Times are UNIX seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dataplane.snapshot import Address, Grade


class HostKind(StrEnum):
    AGENTLESS = "agentless"  # known by address (and MAC, port)
    AGENT = "agent"  # holds a key of its own


class HostState(StrEnum):
    PENDING = "pending"  # added; the code is not used yet
    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    namespace: str
    service_account: str
    kind: HostKind
    state: HostState
    grade: Grade
    addresses: tuple[Address, ...] = ()
    mac: str | None = None  # lower case, colons; grade l2
    interface: str | None = None  # own port or VLAN: grade port
    agent_port: int = 15009  # AGENT: where its agent listens for us
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    serial: str | None = None  # hex, of its own leaf
    not_after: int | None = None
    added: int = 0


@dataclass(frozen=True, slots=True)
class ServicePort:
    number: int
    target: int  # on the endpoint
    protocol: str = "tcp"  # tcp, tls, http, http2, grpc
    name: str = ""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active check of each endpoint of a service."""

    kind: str  # tcp, http, grpc
    port: int | None = None  # None = the endpoint's
    path: str = "/"
    interval_ms: int = 5_000
    timeout_ms: int = 1_000
    healthy_after: int = 1  # successes
    unhealthy_after: int = 3  # failures


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    namespace: str
    service_account: str
    ports: tuple[ServicePort, ...]
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    exported: bool = True
    health: HealthCheck | None = None
    source_address: str = "appliance"  # transparent, proxy

    @property
    def key(self) -> str:
        return f"{self.name}.{self.namespace}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    service: str  # key
    host: str  # host's or WorkloadEntry's name
    address: Address
    ports: Mapping[int, int]  # service port -> port here, where it is not the target
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    weight: int = 1
    healthy: bool = True
    service_account: str | None = None  # None = the service's


@dataclass(frozen=True, slots=True)
class ImportedService:
    """A service that a peer exports, as the peer told it."""

    name: str
    namespace: str
    ports: tuple[ServicePort, ...]
    identities: tuple[str, ...]  # SPIFFE IDs that may answer for it
    subsets: tuple[str, ...] = ()
    healthy: bool = True

    @property
    def key(self) -> str:
        return f"{self.name}.{self.namespace}"


class PeerState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    STALE = "stale"  # not heard of for stale_seconds: imports withdrawn


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    trust_domain: str
    bundle_pem: str = field(repr=False)
    mesh_addresses: tuple[Address, ...]
    mesh_port: int
    peering_address: Address
    peering_port: int
    state: PeerState = PeerState.CONNECTING
    last_seen: int = 0
    imports: tuple[ImportedService, ...] = ()
    appliance: str = ""  # the box's name: its leaf has the DNS name <appliance>.sluice.<td>


@dataclass(frozen=True, slots=True)
class Registry:
    """One consistent view. `vips` and `sets` are what the store allocated, by key."""

    hosts: tuple[Host, ...] = ()
    services: tuple[Service, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    peers: tuple[Peer, ...] = ()
    bundle_pem: str = field(default="", repr=False)  # the site's own CA certificates
    vips: Mapping[str, tuple[Address, ...]] = field(default_factory=lambda: MappingProxyType({}))
    sets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unhealthy: frozenset[tuple[str, Address]] = frozenset()  # service key, document's endpoint
    denied_serials: tuple[tuple[str, str], ...] = ()  # trust domain, hex serial
    denied_ids: tuple[str, ...] = ()
