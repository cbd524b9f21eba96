"""DestinationRules: how a service's connections are balanced, limited and given up on. Pure.

https://istio.io/latest/docs/reference/config/networking/destination-rule/

Limits and ejection hold as in Istio: for each client's proxy, which is the source's appliance for
all of its hosts together (a service's outbound set), and once more where the service is, for what
peers bring there (its inbound set; a subset has its own). So a service with `maxConnections: 100`
gets at most 100 connections of its own site's hosts and 100 of all peers'. Each is counted in one
place for all workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.config import istio
from appliance.config.model import Document, Model
from appliance.identity import resolve
from dataplane.snapshot import Balance

Rule = Document[istio.DestinationRule]

_BALANCE = {
    "UNSPECIFIED": Balance.LEAST_REQUEST,
    "LEAST_REQUEST": Balance.LEAST_REQUEST,
    "LEAST_CONN": Balance.LEAST_REQUEST,
    "ROUND_ROBIN": Balance.ROUND_ROBIN,
    "RANDOM": Balance.RANDOM,
}
_EJECTION_MAX_MS = 300_000  # Envoy's max_ejection_time
_FAILURES_MAX = 0xFFFF  # uint16_t in dp.h


@dataclass(frozen=True, slots=True)
class Ejection:
    failures_consecutive: int = 5  # 0 = never
    base_ms: int = 30_000
    max_ms: int = _EJECTION_MAX_MS
    percent_max: int = 10


@dataclass(frozen=True, slots=True)
class Settings:
    """Istio's defaults; but connect failures put an endpoint aside also without a rule."""

    balance: Balance = Balance.LEAST_REQUEST
    connections_max: int = 0  # 0 = no limit
    connect_timeout_ms: int = 10_000
    idle_timeout_ms: int = 3_600_000
    duration_max_ms: int = 0
    ejection: Ejection = Ejection()


DEFAULT = Settings()


def rules(model: Model, aliases: Mapping[str, str], zone: str) -> Mapping[str, Rule]:
    """Service key -> its rule; the first by namespace and name where there are several."""
    found: dict[str, Rule] = {}
    for doc in model.of(istio.DestinationRule):
        key = target(doc.spec.host, doc.namespace, aliases, zone)
        if key is not None:
            found.setdefault(key, doc)
    return found


def target(host: str, namespace: str, aliases: Mapping[str, str], zone: str) -> str | None:
    """The service key that a document means by host."""
    return aliases.get(host.lower()) or resolve(host, namespace, zone)


def sends_proxy(rule: Rule | None) -> bool:
    """Whether endpoints get a PROXY v2 header."""
    policy = rule.spec.traffic_policy if rule else None
    return policy is not None and policy.proxy_protocol is not None


def settings(rule: Rule | None, port: int, subset: istio.Subset | None = None) -> Settings:
    """A port's own settings replace the rule's; a subset's add to either, part by part."""
    general = _at(rule.spec.traffic_policy if rule else None, port)
    special = _at(subset.traffic_policy if subset else None, port)
    layers = [layer for layer in (special, general) if layer is not None]
    if not layers:
        return DEFAULT
    balancer = next((each.load_balancer for each in layers if each.load_balancer), None)
    pool = next((each.connection_pool for each in layers if each.connection_pool), None)
    outlier = next((each.outlier_detection for each in layers if each.outlier_detection), None)
    tcp = (pool.tcp if pool else None) or istio.TcpSettings()
    return Settings(
        balance=_BALANCE[balancer.simple] if balancer else DEFAULT.balance,
        connections_max=tcp.max_connections or 0,
        connect_timeout_ms=tcp.connect_timeout.ms if tcp.connect_timeout else 10_000,
        idle_timeout_ms=tcp.idle_timeout.ms if tcp.idle_timeout else 3_600_000,
        duration_max_ms=tcp.max_connection_duration.ms if tcp.max_connection_duration else 0,
        ejection=_ejection(outlier) if outlier else DEFAULT.ejection,
    )


def _at(policy: istio.TrafficPolicy | None, port: int) -> istio.TrafficSettings | None:
    for own in policy.port_level_settings if policy else ():
        if own.port.number == port:
            return own
    return policy


def _ejection(outlier: istio.OutlierDetection) -> Ejection:
    base_ms = outlier.base_ejection_time.ms if outlier.base_ejection_time else 30_000
    return Ejection(
        failures_consecutive=min(_failures(outlier), _FAILURES_MAX),
        base_ms=base_ms,
        max_ms=max(base_ms, _EJECTION_MAX_MS),
        percent_max=outlier.max_ejection_percent,
    )


def _failures(outlier: istio.OutlierDetection) -> int:
    """A failed connect counts as a 5xx and as a gateway error, unless local ones are split off."""
    if outlier.split_external_local_origin_errors:
        local = outlier.consecutive_local_origin_failures
        return 5 if local is None else local
    errors = outlier.consecutive_5xx_errors
    if errors is None:
        errors = outlier.consecutive_errors
    counts = [5 if errors is None else errors, outlier.consecutive_gateway_errors or 0]
    return min((count for count in counts if count), default=0)
