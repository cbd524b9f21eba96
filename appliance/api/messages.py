"""Values of the daemon as messages of the admin API. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from appliance.api._gen import admin_pb2 as pb
from appliance.apply import Outcome
from appliance.compile import Remote, ServiceView
from appliance.config.model import AnyDocument
from appliance.identity import workload_id
from appliance.observe.audit import Entry
from appliance.observe.flows import Flow
from appliance.registry.model import Endpoint, Host, HostKind, HostState, Peer, ServicePort
from appliance.registry.revisions import Revision
from appliance.site import Site
from dataplane.events import Fallback, FlowEvent, FlowKind, Reason
from dataplane.snapshot import Address

Ejected = Callable[[str, str, int], bool]


def host(value: Host, site: Site, services: Iterable[str], leaf_not_after: int | None) -> pb.Host:
    """leaf_not_after: of the delegated leaf, for a host that has none of its own."""
    return pb.Host(
        name=value.name,
        namespace=value.namespace,
        service_account=value.service_account,
        spiffe_id=workload_id(site.trust_domain, value.namespace, value.service_account),
        kind=value.kind,
        state=value.state,
        grade=value.grade.name.lower(),
        addresses=map(str, value.addresses),
        mac=value.mac or "",
        interface=value.interface or "",
        labels=value.labels,
        not_after=value.not_after or leaf_not_after or 0,
        services=services,
        serial=value.serial or "",
        added=value.added,
    )


def service(
    view: ServiceView,
    site: Site,
    hosts: Mapping[str, Host],
    ejected: Ejected,
    mtls: str,
    revoked: Iterable[Endpoint] = (),
) -> pb.Service:
    """revoked: endpoints of revoked hosts, which the view has no more."""
    remote_ids = [id for remote in view.remotes for id in remote.service.identities]
    return pb.Service(
        name=view.name,
        namespace=view.namespace,
        ports=map(_port, view.ports),
        vips=map(str, view.vips),
        spiffe_id=view.spiffe_id(site.trust_domain) or next(iter(remote_ids), ""),
        exported=view.exported,
        endpoints=[
            *(
                _endpoint(view, each, port, site, hosts, ejected)
                for each in (*view.endpoints, *revoked)
                for port in view.ports
                if port.number in view.local_ports
            ),
            *(
                _remote(view, remote, address, ejected)
                for remote in view.remotes
                for address in remote.peer.mesh_addresses
            ),
        ],
        mesh_names=view.mesh_names(site.spec.zone),
        origin=view.origin,
        mtls=mtls,
    )


def _port(port: ServicePort) -> pb.ServicePort:
    return pb.ServicePort(
        number=port.number, target=port.target, protocol=port.protocol, name=port.name
    )


def _endpoint(
    view: ServiceView,
    endpoint: Endpoint,
    port: ServicePort,
    site: Site,
    hosts: Mapping[str, Host],
    ejected: Ejected,
) -> pb.Endpoint:
    known = hosts.get(endpoint.host)
    agent = known is not None and known.kind is HostKind.AGENT
    number = endpoint.ports.get(port.number, port.target)
    reached = known.agent_port if known is not None and agent else number
    return pb.Endpoint(
        name=endpoint.host,
        address=str(endpoint.address),
        port=number,
        site=site.name,
        healthy=endpoint.healthy,
        ejected=ejected(view.key, str(endpoint.address), reached),
        kind="agent" if agent else "plain",
        weight=endpoint.weight,
        revoked=known is not None and known.state is HostState.REVOKED,
    )


def _remote(view: ServiceView, remote: Remote, address: Address, ejected: Ejected) -> pb.Endpoint:
    peer = remote.peer
    return pb.Endpoint(
        name=peer.name,
        address=str(address),
        port=peer.mesh_port,
        site=peer.name,
        healthy=remote.service.healthy,
        ejected=ejected(view.key, str(address), peer.mesh_port),
        kind="mesh",
        weight=1,
    )


def peer(value: Peer, exports: int, detail: str) -> pb.Peer:
    return pb.Peer(
        name=value.name,
        trust_domain=value.trust_domain,
        state=value.state,
        last_seen=value.last_seen,
        mesh_addresses=map(str, value.mesh_addresses),
        imports=len(value.imports),
        exports=exports,
        detail=detail,
    )


def document(value: AnyDocument, text: str, generation: int, status: str) -> pb.Document:
    return pb.Document(
        api_version=value.api_version,
        kind=value.kind,
        namespace=value.namespace,
        name=value.name,
        generation=generation,
        yaml=text,
        status=status,
    )


def outcome(value: Outcome) -> pb.ApplyReply:
    return pb.ApplyReply(
        revision=value.revision,
        changes=[
            pb.Change(kind=c.kind, namespace=c.namespace, name=c.name, what=c.what)
            for c in value.changes
        ],
        notes=[
            pb.Note(file=n.file, line=n.line, path=n.path, level=n.level, text=n.text)
            for n in value.notes
        ],
        confirm_deadline=value.confirm_deadline,
        diff=value.diff,
        apply_ms=value.apply_ms,
        identities=value.identities,
    )


def revision(value: Revision) -> pb.Revision:
    summary = f"{value.summary} ({value.reason})" if value.reason else value.summary
    return pb.Revision(
        revision=value.id, time=value.time, by=value.by, summary=summary, state=value.state
    )


def audit(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(time=entry.time, who=entry.who, what=entry.what, detail=entry.detail)


def flow(value: Flow) -> pb.Flow:
    event = value.event
    tls, cipher, fallback = _encrypted_leg(event)
    return pb.Flow(
        flow_id=event.flow_id,
        state=value.state,
        kind=event.flow.name.lower(),
        source=event.src_id,
        destination=event.dst_id,
        service=event.service,
        endpoint=event.endpoint,
        source_address=_place(event.src, event.src_port),
        target_address=_place(event.dst, event.dst_port),
        peer_address=_place(event.peer, event.peer_port),
        grade=event.grade.name.lower(),
        down_layer=event.down_layer.name.lower(),
        up_layer=event.up_layer.name.lower(),
        tls_version=tls,
        cipher=cipher,
        fallback="" if fallback is Fallback.NONE else fallback.name.lower(),
        bytes_up=event.bytes_up,
        bytes_down=event.bytes_down,
        connect_ms=event.connect_ns / 1e6,
        duration_ms=event.duration_ns / 1e6,
        reason="" if event.reason is Reason.NONE else event.reason.name.lower(),
        detail=event.detail,
        retries=event.retries,
        resumed=event.down_resumed or event.up_resumed,
        time_ms=event.time_ns // 1_000_000,
    )


def _encrypted_leg(event: FlowEvent) -> tuple[str, str, Fallback]:
    """Of the leg that crosses the network between sites or to an agent: TLS version, cipher, and
    why its records are where they are."""
    up = event.up_tls, event.up_cipher, event.up_fallback
    down = event.down_tls, event.down_cipher, event.down_fallback
    first, second = (down, up) if event.flow is FlowKind.INBOUND else (up, down)
    return first if first[0] else second


def _place(address: Address, port: int) -> str:
    """ "" when there is none."""
    if not port:
        return ""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
