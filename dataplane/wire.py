"""Snapshot and EndpointSet to protobuf bytes and back: both directions in one file.

Owns the correspondence with dataplane.proto. Decoding is strict: what does not fit the shapes of
`snapshot` raises WireError, so that nothing half understood reaches the workers. Never looks at
references between parts (binding and native do) nor at signatures (`seal` does).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from google.protobuf.message import DecodeError

from dataplane._gen import dataplane_pb2 as pb
from dataplane.snapshot import (
    ALL_CIPHERS,
    Action,
    Address,
    Balance,
    Bundle,
    Ciphers,
    Denied,
    Endpoint,
    EndpointKind,
    EndpointSet,
    Field,
    Grade,
    Host,
    Inbound,
    Leaf,
    Match,
    MatchOp,
    MtlsMode,
    Name,
    Network,
    Offload,
    Part,
    Policy,
    Prefer,
    Service,
    Snapshot,
    SourceAddress,
    Tls12,
)

FORMAT = 1
_KINDS = {int(kind): kind for kind in EndpointKind}
BODY_BYTES_MAX = 64 << 20  # a serialised snapshot
LOST_MAX = 64  # DP_LOST_MAX


class WireError(ValueError):
    """The bytes are not what this format says."""


@dataclass(frozen=True, slots=True)
class SetUpdate:
    """One endpoint set that replaces that of a snapshot."""

    snapshot_version: int
    sequence: int  # rises with each update of that snapshot; first is 1
    set: EndpointSet


@dataclass(frozen=True, slots=True)
class LostLinks:
    """Local addresses whose links were lost, as was seen then."""

    addresses: tuple[Address, ...]  # 1 … LOST_MAX
    seen_ns: int  # of the monotonic clock


# ------------------------------------------------------------------------------- to bytes


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Deterministic. Raises ValueError when a number does not fit its field."""
    message = pb.Snapshot(
        format=FORMAT,
        version=snapshot.version,
        trust_domain=snapshot.trust_domain,
        zones=snapshot.zones,
        own_addresses=_packed(snapshot.own_addresses),
        appliance_leaf=snapshot.appliance_leaf,
        bundles=[
            pb.Bundle(trust_domain=b.trust_domain, certs_pem=b.certs_pem) for b in snapshot.bundles
        ],
        leaves=[
            pb.Leaf(
                key=leaf.key,
                spiffe_id=leaf.spiffe_id,
                chain_pem=leaf.chain_pem,
                key_pem=leaf.key_pem,
            )
            for leaf in snapshot.leaves
        ],
        hosts=[_put_host(host) for host in snapshot.hosts],
        services=[_put_service(service) for service in snapshot.services],
        inbound=[
            pb.Inbound(sni=i.sni, service=i.service, port=i.port, set=i.set)
            for i in snapshot.inbound
        ],
        sets=[_put_set(each) for each in snapshot.sets],
        policies=[_put_policy(policy) for policy in snapshot.policies],
        names=[pb.Name(name=n.name, addresses=_packed(n.addresses)) for n in snapshot.names],
        denied=[
            pb.Denied(trust_domain=d.trust_domain, serial=d.serial, spiffe_id=d.spiffe_id)
            for d in snapshot.denied
        ],
        offload=_put_offload(snapshot.offload),
    )
    return message.SerializeToString(deterministic=True)


def encode_set_update(update: SetUpdate) -> bytes:
    return pb.SetUpdate(
        format=FORMAT,
        snapshot_version=update.snapshot_version,
        sequence=update.sequence,
        set=_put_set(update.set),
    ).SerializeToString(deterministic=True)


def encode_lost_links(lost: LostLinks) -> bytes:
    return pb.LostLinks(
        format=FORMAT, addresses=_packed(lost.addresses), seen_ns=lost.seen_ns
    ).SerializeToString(deterministic=True)


def _pack(address: Address) -> bytes:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{address}: an address with a zone cannot be sent")
    return address.packed


def _packed(addresses: Iterable[Address]) -> list[bytes]:
    return [_pack(address) for address in addresses]


def _put_offload(offload: Offload | None) -> pb.Offload | None:
    if offload is None:
        return None
    return pb.Offload(
        prefer=offload.prefer,
        tls12=offload.tls12,
        ciphers=offload.ciphers,
        bytes_min=offload.bytes_min,
    )


