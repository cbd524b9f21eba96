"""Snapshots: sources, services, leaves, sets, names and bundles."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance import compile as compiler
from appliance.compile import Mesh
from appliance.config.model import Model
from appliance.errors import LimitReached
from appliance.registry.model import (
    HostState,
    ImportedService,
    PeerState,
    Registry,
    ServicePort,
)
from dataplane.snapshot import (
    Balance,
    Denied,
    EndpointKind,
    EndpointSet,
    Grade,
    Snapshot,
    SourceAddress,
)
from tests.unit.appliance import sites
from tests.unit.appliance.sites import (
    DB1,
    PEER,
    REGISTRY,
    SITE,
    WEB1,
    WEB2,
    allocated,
    compiled,
    host,
    model,
    networking,
    own,
)

WEB_ID = "spiffe://a.example/ns/default/sa/web"
DB_ID = "spiffe://a.example/ns/default/sa/db"


def set_of(snapshot: Snapshot, key: str, documents: Model, registry: Registry) -> EndpointSet:
    number = allocated(documents, registry).sets[key]
    return next(each for each in snapshot.sets if each.id == number)


def endpoints(key: str, *texts: str, registry: Registry = REGISTRY) -> list[tuple[str, str, int]]:
    found = set_of(compiled(*texts, registry=registry), key, model(*texts), registry)
    return [(each.name, str(each.address), each.port) for each in found.endpoints]


def test_hosts_are_known_by_what_binds_them() -> None:
    found = {source.name: source for source in compiled().hosts}
    assert (found["web1"].grade, found["web1"].address) == (Grade.L2, WEB1.addresses[0])
    assert found["web1"].leaf == f"{WEB_ID}|l2"
    assert (found["db1"].grade, found["db1"].leaf) == (Grade.PORT, f"{DB_ID}|port")
    assert (found["web2"].agent_id, found["web2"].address) == (WEB_ID, None)
    assert (found["web2"].grade, found["web2"].leaf) == (Grade.KEY, f"{WEB_ID}|key")


@pytest.mark.parametrize("state", [HostState.PENDING, HostState.REVOKED])
def test_hosts_that_are_not_active_are_nobody(state: HostState) -> None:
    registry = replace(REGISTRY, hosts=(replace(DB1, state=state), WEB1, WEB2))
    snapshot = compiled(registry=registry)
    assert {source.grade for source in snapshot.hosts if source.name == "db1"} <= {Grade.NONE}
    assert ("db1", "198.18.0.21", 5432) not in endpoints("db.default:5432", registry=registry)
    assert f"{DB_ID}|port" not in {leaf.key for leaf in snapshot.leaves}


def test_a_revoked_host_is_known_as_such_until_another_has_its_address() -> None:
    db1 = replace(DB1, state=HostState.REVOKED)
    agent = replace(WEB2, state=HostState.REVOKED, addresses=(ip_address("198.18.0.13"),))
    registry = replace(REGISTRY, hosts=(db1, WEB1, agent))
    revoked = [each for each in compiled(registry=registry).hosts if each.grade is Grade.NONE]
    assert [(each.name, each.leaf, each.address) for each in revoked] == [
        ("db1", None, DB1.addresses[0]),
        ("web2", None, agent.addresses[0]),
    ]
    heir = replace(DB1, name="zz")
    found = compiled(registry=replace(registry, hosts=(db1, heir))).hosts
    assert [(each.name, each.grade) for each in found] == [("zz", Grade.PORT)]


def test_an_address_is_one_hosts_and_an_agents_identity_too() -> None:
    twin = replace(WEB2, name="web3", addresses=(ip_address("198.18.0.13"),))
    thief = host("zz", "198.18.0.11", "other")
    snapshot = compiled(registry=replace(REGISTRY, hosts=(*REGISTRY.hosts, twin, thief)))
    assert [source.name for source in snapshot.hosts] == ["db1", "web1", "web2"]


def test_a_leaf_that_is_not_there_yet_is_left_out() -> None:
    documents = model()
    registry = allocated(documents)
    snapshot = compiler.compile(Mesh.of(documents, registry, SITE), {}, 7)
    assert snapshot.version == 7
    assert snapshot.leaves == ()
    assert snapshot.appliance_leaf is None
    assert {source.leaf for source in snapshot.hosts} == {None}
    assert {service.leaf for service in snapshot.services} == {None}


def test_leaf_needs_name_each_identity_and_grade_once() -> None:
    needs = compiler.leaf_needs(Mesh.of(model(), REGISTRY, SITE))
    assert [(need.key, need.grade) for need in needs] == [
        (f"{DB_ID}|port", Grade.PORT),
        (f"{WEB_ID}|key", Grade.KEY),
        (f"{WEB_ID}|l2", Grade.L2),
        ("spiffe://a.example/sluice/appliance/edge1|-", None),
    ]


def test_a_service_is_as_sure_as_the_weakest_host_behind_it() -> None:
    by_port = {(s.name, s.port): s.leaf for s in compiled().services}
    assert by_port["web.default", 80] == f"{WEB_ID}|l2"
    weak = host("web9", "198.18.0.19", "web")
    registry = replace(
        REGISTRY,
        hosts=(*REGISTRY.hosts, weak),
        endpoints=(*REGISTRY.endpoints, sites.endpoint("web.default", "web9", "198.18.0.19")),
    )
    by_port = {(s.name, s.port): s.leaf for s in compiled(registry=registry).services}
    assert by_port["web.default", 80] == f"{WEB_ID}|l3"


def test_denied_identities_lose_their_leaves() -> None:
    registry = replace(
        REGISTRY,
        denied_ids=(WEB_ID, "nonsense"),
        denied_serials=(("b.example", "0a"),),
    )
    snapshot = compiled(registry=registry)
    assert snapshot.denied == (
        Denied("b.example", serial="0a"),
        Denied("a.example", spiffe_id=WEB_ID),
    )
    assert not [leaf for leaf in snapshot.leaves if leaf.spiffe_id == WEB_ID]
    kept = sites.leaves(model())  # what was in use before
    again = compiler.compile(Mesh.of(model(), allocated(model(), registry), SITE), kept, 1)
    assert not [leaf for leaf in again.leaves if leaf.spiffe_id == WEB_ID]


def test_local_endpoints_come_before_peers() -> None:
    documents = model()
    outbound = set_of(compiled(), "db.default:5432", documents, REGISTRY)
    assert [(e.name, e.kind, e.priority) for e in outbound.endpoints] == [
        ("db1", EndpointKind.PLAIN, 0), ("b", EndpointKind.MESH, 1), ("b", EndpointKind.MESH, 2),
    ]  # fmt: skip
    assert outbound.endpoints[1].sni == "_.5432.db.default.b.example"
    assert outbound.endpoints[1].expected == ("spiffe://b.example/ns/default/sa/db",)


def test_peers_reach_local_endpoints_only() -> None:
    snapshot = compiled()
    inbound = {entry.sni: entry for entry in snapshot.inbound}
    assert set(inbound) == {"_.5432.db.default.a.example", "_.80.web.default.a.example"}
    sets = {each.id: each for each in snapshot.sets}
    for entry in snapshot.inbound:
        assert all(e.kind is not EndpointKind.MESH for e in sets[entry.set].endpoints)


def test_an_agents_host_is_reached_through_it() -> None:
    outbound = set_of(compiled(), "web.default:80", model(), REGISTRY)
    plain, agent = outbound.endpoints
    assert (plain.kind, plain.port) == (EndpointKind.PLAIN, 8080)
    assert (agent.kind, agent.port, agent.target_port) == (EndpointKind.AGENT, 15009, 8080)
    assert agent.expected == (WEB_ID,)


def test_a_peer_speaks_for_its_own_trust_domain_only() -> None:
    outbound = set_of(compiled(), "payments.default:443", model(), REGISTRY)
    assert {each.expected for each in outbound.endpoints} == {
        ("spiffe://b.example/ns/default/sa/payments",)
    }
    forged = ImportedService(
        "bank", "default", (ServicePort(1, 1),), ("spiffe://a.example/ns/default/sa/db", "x")
    )
    registry = replace(REGISTRY, peers=(replace(PEER, imports=(forged,)),))
    assert endpoints("bank.default:1", registry=registry) == []


@pytest.mark.parametrize(
    "told",
    [
        ImportedService("Bad", "default", (ServicePort(1, 1),), ("spiffe://b.example/ns/x/sa/y",)),
        ImportedService("a.b", "default", (ServicePort(1, 1),), ("spiffe://b.example/ns/x/sa/y",)),
        ImportedService("a", "d/e", (ServicePort(1, 1),), ("spiffe://b.example/ns/x/sa/y",)),
        ImportedService("a", "default", (ServicePort(0, 1),), ("spiffe://b.example/ns/x/sa/y",)),
        ImportedService("a", "default", (), ("spiffe://b.example/ns/x/sa/y",)),
    ],
)
def test_what_a_peer_tells_is_not_believed_blindly(told: ImportedService) -> None:
    registry = replace(REGISTRY, peers=(replace(PEER, imports=(told,)),))
    views = Mesh.of(model(), registry, SITE).views.values()
    assert [view.key for view in views] == ["db.default", "web.default"]


def test_a_stale_peers_services_are_withdrawn_and_its_bundle_kept() -> None:
    registry = replace(REGISTRY, peers=(replace(PEER, state=PeerState.STALE),))
    snapshot = compiled(registry=registry)
    assert "payments.default" not in {service.name for service in snapshot.services}
    assert [bundle.trust_domain for bundle in snapshot.bundles] == ["a.example", "b.example"]


def test_a_peer_cannot_stand_for_our_trust_domain() -> None:
    registry = replace(REGISTRY, peers=(replace(PEER, trust_domain="a.example"),))
    snapshot = compiled(registry=registry)
    assert [bundle.certs_pem for bundle in snapshot.bundles] == ["BUNDLE-A"]
    assert "payments.default" not in {service.name for service in snapshot.services}


def test_names_and_addresses() -> None:
    snapshot = compiled()
    names = {name.name: name.addresses for name in snapshot.names}
    assert len(names["web.default.mesh"]) == 2
    assert names["web.default.mesh"] == names["web.default.svc.cluster.local"]
    assert snapshot.own_addresses == (ip_address("198.18.0.1"), ip_address("198.18.255.1"))
    assert snapshot.zones == ("mesh", "svc.cluster.local")


def test_exports_are_what_is_ours() -> None:
    exported = {
        service.key: service for service in compiler.exports(Mesh.of(model(), REGISTRY, SITE))
    }
    assert set(exported) == {"db.default", "web.default"}
    assert exported["db.default"].identities == (DB_ID,)
    assert [port.number for port in exported["db.default"].ports] == [5432]
    sick = replace(REGISTRY, endpoints=tuple(replace(e, healthy=False) for e in REGISTRY.endpoints))
    assert not any(service.healthy for service in compiler.exports(Mesh.of(model(), sick, SITE)))


def test_a_service_that_is_not_exported_has_no_server_name() -> None:
    text = own("Service", "db", "{ports: [{port: 5432}], export: false}")
    assert [entry.service for entry in compiled(text).inbound] == ["web.default"]
    exported = compiler.exports(Mesh.of(model(text), REGISTRY, SITE))
    assert [service.key for service in exported] == ["web.default"]


def test_a_service_document_describes_what_hosts_registered() -> None:
    text = own(
        "Service", "web",
        "{ports: [{port: 80, targetPort: 9090}, {port: 81}], sourceAddress: transparent,"
        " health: {kind: http, path: /ok, interval: 2s}}",
    )  # fmt: skip
    view = Mesh.of(model(text), REGISTRY, SITE).views["web.default"]
    assert (view.origin, view.service_account) == ("site", "web")
    assert view.health is not None
    assert (view.health.path, view.health.interval_ms) == ("/ok", 2000)
    services = [s for s in compiled(text).services if s.name == "web.default"]
    assert [(s.port, s.source_address) for s in services] == [
        (80, SourceAddress.TRANSPARENT), (81, SourceAddress.TRANSPARENT),
    ]  # fmt: skip
    assert endpoints("web.default:80", text)[0] == ("web1", "198.18.0.11", 9090)


def test_a_service_document_selects_hosts_and_workloads() -> None:
    texts = (
        own("Service", "cache", "{ports: [{port: 6379, name: redis}], selector: {matchLabels: "
            "{app: cache}}, serviceAccount: cache}"),
        own("Host", "c1", "{addresses: [198.18.0.31], mac: '02:00:00:00:00:31'}", "{app: cache}"),
        networking("WorkloadEntry", "c2",
                   "{address: 198.18.0.32, labels: {app: cache}, ports: {redis: 6380}, weight: 3}"),
    )  # fmt: skip
    assert endpoints("cache.default:6379", *texts) == [
        ("c1", "198.18.0.31", 6379), ("c2.default", "198.18.0.32", 6380),
    ]  # fmt: skip
    snapshot = compiled(*texts)
    leaf = next(s.leaf for s in snapshot.services if s.name == "cache.default")
    assert leaf == "spiffe://a.example/ns/default/sa/cache|l3"  # a workload is no bound host
    assert next(s.grade for s in snapshot.hosts if s.name == "c1") is Grade.L2


def test_a_service_entry_outside_the_mesh() -> None:
    text = networking(
        "ServiceEntry", "api",
        "{hosts: [api.example.com], ports: [{number: 443, name: https, protocol: TLS}], "
        "resolution: STATIC, endpoints: [{address: 198.18.9.1, ports: {https: 8443}}, "
        "{address: '2001:db8::9', weight: 4}]}",
    )  # fmt: skip
    assert endpoints("api.default:443", text) == [
        ("198.18.9.1", "198.18.9.1", 8443), ("2001:db8::9", "2001:db8::9", 443),
    ]  # fmt: skip
    snapshot = compiled(text)
    assert "api.default.mesh" in {name.name for name in snapshot.names}
    assert "api.default" not in {entry.service for entry in snapshot.inbound}
    assert "api.default" not in {
        s.key for s in compiler.exports(Mesh.of(model(text), REGISTRY, SITE))
    }
    rule = networking("DestinationRule", "d", "{host: api.example.com, trafficPolicy: "
                      "{loadBalancer: {simple: ROUND_ROBIN}}}")  # fmt: skip
    both = model(text, rule)
    found = set_of(compiled(text, rule), "api.default:443", both, REGISTRY)
    assert found.balance is Balance.ROUND_ROBIN


def test_an_address_that_a_document_asks_for_is_reserved() -> None:
    text = own("Service", "x", "{ports: [{port: 1}], addresses: [198.19.7.7]}")
    wanted = compiler.allocations(Mesh.of(model(text), REGISTRY, SITE))
    assert wanted.reserved == (ip_address("198.19.7.7"),)
    assert "x.default" not in wanted.vip_keys
    vips = {s.vips for s in compiled(text).services if s.name == "x.default"}
    assert vips == {(ip_address("198.19.7.7"),)}


def test_traffic_policy_reaches_service_and_sets() -> None:
    rule = networking(
        "DestinationRule", "d",
        "{host: web, trafficPolicy: {"
        "connectionPool: {tcp: {maxConnections: 7, connectTimeout: 250ms, idleTimeout: 0s,"
        " maxConnectionDuration: 1h}}, loadBalancer: {simple: RANDOM},"
        " proxyProtocol: {version: V2},"
        "outlierDetection: {consecutive5xxErrors: 9, consecutiveGatewayErrors: 4,"
        " baseEjectionTime: 15m, maxEjectionPercent: 50}},"
        "subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {loadBalancer:"
        " {simple: ROUND_ROBIN}}}]}",
    )  # fmt: skip
    snapshot, documents = compiled(rule), model(rule)
    service = next(s for s in snapshot.services if s.name == "web.default")
    assert (service.connect_timeout_ms, service.idle_timeout_ms, service.duration_max_ms) == (
        250, 0, 3_600_000,
    )  # fmt: skip
    assert service.source_address is SourceAddress.PROXY
    whole = set_of(snapshot, "web.default:80", documents, REGISTRY)
    assert (whole.balance, whole.connections_max) == (Balance.RANDOM, 7)
    assert (whole.failures_consecutive, whole.ejection_percent_max) == (4, 50)
    assert (whole.ejection_base_ms, whole.ejection_max_ms) == (900_000, 900_000)
    part = set_of(snapshot, "web.default:80|in|v1", documents, REGISTRY)
    assert [each.name for each in part.endpoints] == ["web1"]
    assert (part.balance, part.connections_max) == (Balance.ROUND_ROBIN, 7)
    assert "v1.80.web.default.a.example" in {entry.sni for entry in snapshot.inbound}
    (exported,) = [
        s for s in compiler.exports(Mesh.of(documents, REGISTRY, SITE)) if s.name == "web"
    ]
    assert exported.subsets == ("v1",)


def test_a_ports_own_settings_replace_the_rules() -> None:
    rule = networking(
        "DestinationRule", "d",
        "{host: db.default.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: "
        "{maxConnections: 7}}, portLevelSettings: [{port: {number: 5432}, loadBalancer: "
        "{simple: RANDOM}}]}}",
    )  # fmt: skip
    snapshot, documents = compiled(rule), model(rule)
    own_ = set_of(snapshot, "db.default:5432", documents, REGISTRY)
    other = set_of(snapshot, "db.default:5433", documents, REGISTRY)
    assert (own_.balance, own_.connections_max) == (Balance.RANDOM, 0)
    assert (other.balance, other.connections_max) == (Balance.LEAST_REQUEST, 7)


@pytest.mark.parametrize(
    ("outlier", "failures"),
    [
        ("{}", 5),
        ("{consecutiveErrors: 3}", 3),
        ("{consecutive5xxErrors: 0}", 0),
        ("{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2}", 2),
        ("{consecutive5xxErrors: 4, consecutiveErrors: 2}", 4),
        ("{splitExternalLocalOriginErrors: true, consecutive5xxErrors: 1}", 5),
        ("{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 8}", 8),
        ("{consecutive5xxErrors: 2000000}", 65535),
    ],
)
def test_connect_failures_until_ejection(outlier: str, failures: int) -> None:
    rule = networking(
        "DestinationRule", "d", f"{{host: web, trafficPolicy: {{outlierDetection: {outlier}}}}}"
    )
    found = set_of(compiled(rule), "web.default:80", model(rule), REGISTRY)
    assert found.failures_consecutive == failures


def test_health_reaches_endpoints_of_documents() -> None:
    text = networking(
        "ServiceEntry", "x",
        "{hosts: [x], ports: [{number: 1, name: a}], resolution: STATIC, location: MESH_INTERNAL,"
        " endpoints: [{address: 198.18.9.1}, {address: 198.18.9.2}]}",
    )  # fmt: skip
    registry = replace(REGISTRY, unhealthy=frozenset({("x.default", ip_address("198.18.9.2"))}))
    found = set_of(compiled(text, registry=registry), "x.default:1", model(text), registry)
    assert [each.healthy for each in found.endpoints] == [True, False]


def test_one_set_alone_is_the_snapshots() -> None:
    rule = networking("DestinationRule", "d", "{host: web, subsets: [{name: v1, labels: {a: b}}]}")
    documents = model(rule)
    registry = allocated(documents)
    snapshot, mesh = compiled(rule), Mesh.of(documents, registry, SITE)
    alone = [each for key in mesh.views for each in compiler.endpoint_sets(mesh, key)]
    assert tuple(alone) == snapshot.sets
    assert compiler.endpoint_sets(mesh, "nothing.default") == ()


def test_a_set_without_an_id_is_said() -> None:
    with pytest.raises(LimitReached, match=r"db\.default:5432"):
        compiler.compile(Mesh.of(model(), REGISTRY, SITE), {}, 1)


def test_documents_of_hosts_stand_beside_the_registrys() -> None:
    text = own("Host", "h1", "{addresses: [198.18.0.77, '2001:db8::77'], serviceAccount: batch}")
    snapshot = compiled(text)
    bound = [source for source in snapshot.hosts if source.name == "h1"]
    assert [source.address for source in bound] == [
        ip_address("198.18.0.77"), ip_address("2001:db8::77"),
    ]  # fmt: skip
    assert bound[0].leaf == "spiffe://a.example/ns/default/sa/batch|l3"
    hidden = own("Host", "web1", "{addresses: [198.18.0.78]}")
    assert ip_address("198.18.0.78") not in {s.address for s in compiled(hidden).hosts}
    assert {h.name for h in compiler.hosts(model(hidden), REGISTRY)} == {"db1", "web1", "web2"}


def test_a_workload_is_never_taken_for_a_host_of_its_name() -> None:
    texts = (
        networking(
            "ServiceEntry", "x",
            "{hosts: [x], ports: [{number: 1, name: a}], resolution: STATIC, "
            "location: MESH_INTERNAL, workloadSelector: {labels: {app: x}}}",
        ),
        networking("WorkloadEntry", "web2", "{address: 198.18.9.1, labels: {app: x}}"),
    )  # fmt: skip
    found = set_of(compiled(*texts), "x.default:1", model(*texts), REGISTRY)
    assert [(e.name, e.kind) for e in found.endpoints] == [("web2.default", EndpointKind.PLAIN)]
    leaf = next(s.leaf for s in compiled(*texts).services if s.name == "x.default")
    assert leaf == "spiffe://a.example/ns/default/sa/default|l3"
