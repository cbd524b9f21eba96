"""Who may talk to whom: identities, grades and policies on traffic of two whole sites.

web (a1) is l2, orders (a3) has a key, files (b2) is l3; a2 is not enrolled.
"""

from __future__ import annotations

import time

import pytest

from appliance.agent import intercept
from appliance.demo.topology import SiteSpace
from tests.netns.helpers import REFUSED, ask, connect, ended, line
from tests.netns.mesh import Mesh

WEB, ORDERS = "a.example/ns/default/sa/web", "a.example/ns/default/sa/orders"


def authentication(mode: str, grade: str = "", app: str = "") -> str:
    name = app or "default"
    notes = f", annotations: {{sluice.dev/grade: {grade}}}" if grade else ""
    selector = f"selector: {{matchLabels: {{app: {app}}}}}, " if app else ""
    return f"""\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: default{notes}}}
spec: {{{selector}mtls: {{mode: {mode}}}}}
"""


def authorization(action: str, rules: str, name: str = "test", app: str = "payments") -> str:
    return f"""\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  action: {action}
  rules: {rules}
"""


def source(**fields: object) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in fields.items())
    return "[{from: [{source: {" + inner + "}}]}]"


def refused_as(mesh: Mesh, site: SiteSpace, since: float, reason: str, **wanted: str) -> str:
    return mesh.flow(site, since, state="refused", reason=reason, **wanted).detail


# -- authentication --------------------------------------------------------------------------------


def test_strict_refuses_a_host_that_is_not_enrolled(mesh: Mesh) -> None:
    """Of its own site's services, and of others'."""
    for service, reason in (("web", "unidentified"), ("payments", "no_identity")):
        since = time.time()
        assert mesh.ask("a2", service, 8080) in REFUSED
        flow = mesh.flow(mesh.a, since, state="refused", service=f"{service}.default")
        assert (flow.source, flow.reason) == ("", reason)


def test_a_host_with_a_key_is_nobody_without_it(mesh: Mesh) -> None:
    """What goes round its agent comes from its address alone, which proves nothing here."""
    a3, vip = mesh.a.hosts["a3"], mesh.vip(mesh.a, "web")
    since = time.time()
    assert ask(a3.namespace, vip, 8080, mark=intercept.MARK) in REFUSED
    flow = mesh.flow(mesh.a, since, service="web.default", state="refused")
    assert (flow.source, flow.grade, flow.reason) == ("", "none", "unidentified")
    assert flow.source_address.startswith(str(a3.ipv4))


def test_permissive_lets_it_in_at_its_own_site_only(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authentication("PERMISSIVE"))
    mesh.apply(mesh.b, authentication("PERMISSIVE"))
    since = time.time()
    assert mesh.ask("a2", "web", 8080).startswith("web")
    flow = mesh.flow(mesh.a, since, service="web.default", state="closed")
    assert (flow.source, flow.grade, flow.tls_version) == ("", "none", "")
    # Between sites there is no stream without an identity.
    assert mesh.ask("a2", "payments", 8080) in REFUSED
    flow = mesh.flow(mesh.a, since, service="payments.default")
    assert flow.reason == "no_identity"


def test_permissive_is_no_way_round_a_policy(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authentication("PERMISSIVE"))
    mesh.apply(mesh.a, authorization("ALLOW", source(principals=f"[{ORDERS}]"), app="web"))
    assert mesh.ask("a2", "web", 8080) in REFUSED
    assert mesh.ask("a3", "web", 8080).startswith("web")


def test_a_weaker_mode_for_one_service_holds_for_that_one(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authentication("PERMISSIVE", app="web"))
    assert mesh.ask("a2", "web", 8080).startswith("web")
    mesh.apply(mesh.b, authentication("PERMISSIVE", app="ledger"))
    with mesh.address("198.18.0.81", "b2") as stranger:
        assert mesh.ask("b2", "ledger", 8080, source=stranger).startswith("ledger")
        assert mesh.ask("b2", "payments", 8080, source=stranger) in REFUSED