def _put_host(host: Host) -> pb.Host:
    return pb.Host(
        name=host.name,
        grade=host.grade,
        leaf=host.leaf,
        address=None if host.address is None else _pack(host.address),
        agent_id=host.agent_id,
    )


def _put_service(service: Service) -> pb.Service:
    return pb.Service(
        name=service.name,
        namespace=service.namespace,
        port=service.port,
        vips=_packed(service.vips),
        outbound_set=service.outbound_set,
        leaf=service.leaf,
        mtls=service.mtls,
        grade_min=service.grade_min,
        source_address=service.source_address,
        policies=service.policies,
        connect_timeout_ms=service.connect_timeout_ms,
        attempts_max=service.attempts_max,
        idle_timeout_ms=service.idle_timeout_ms,
        duration_max_ms=service.duration_max_ms,
    )


def _put_set(each: EndpointSet) -> pb.EndpointSet:
    return pb.EndpointSet(
        id=each.id,
        service=each.service,
        endpoints=[
            pb.Endpoint(
                name=e.name,
                kind=e.kind,
                address=_pack(e.address),
                port=e.port,
                priority=e.priority,
                weight=e.weight,
                healthy=e.healthy,
                target_port=e.target_port,
                sni=e.sni,
                expected=e.expected,
            )
            for e in each.endpoints
        ],
        balance=each.balance,
        connections_max=each.connections_max,
        failures_consecutive=each.failures_consecutive,
        ejection_base_ms=each.ejection_base_ms,
        ejection_max_ms=each.ejection_max_ms,
        ejection_percent_max=each.ejection_percent_max,
    )


def _put_policy(policy: Policy) -> pb.Policy:
    return pb.Policy(
        name=policy.name,
        action=policy.action,
        rules=[pb.Rule(matches=[_put_match(m) for m in rule]) for rule in policy.rules],
    )


def _put_match(match: Match) -> pb.Match:
    network = match.network
    return pb.Match(
        part=match.part,
        entry=match.entry,
        field=match.field,
        op=match.op,
        negated=match.negated,
        text=match.text,
        network=None if network is None else network.network_address.packed,
        prefix_len=0 if network is None else network.prefixlen,
        port=match.port,
        number=match.number,
    )


# ----------------------------------------------------------------------------- from bytes


def decode_snapshot(body: bytes) -> Snapshot:
    """Raises WireError."""
    message = pb.Snapshot()
    _parse(message, body)
    try:
        return Snapshot(
            version=message.version,
            trust_domain=message.trust_domain,
            zones=tuple(message.zones),
            own_addresses=_addresses(message.own_addresses),
            appliance_leaf=message.appliance_leaf if message.HasField("appliance_leaf") else None,
            bundles=tuple(Bundle(b.trust_domain, b.certs_pem) for b in message.bundles),
            leaves=tuple(
                Leaf(leaf.key, leaf.spiffe_id, leaf.chain_pem, leaf.key_pem)
                for leaf in message.leaves
            ),
            hosts=tuple(_host(host) for host in message.hosts),
            services=tuple(_service(service) for service in message.services),
            inbound=tuple(Inbound(i.sni, i.service, _port(i.port), i.set) for i in message.inbound),
            sets=tuple(_set(each) for each in message.sets),
            policies=tuple(_policy(policy) for policy in message.policies),
            names=tuple(Name(n.name, _addresses(n.addresses)) for n in message.names),
            denied=tuple(_denied(denied) for denied in message.denied),
            offload=_offload(message.offload) if message.HasField("offload") else None,
        )
    except ValueError as error:
        raise WireError(str(error)) from error


def decode_set_update(body: bytes) -> SetUpdate:
    """Raises WireError."""
    message = pb.SetUpdate()
    _parse(message, body)
    try:
        return SetUpdate(message.snapshot_version, message.sequence, _set(message.set))
    except ValueError as error:
        raise WireError(str(error)) from error


def decode_lost_links(body: bytes) -> LostLinks:
    """Raises WireError."""
    message = pb.LostLinks()
    _parse(message, body)
    if not 1 <= len(message.addresses) <= LOST_MAX:
        raise WireError(f"{len(message.addresses)} addresses: 1 to {LOST_MAX} are taken")
    return LostLinks(_addresses(message.addresses), message.seen_ns)


