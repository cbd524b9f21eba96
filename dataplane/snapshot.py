"""What the data plane runs, as frozen values. Owns the shapes; imports no cffi, gRPC or I/O.

The control plane compiles one Snapshot per publish; `wire` turns it into messages and back;
`binding` builds the native form. Everything refers by name or key, never by index, so that two
snapshots can be compared and a test can read one.

Addresses are `ipaddress` objects. Identities are full SPIFFE IDs (`spiffe://…`). Times end in
their unit. Enum values equal those in native/include/dp.h.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Grade(IntEnum):
    """How sure we are of a source, weakest first."""

    NONE = 0
    L3 = 1
    L2 = 2
    PORT = 3
    KEY = 4


class EndpointKind(IntEnum):
    PLAIN = 0  # TCP straight to the service
    AGENT = 1  # mTLS to the host's agent, link protocol inside
    MESH = 2  # mTLS to a peer site's mesh listener, link protocol inside


class Balance(IntEnum):
    ROUND_ROBIN = 0
    RANDOM = 1
    LEAST_REQUEST = 2


class MtlsMode(IntEnum):
    STRICT = 0
    PERMISSIVE = 1
    DISABLE = 2


class SourceAddress(IntEnum):
    APPLIANCE = 0
    TRANSPARENT = 1
    PROXY = 2


class Action(IntEnum):
    ALLOW = 0
    DENY = 1


class Part(IntEnum):
    FROM = 0
    TO = 1
    WHEN = 2


class Field(IntEnum):
    PRINCIPAL = 0
    NAMESPACE = 1
    IP = 2
    REMOTE_IP = 3
    PORT = 4
    GRADE = 5
    TRUST_DOMAIN = 6
    SERVICE_ACCOUNT = 7
    SNI = 8


class MatchOp(IntEnum):
    EXACT = 0
    PREFIX = 1
    SUFFIX = 2
    PRESENT = 3


class Prefer(IntEnum):
    """What the operator would have for the records of TLS legs."""

    AUTO = 0  # our own, which are measured cheaper than the kernel's
    USER = 1
    OPENSSL = 2
    KTLS = 3
    NIC = 4


class Tls12(IntEnum):
    """TLS 1.2 on mesh links; it shows both ends' certificates on the wire."""

    NEVER = 0
    ALLOW = 1  # from whom offers it
    PREFER = 2  # offered too, beside TLS 1.3


class Ciphers(IntFlag):
    AES_128_GCM = 1
    AES_256_GCM = 2
    CHACHA20 = 4  # of TLS 1.3 only


ALL_CIPHERS = Ciphers.AES_128_GCM | Ciphers.AES_256_GCM | Ciphers.CHACHA20


@dataclass(frozen=True, slots=True)
class Offload:
    """The operator's profile for the records of TLS legs."""

    prefer: Prefer = Prefer.AUTO
    tls12: Tls12 = Tls12.NEVER
    ciphers: Ciphers = ALL_CIPHERS
    bytes_min: int = 0  # that a stream carried before it is moved to the kernel


@dataclass(frozen=True, slots=True)
class Leaf:
    """A delegated leaf in use. `key` (of the leaf in `leaves`) is unique in a snapshot."""

    key: str  # e.g. "spiffe://a.example/ns/default/sa/web|l2", or "…|-" for a service's
    spiffe_id: str
    chain_pem: str = field(repr=False)  # leaf first
    key_pem: str = field(repr=False)  # secret


@dataclass(frozen=True, slots=True)
class Bundle:
    trust_domain: str
    certs_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Host:
    """A source known by address (agentless: `address`), or by its own leaf (`agent_id`)."""

    name: str
    grade: Grade  # NONE = revoked: refused whatever a service lets in
    leaf: str | None  # key of a Leaf; None = bound, but no identity in use
    address: Address | None = None
    agent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    part: Part
    entry: int
    field: Field
    op: MatchOp = MatchOp.EXACT
    negated: bool = False
    text: str = ""
    network: Network | None = None
    port: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    name: str  # "AuthorizationPolicy default/allow-web", as shown to people
    action: Action
    rules: tuple[tuple[Match, ...], ...]  # an empty rule matches all; no rule matches none


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str  # the host's or the peer site's
    kind: EndpointKind
    address: Address
    port: int
    priority: int = 0
    weight: int = 1
    healthy: bool = True
    target_port: int = 0  # AGENT: the service's port on that host
    sni: str = ""  # AGENT, MESH
    expected: tuple[str, ...] = ()  # SPIFFE IDs; AGENT, MESH: at least one


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """Swaps alone. `id` is stable over the life of a site's state; 1 … 0x7ffffffe."""

    id: int
    service: str
    endpoints: tuple[Endpoint, ...] = ()
    balance: Balance = Balance.LEAST_REQUEST
    connections_max: int = 0  # 0 = no limit
    failures_consecutive: int = 5  # connect failures until ejection; 0 = never
    ejection_base_ms: int = 30_000
    ejection_max_ms: int = 300_000
    ejection_percent_max: int = 10


@dataclass(frozen=True, slots=True)
class Service:
    name: str  # "<service>.<namespace>"
    namespace: str
    port: int
    vips: tuple[Address, ...]
    outbound_set: int | None  # local and remote endpoints
    leaf: str | None  # key of the Leaf shown to peers
    mtls: MtlsMode = MtlsMode.STRICT
    grade_min: Grade = Grade.L3
    source_address: SourceAddress = SourceAddress.APPLIANCE
    policies: tuple[str, ...] = ()  # names in Snapshot.policies
    connect_timeout_ms: int = 10_000
    attempts_max: int = 3
    idle_timeout_ms: int = 3_600_000
    duration_max_ms: int = 0


@dataclass(frozen=True, slots=True)
class Inbound:
    """What arrives over mesh links with this SNI goes to this set (local endpoints only)."""

    sni: str
    service: str
    port: int
    set: int


@dataclass(frozen=True, slots=True)
class Name:
    """One mesh name that DNS answers: fully qualified, lower case, no trailing dot."""

    name: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Denied:
    """Revoked: a leaf by its serial, or an identity with all its leaves."""

    trust_domain: str
    serial: str | None = None  # hex
    spiffe_id: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    version: int  # rises with each publish of a site
    trust_domain: str
    zones: tuple[str, ...] = ("mesh",)  # DNS zones answered; all else is REFUSED
    own_addresses: tuple[Address, ...] = ()
    appliance_leaf: str | None = None
    bundles: tuple[Bundle, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    hosts: tuple[Host, ...] = ()
    services: tuple[Service, ...] = ()
    inbound: tuple[Inbound, ...] = ()
    sets: tuple[EndpointSet, ...] = ()
    policies: tuple[Policy, ...] = ()
    names: tuple[Name, ...] = ()
    denied: tuple[Denied, ...] = ()
    offload: Offload | None = None  # None = as the process was started, TLS 1.3 only