@pytest.mark.parametrize(
    ("grade", "let_in"),
    [("l3", {"a1", "a3", "guest"}), ("l2", {"a1", "a3"}), ("port", {"a3"}), ("key", {"a3"})],
)
def test_strict_asks_for_a_grade_across_sites(mesh: Mesh, grade: str, let_in: set[str]) -> None:
    mesh.apply(mesh.b, authentication("STRICT", grade))
    address = "198.18.0.82"
    with mesh.guest(address, "weak"):
        for who, host, at in (("a1", "a1", None), ("a3", "a3", None), ("guest", "a2", address)):
            since = time.time()
            said = mesh.ask(host, "payments", 8080, source=at)
            assert said.startswith("payments") == (who in let_in), (who, said)
            if who not in let_in:
                detail = refused_as(mesh, mesh.a, since, "grade", service="payments.default")
                assert f"requires grade {grade}" in detail


def test_grade_in_a_condition(mesh: Mesh) -> None:
    mesh.apply(mesh.b, authorization("ALLOW", "[{when: [{key: sluice.grade, values: [key]}]}]"))
    assert mesh.ask("a3", "payments", 8080).startswith("payments")
    assert mesh.ask("a1", "payments", 8080) in REFUSED
    assert mesh.ask("b3", "payments", 8080).startswith("payments")


# -- authorization ---------------------------------------------------------------------------------

ALLOWED = [
    (source(principals=f"[{WEB}]"), {"a1"}),
    (source(principals='["a.example/*"]'), {"a1", "a3"}),
    (source(principals='["*/sa/orders"]'), {"a3"}),
    (source(principals='["*"]'), {"a1", "a3", "b3"}),
    (source(notPrincipals=f"[{WEB}]"), {"a3", "b3"}),
    (source(principals='["cluster.local/ns/default/sa/ledger"]'), {"b3"}),
    (source(principals='["cluster.local/ns/default/sa/web"]'), set[str]()),
    (source(namespaces="[default]", trustDomains='["*"]'), {"a1", "a3", "b3"}),
    (source(namespaces="[default]", trustDomains="[a.example]"), {"a1", "a3"}),
    (source(namespaces="[other]"), set[str]()),
    (source(ipBlocks="[198.18.0.8/29]"), {"b3"}),  # of a1 and a3, the address of their appliance
    (source(ipBlocks="[198.18.255.1]"), {"a1", "a3"}),
    (source(ipBlocks="[198.18.0.0/16]", notIpBlocks="[198.18.0.13/32]"), {"a1", "a3"}),
    (source(ipBlocks='["::/0"]'), set[str]()),
    (source(remoteIpBlocks="[198.18.0.11]"), {"a1"}),
    (source(remoteIpBlocks="[198.18.0.8/29]"), {"a1", "a3", "b3"}),
    (source(remoteIpBlocks="[198.18.0.0/16]", notRemoteIpBlocks="[198.18.0.13/32]"), {"a1"}),
    ("[{to: [{operation: {ports: ['8080']}}]}]", {"a1", "a3", "b3"}),
    ("[{to: [{operation: {ports: ['8081']}}]}]", set[str]()),
    (source(namespaces="[default]", principals=f"[{ORDERS}]"), {"a3"}),
    ("[]", set[str]()),
    ("[{}]", {"a1", "a3", "b3"}),
]


@pytest.mark.parametrize(("rules", "let_in"), ALLOWED, ids=[rules for rules, _ in ALLOWED])
def test_allow_lets_in_whom_it_names_and_deny_all_but_them(
    mesh: Mesh, rules: str, let_in: set[str]
) -> None:
    """a1 and a3 come over the mesh link, b3 from payments' own site."""
    mesh.apply(mesh.b, authorization("ALLOW", rules))
    assert reached(mesh) == let_in
    mesh.apply(mesh.b, authorization("DENY", rules))
    assert reached(mesh) == {"a1", "a3", "b3"} - let_in


def reached(mesh: Mesh) -> set[str]:
    """The others are refused by policy, and for no other reason."""
    found = set()
    for host in ("a1", "a3", "b3"):
        since = time.time()
        said = mesh.ask(host, "payments", 8080)
        if said.startswith("payments"):
            found.add(host)
            continue
        assert said in REFUSED
        site = mesh.topology.sites[host[0]]
        flow = mesh.flow(site, since, state="refused", service="payments.default")
        assert flow.reason == "denied", flow
    return found