def _parse(message: pb.Snapshot | pb.SetUpdate | pb.LostLinks, body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise WireError(f"{len(body)} bytes: at most {BODY_BYTES_MAX} are taken")
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise WireError(f"not a {type(message).__name__} message") from error
    if message.format != FORMAT:
        raise WireError(f"format {message.format}: this process speaks format {FORMAT}")


@lru_cache(maxsize=16_384)  # most are there several times: in sets, VIPs, names and hosts
def _address(packed: bytes) -> Address:
    if len(packed) == 4:
        return IPv4Address(packed)
    if len(packed) == 16:
        return IPv6Address(packed)
    raise WireError(f"an address of {len(packed)} bytes")


def _addresses(packed: Iterable[bytes]) -> tuple[Address, ...]:
    return tuple(_address(each) for each in packed)


def _network(packed: bytes, prefix_len: int) -> Network:
    if len(packed) == 4:
        return IPv4Network((packed, prefix_len))
    if len(packed) == 16:
        return IPv6Network((packed, prefix_len))
    raise WireError(f"a network of {len(packed)} bytes")


def _port(number: int) -> int:
    if number > 0xFFFF:
        raise WireError(f"port {number}")
    return number


def _offload(m: pb.Offload) -> Offload:
    if m.ciphers > ALL_CIPHERS:
        raise WireError(f"ciphers {m.ciphers}")
    return Offload(Prefer(m.prefer), Tls12(m.tls12), Ciphers(m.ciphers), m.bytes_min)


def _host(m: pb.Host) -> Host:
    return Host(
        name=m.name,
        grade=Grade(m.grade),
        leaf=m.leaf if m.HasField("leaf") else None,
        address=_address(m.address) if m.HasField("address") else None,
        agent_id=m.agent_id if m.HasField("agent_id") else None,
    )


def _service(m: pb.Service) -> Service:
    return Service(
        name=m.name,
        namespace=m.namespace,
        port=_port(m.port),
        vips=_addresses(m.vips),
        outbound_set=m.outbound_set if m.HasField("outbound_set") else None,
        leaf=m.leaf if m.HasField("leaf") else None,
        mtls=MtlsMode(m.mtls),
        grade_min=Grade(m.grade_min),
        source_address=SourceAddress(m.source_address),
        policies=tuple(m.policies),
        connect_timeout_ms=m.connect_timeout_ms,
        attempts_max=m.attempts_max,
        idle_timeout_ms=m.idle_timeout_ms,
        duration_max_ms=m.duration_max_ms,
    )


def _set(m: pb.EndpointSet) -> EndpointSet:
    return EndpointSet(
        id=m.id,
        service=m.service,
        endpoints=tuple(_endpoint(e) for e in m.endpoints),
        balance=Balance(m.balance),
        connections_max=m.connections_max,
        failures_consecutive=m.failures_consecutive,
        ejection_base_ms=m.ejection_base_ms,
        ejection_max_ms=m.ejection_max_ms,
        ejection_percent_max=m.ejection_percent_max,
    )


def _endpoint(m: pb.Endpoint) -> Endpoint:
    return Endpoint(
        name=m.name,
        kind=_KINDS[m.kind] if m.kind in _KINDS else EndpointKind(m.kind),
        address=_address(m.address),
        port=_port(m.port),
        priority=m.priority,
        weight=m.weight,
        healthy=m.healthy,
        target_port=_port(m.target_port),
        sni=m.sni,
        expected=tuple(m.expected),
    )


def _policy(m: pb.Policy) -> Policy:
    return Policy(
        name=m.name,
        action=Action(m.action),
        rules=tuple(tuple(_match(each) for each in rule.matches) for rule in m.rules),
    )


def _match(m: pb.Match) -> Match:
    return Match(
        part=Part(m.part),
        entry=m.entry,
        field=Field(m.field),
        op=MatchOp(m.op),
        negated=m.negated,
        text=m.text,
        network=_network(m.network, m.prefix_len) if m.HasField("network") else None,
        port=_port(m.port),
        number=m.number,
    )


def _denied(m: pb.Denied) -> Denied:
    return Denied(
        trust_domain=m.trust_domain,
        serial=m.serial if m.HasField("serial") else None,
        spiffe_id=m.spiffe_id if m.HasField("spiffe_id") else None,
    )
