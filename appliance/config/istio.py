"""Istio's documents as they are written, for what a TCP mesh can do. Shapes only.

https://istio.io/latest/docs/reference/config/ Fields keep Istio's meaning and defaults; the marks
of `field` say where this mesh differs or refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, model_validator

from appliance.config.condition import FIELDS, key_problem, pattern_problem, value_problem
from appliance.config.field import (
    ITEMS_MAX,
    Account,
    Address,
    Approx,
    Count,
    Flag,
    Label,
    Labels,
    Network,
    Percent,
    PeriodMs,
    Port,
    PortText,
    Selector,
    Spec,
    Text,
    one_of,
    unsupported,
)
from dataplane.snapshot import Field as Field_

T = TypeVar("T", bound=Spec)
_HTTP = "HTTP is not looked into in this version"
_TARGET = "there are no Gateways to target in this version: use selector"
HttpTexts = Annotated[tuple[Text, ...], Field(min_length=1, max_length=ITEMS_MAX)]


def _checked(problem: Callable[[str], str | None]) -> AfterValidator:
    def check(text: str) -> str:
        if (why := problem(text)) is not None:
            raise ValueError(why)
        return text

    return AfterValidator(check)


def _account_problem(text: str) -> str | None:
    return value_problem(Field_.SERVICE_ACCOUNT, text)


Patterns = Annotated[
    tuple[Annotated[Text, _checked(pattern_problem)], ...],
    Field(min_length=1, max_length=ITEMS_MAX),
]
Accounts = Annotated[
    tuple[Annotated[Text, _checked(_account_problem)], ...],
    Field(min_length=1, max_length=ITEMS_MAX),
]
Networks = Annotated[tuple[Network, ...], Field(min_length=1, max_length=ITEMS_MAX)]
Ports = Annotated[tuple[PortText, ...], Field(min_length=1, max_length=ITEMS_MAX)]
ExportTo = Annotated[
    tuple[Text, ...],
    Approx("every namespace of the site sees it; use AuthorizationPolicy to keep others out"),
]


# security.istio.io


class MutualTls(Spec):
    mode: Annotated[Text, one_of(UNSET=None, DISABLE=None, PERMISSIVE=None, STRICT=None)] = "UNSET"


class PeerAuthentication(Spec):
    selector: Selector | None = None
    mtls: MutualTls | None = None
    port_level_mtls: dict[Port, MutualTls] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> PeerAuthentication:
        if self.port_level_mtls and not (self.selector and self.selector.match_labels):
            raise ValueError("portLevelMtls holds only with a selector: add one")
        return self


class Source(Spec):
    principals: Patterns | None = None
    not_principals: Patterns | None = None
    request_principals: HttpTexts | None = None
    not_request_principals: HttpTexts | None = None
    namespaces: Patterns | None = None
    not_namespaces: Patterns | None = None
    service_accounts: Accounts | None = None
    not_service_accounts: Accounts | None = None
    trust_domains: Patterns | None = None
    not_trust_domains: Patterns | None = None
    ip_blocks: Networks | None = None
    not_ip_blocks: Networks | None = None
    remote_ip_blocks: Networks | None = None
    not_remote_ip_blocks: Networks | None = None

    @model_validator(mode="after")
    def _check(self) -> Source:
        return _not_empty(self)


class From(Spec):
    source: Source


class Operation(Spec):
    hosts: HttpTexts | None = None
    not_hosts: HttpTexts | None = None
    ports: Ports | None = None
    not_ports: Ports | None = None
    methods: HttpTexts | None = None
    not_methods: HttpTexts | None = None
    paths: HttpTexts | None = None
    not_paths: HttpTexts | None = None

    @model_validator(mode="after")
    def _check(self) -> Operation:
        return _not_empty(self)


class To(Spec):
    operation: Operation


class Condition(Spec):
    key: Annotated[Text, _checked(key_problem)]
    values: HttpTexts | None = None
    not_values: HttpTexts | None = None

    @model_validator(mode="after")
    def _check(self) -> Condition:
        if not (self.values or self.not_values):
            raise ValueError("a condition needs values or notValues")
        field = FIELDS.get(self.key)
        for text in (*(self.values or ()), *(self.not_values or ())):
            if field is not None and (why := value_problem(field, text)) is not None:
                raise ValueError(f"{text[:80]!r}: {why}")
        return self


class Rule(Spec):
    sources: Annotated[tuple[From, ...], Field(min_length=1, max_length=512)] | None = Field(
        None, alias="from"
    )
    to: Annotated[tuple[To, ...], Field(min_length=1, max_length=512)] | None = None
    when: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=512)] | None = None


class AuthorizationPolicy(Spec):
    selector: Selector | None = None
    target_ref: Annotated[Any, unsupported(_TARGET)] = None
    target_refs: Annotated[Any, unsupported(_TARGET)] = None
    action: Annotated[
        Text,
        one_of(
            ALLOW=None,
            DENY=None,
            AUDIT="audit marks are not in this version: every flow is logged anyway",
            CUSTOM="external authorization is not in this version: write ALLOW or DENY rules",
        ),
    ] = "ALLOW"
    provider: Annotated[
        Any, unsupported("external authorization is not in this version: remove it")
    ] = None
    rules: Annotated[tuple[Rule, ...], Field(max_length=512)] = ()


# networking.istio.io: services


class ServicePort(Spec):
    number: Port
    name: Annotated[Text, Field(min_length=1, max_length=63)]
    protocol: Annotated[
        Text,
        one_of(TCP=None, TLS=None, HTTP=None, HTTPS=None, HTTP2=None, GRPC=None, MONGO=None),
    ] = "TCP"
    target_port: Port | None = None


_NETWORK = "one network a site: leave it out; other sites are reached as peers"
_LOCALITY = Approx("endpoints of the site come before those of other sites; finer is not kept")


class WorkloadEntry(Spec):
    """Also an inline endpoint of a ServiceEntry."""

    address: Address
    ports: Annotated[dict[str, Port], Field(max_length=128)] = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    network: Annotated[Any, unsupported(_NETWORK)] = None
    locality: Annotated[Text | None, _LOCALITY] = None
    weight: Annotated[Count, Field(le=1_000_000)] = 0  # 0 = not set = 1
    service_account: Account | None = None


class WorkloadSelector(Spec):
    labels: Labels


_DNS = "names are not resolved for endpoints in this version: write STATIC and addresses"


class ServiceEntry(Spec):
    hosts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)]
    addresses: Annotated[tuple[Address, ...], Field(max_length=2)] = ()
    ports: Annotated[tuple[ServicePort, ...], Field(min_length=1, max_length=256)]
    location: Annotated[Text, one_of(MESH_EXTERNAL=None, MESH_INTERNAL=None)] = "MESH_EXTERNAL"
    resolution: Annotated[
        Text,
        one_of(
            STATIC=None,
            NONE="connections go to mesh addresses only: write STATIC with endpoints",
            DNS=_DNS,
            DNS_ROUND_ROBIN=_DNS,
            DYNAMIC_DNS=_DNS,
        ),
        Field(validate_default=True),
    ] = "NONE"
    endpoints: Annotated[tuple[WorkloadEntry, ...], Field(max_length=ITEMS_MAX)] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: ExportTo = ()
    subject_alt_names: Annotated[
        Any,
        unsupported(
            "identities come from service accounts here: set serviceAccount on the endpoints"
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> ServiceEntry:
        if self.endpoints and self.workload_selector:
            raise ValueError("endpoints and workloadSelector exclude each other: keep one")
        if self.workload_selector and self.location == "MESH_EXTERNAL":
            raise ValueError("workloadSelector needs location: MESH_INTERNAL")
        return self


# networking.istio.io: traffic


class LoadBalancer(Spec):
    simple: Annotated[
        Text,
        one_of(
            UNSPECIFIED=None,
            ROUND_ROBIN=None,
            LEAST_REQUEST=None,
            LEAST_CONN=None,
            RANDOM=None,
            PASSTHROUGH="connections go to mesh addresses only: write LEAST_REQUEST",
        ),
    ] = "UNSPECIFIED"
    consistent_hash: Annotated[
        Any, unsupported("consistent hashing is not in this version: remove it")
    ] = None
    locality_lb_setting: Annotated[
        Any, unsupported("only local before remote in this version: remove it")
    ] = None
    warmup: Annotated[Any, unsupported("warm-up is not in this version: remove it")] = None
    warmup_duration_secs: Annotated[
        Any, unsupported("warm-up is not in this version: remove it")
    ] = None


class TcpKeepalive(Spec):
    probes: Count | None = None
    time: PeriodMs | None = None
    interval: PeriodMs | None = None


class TcpSettings(Spec):
    max_connections: Annotated[Count, Field(ge=1)] | None = None
    connect_timeout: PeriodMs | None = None
    tcp_keepalive: Annotated[
        TcpKeepalive | None, Approx("the system's keep-alive settings hold for all connections")
    ] = None
    max_connection_duration: PeriodMs | None = None
    idle_timeout: PeriodMs | None = None

    @model_validator(mode="after")
    def _check(self) -> TcpSettings:
        if self.connect_timeout and not self.connect_timeout.ms:
            raise ValueError("connectTimeout must be at least 1ms")
        return self


class HttpSettings(Spec):
    http1_max_pending_requests: Count | None = Field(None, alias="http1MaxPendingRequests")
    http2_max_requests: Count | None = Field(None, alias="http2MaxRequests")
    max_requests_per_connection: Count | None = None
    max_retries: Count | None = None
    idle_timeout: PeriodMs | None = None
    h2_upgrade_policy: Text | None = Field(None, alias="h2UpgradePolicy")
    use_client_protocol: Flag | None = None
    max_concurrent_streams: Count | None = None


class ConnectionPool(Spec):
    tcp: TcpSettings | None = None
    http: Annotated[HttpSettings | None, Approx(f"{_HTTP}, so these have no effect")] = None


class OutlierDetection(Spec):
    consecutive_errors: Annotated[
        Count | None, Approx("the old name of consecutive5xxErrors: taken as that")
    ] = None
    split_external_local_origin_errors: Flag = False
    consecutive_local_origin_failures: Count | None = None
    consecutive_gateway_errors: Count | None = None
    consecutive_5xx_errors: Count | None = Field(None, alias="consecutive5xxErrors")
    interval: Annotated[
        PeriodMs | None, Approx("an endpoint is put aside at once, not at the next sweep")
    ] = None
    base_ejection_time: PeriodMs | None = None
    max_ejection_percent: Percent = 10
    min_health_percent: Annotated[
        Percent, Approx("one endpoint is always left; no other threshold is kept")
    ] = 0


class ClientTls(Spec):
    mode: Annotated[
        Text,
        one_of(
            ISTIO_MUTUAL=None,
            DISABLE="what crosses sites is always encrypted: remove tls",
            SIMPLE="TLS to plain endpoints is not in this version: remove tls",
            MUTUAL="certificates come from the site's CA: write ISTIO_MUTUAL or remove tls",
        ),
    ]


class ProxyProtocol(Spec):
    version: Annotated[
        Text, one_of(V1="write version: V2", V2=None), Field(validate_default=True)
    ] = "V1"


class PortSelector(Spec):
    number: Port


class TrafficSettings(Spec):
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


class PortTraffic(TrafficSettings):
    port: PortSelector


class TrafficPolicy(TrafficSettings):
    port_level_settings: Annotated[tuple[PortTraffic, ...], Field(max_length=ITEMS_MAX)] = ()
    tunnel: Annotated[Any, unsupported("tunnels are not in this version: remove it")] = None
    proxy_protocol: ProxyProtocol | None = None


class Subset(Spec):
    name: Label  # it becomes part of the mesh link's server name
    labels: Labels = Field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Spec):
    host: Text
    traffic_policy: TrafficPolicy | None = None
    subsets: Annotated[tuple[Subset, ...], Field(max_length=256)] = ()
    export_to: ExportTo = ()
    workload_selector: Annotated[
        Any, unsupported("a rule holds for every client: remove workloadSelector")
    ] = None


def _not_empty(part: T) -> T:
    if not part.model_fields_set:
        raise ValueError("empty: write at least one field, or leave the entry out")
    return part