@pytest.mark.parametrize(
    ("action", "fields", "let_in"),
    [
        ("ALLOW", {"namespaces": "[default]"}, {"b3"}),
        ("ALLOW", {"serviceAccounts": "[default/web, default/ledger]"}, {"b3"}),
        ("DENY", {"namespaces": "[default]"}, set[str]()),
        ("DENY", {"notNamespaces": "[default]"}, {"b3"}),
    ],
)
def test_a_peer_is_let_in_by_no_name_that_it_gives_itself(
    mesh: Mesh, action: str, fields: dict[str, str], let_in: set[str]
) -> None:
    mesh.apply(mesh.b, authorization(action, source(**fields)))
    assert reached(mesh) == let_in


def test_ports_are_told_apart_and_other_services_left_alone(mesh: Mesh) -> None:
    mesh.apply(mesh.b, authorization("DENY", "[{to: [{operation: {ports: ['8081']}}]}]"))
    assert mesh.ask("a1", "payments", 8081) in REFUSED
    assert mesh.ask("a1", "payments", 8080).startswith("payments")
    assert mesh.ask("a1", "files", 9000).startswith("files")


def test_deny_goes_before_allow_and_the_source_is_told_which(mesh: Mesh) -> None:
    mesh.apply(mesh.b, authorization("ALLOW", "[{}]", "everyone"))
    mesh.apply(mesh.b, authorization("DENY", source(principals=f"[{WEB}]"), "no-web"))
    since = time.time()
    with mesh.counts(mesh.b, "reason_denied"):
        assert mesh.ask("a1", "payments", 8080) in REFUSED
    for site in (mesh.a, mesh.b):
        detail = refused_as(mesh, site, since, "denied", service="payments.default")
        assert detail == "denied by AuthorizationPolicy default/no-web, rule 1"
    assert mesh.ask("a3", "payments", 8080).startswith("payments")


def test_an_allow_that_nobody_matches_names_itself_at_the_source(mesh: Mesh) -> None:
    mesh.apply(mesh.b, authorization("ALLOW", source(principals="[x.example/*]"), "strangers"))
    since = time.time()
    assert mesh.ask("a1", "payments", 8080) in REFUSED
    detail = refused_as(mesh, mesh.a, since, "denied", service="payments.default")
    assert "AuthorizationPolicy default/strangers" in detail


# -- live streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["a1", "a3", "b3"])
def test_a_live_stream_ends_when_its_permission_is_withdrawn(mesh: Mesh, host: str) -> None:
    site = mesh.topology.sites[host[0]]
    since = time.time()
    vip = mesh.vip(site, "payments")
    with connect(site.hosts[host].namespace, vip, 8080) as live:
        assert line(live).startswith("payments")
        with mesh.counts(mesh.b, "reason_reauthorized"):
            deny = source(principals='["*"]')
            mesh.apply(mesh.b, authorization("DENY", deny, "nobody-now"))
            assert ended(live) in REFUSED
    flow = mesh.flow(mesh.b, since, reason="reauthorized", state="closed")
    assert flow.service == "payments.default"
    assert "AuthorizationPolicy default/nobody-now" in flow.detail


def test_a_live_stream_lives_through_changes_that_do_not_concern_it(mesh: Mesh) -> None:
    vip = mesh.vip(mesh.a, "payments")
    with connect(mesh.a.hosts["a1"].namespace, vip, 8080) as live:
        assert line(live).startswith("payments")
        for number in range(5):
            deny = authorization("DENY", source(principals=f"[{ORDERS}]"), f"no-{number}")
            mesh.apply(mesh.b, deny)
            live.sendall(b"still there?\n")
            assert line(live) == "still there?"


def test_a_stricter_mode_ends_streams_without_an_identity(mesh: Mesh) -> None:
    mesh.apply(mesh.a, authentication("PERMISSIVE"))
    vip = mesh.vip(mesh.a, "web")
    with connect(mesh.a.hosts["a2"].namespace, vip, 8080) as live:
        assert line(live).startswith("web")
        mesh.apply(mesh.a, authentication("STRICT"))
        assert ended(live) in REFUSED
