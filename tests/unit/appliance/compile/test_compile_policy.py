"""AuthorizationPolicy and PeerAuthentication as the data plane gets them."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from appliance.compile import authz
from appliance.config import istio
from appliance.config.condition import PATH_MAX
from appliance.config.load import Source, load
from appliance.identity import ID_BYTES_MAX, LABEL_MAX
from dataplane._native import lib
from dataplane.snapshot import Action, Field, Grade, Match, MatchOp, MtlsMode, Part, Policy
from tests.unit.appliance import sites
from tests.unit.appliance.sites import REGISTRY, compiled, peer_authentication, policy


def rules(spec: str) -> tuple[tuple[Match, ...], ...]:
    (found,) = compiled(policy(spec)).policies
    return found.rules


def attached(*texts: str) -> dict[str, tuple[str, ...]]:
    return {service.name: service.policies for service in compiled(*texts).services}


def demands(*texts: str) -> dict[str, tuple[MtlsMode, Grade]]:
    services = compiled(*texts).services
    return {f"{s.name}:{s.port}": (s.mtls, s.grade_min) for s in services}


def test_empty_policies_keep_istios_meaning() -> None:
    assert rules("{}") == ()  # nothing matches: ALLOW denies all
    assert rules("{rules: [{}]}") == ((),)  # everything matches


def test_names_as_shown_to_people() -> None:
    (found,) = compiled(policy("{action: DENY, rules: [{}]}", "no")).policies
    assert found == Policy("AuthorizationPolicy default/no", Action.DENY, ((),))


def test_own_trust_domain_and_its_aliases_are_one() -> None:
    both = tuple(
        Match(Part.FROM, 0, Field.PRINCIPAL, text=f"{domain}/ns/default/sa/web")
        for domain in ("a.example", "old.example")
    )
    for domain in ("cluster.local", "a.example", "old.example"):
        spec = f"{{rules: [{{from: [{{source: {{principals: [{domain}/ns/default/sa/web]}}}}]}}]}}"
        assert rules(spec) == (both,)
    (other,) = rules("{rules: [{from: [{source: {principals: [b.example/ns/x/sa/y]}}]}]}")
    assert other == (Match(Part.FROM, 0, Field.PRINCIPAL, text="b.example/ns/x/sa/y"),)


def test_the_longest_patterns_fit_the_data_plane() -> None:
    text = f"""{{rules: [{{
      from: [{{source: {{principals: [cluster.local/{"p" * PATH_MAX}, {"q" * ID_BYTES_MAX}],
                       serviceAccounts: [{"s" * LABEL_MAX}]}}}}],
      when: [{{key: source.serviceAccount, values: [{"n" * LABEL_MAX}/{"s" * LABEL_MAX}]}}]}}]}}"""
    (doc,) = load([Source("a", policy(text))]).of(istio.AuthorizationPolicy)
    doc = replace(doc, namespace="n" * LABEL_MAX)
    (rule,) = authz.policy(doc, ("a.example", "t" * LABEL_MAX)).rules
    assert max(len(match.text) for match in rule) == ID_BYTES_MAX == lib.DP_ID_MAX


@pytest.mark.parametrize(
    ("text", "op", "rest"),
    [
        ("*", MatchOp.PRESENT, ""),
        ("*/ns/default/sa/web", MatchOp.SUFFIX, "/ns/default/sa/web"),
        ("b.example/ns/x/*", MatchOp.PREFIX, "b.example/ns/x/"),
        ("b.example/ns/x/sa/y", MatchOp.EXACT, "b.example/ns/x/sa/y"),
    ],
)
def test_wildcards(text: str, op: MatchOp, rest: str) -> None:
    (rule,) = rules(f"{{rules: [{{from: [{{source: {{principals: ['{text}']}}}}]}}]}}")
    assert rule == (Match(Part.FROM, 0, Field.PRINCIPAL, op, text=rest),)


def test_all_fields_of_a_source() -> None:
    (rule,) = rules(
        "{rules: [{from: [{source: {namespaces: [a], notNamespaces: [b*], "
        " serviceAccounts: [x, n/y], trustDomains: [cluster.local], ipBlocks: [198.18.0.9/24],"
        " notIpBlocks: ['2001:db8::/32'], remoteIpBlocks: [203.0.113.4]}}]}]}"
    )
    assert set(rule) == {
        Match(Part.FROM, 0, Field.NAMESPACE, text="a"),
        Match(Part.FROM, 0, Field.NAMESPACE, MatchOp.PREFIX, True, "b"),
        Match(Part.FROM, 0, Field.SERVICE_ACCOUNT, text="default/x"),
        Match(Part.FROM, 0, Field.SERVICE_ACCOUNT, text="n/y"),
        Match(Part.FROM, 0, Field.TRUST_DOMAIN, text="a.example"),
        Match(Part.FROM, 0, Field.TRUST_DOMAIN, text="old.example"),
        Match(Part.FROM, 0, Field.IP, network=ip_network("198.18.0.0/24")),
        Match(Part.FROM, 0, Field.IP, negated=True, network=ip_network("2001:db8::/32")),
        Match(Part.FROM, 0, Field.REMOTE_IP, network=ip_network("203.0.113.4/32")),
    }


def test_entries_ports_and_conditions() -> None:
    (rule,) = rules(
        "{rules: [{from: [{source: {trustDomains: [x]}}, {source: {trustDomains: [y]}}],"
        " to: [{operation: {ports: ['80'], notPorts: ['81']}}],"
        " when: [{key: sluice.grade, values: [l2]}, {key: destination.port, notValues: ['82']},"
        " {key: connection.sni, values: ['*.db.default.a.example']}, {key: source.ip,"
        " values: [198.18.0.0/15]}]}]}"
    )
    assert rule == (
        Match(Part.FROM, 0, Field.TRUST_DOMAIN, text="x"),
        Match(Part.FROM, 1, Field.TRUST_DOMAIN, text="y"),
        Match(Part.TO, 0, Field.PORT, port=80),
        Match(Part.TO, 0, Field.PORT, negated=True, port=81),
        Match(Part.WHEN, 0, Field.GRADE, number=Grade.L2),
        Match(Part.WHEN, 1, Field.PORT, negated=True, port=82),
        Match(Part.WHEN, 2, Field.SNI, MatchOp.SUFFIX, text=".db.default.a.example"),
        Match(Part.WHEN, 3, Field.IP, network=ip_network("198.18.0.0/15")),
    )


def own(part: Part, entry: int = 0, negated: bool = False) -> tuple[Match, ...]:
    return tuple(
        Match(part, entry, Field.TRUST_DOMAIN, negated=negated, text=domain)
        for domain in ("a.example", "old.example")
    )


PROD = Match(Part.FROM, 0, Field.NAMESPACE, text="prod")


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("from: [{source: {namespaces: [prod]}}]", (PROD, *own(Part.FROM))),
        (
            "from: [{source: {serviceAccounts: [web]}}]",
            (Match(Part.FROM, 0, Field.SERVICE_ACCOUNT, text="default/web"), *own(Part.FROM)),
        ),
        (
            "when: [{key: source.namespace, values: [prod]}]",
            (Match(Part.WHEN, 0, Field.NAMESPACE, text="prod"), *own(Part.WHEN)),
        ),
        (
            "from: [{source: {namespaces: [prod], trustDomains: [b.example]}}]",
            (PROD, Match(Part.FROM, 0, Field.TRUST_DOMAIN, text="b.example")),
        ),
        (
            "from: [{source: {namespaces: [prod], principals: ['*']}}]",
            (Match(Part.FROM, 0, Field.PRINCIPAL, MatchOp.PRESENT), PROD),
        ),
        (
            "from: [{source: {namespaces: [prod]}}], "
            "when: [{key: source.principal, values: ['b.example/*']}]",
            (PROD, Match(Part.WHEN, 0, Field.PRINCIPAL, MatchOp.PREFIX, text="b.example/")),
        ),
        (
            "from: [{source: {notNamespaces: [prod]}}]",
            (Match(Part.FROM, 0, Field.NAMESPACE, negated=True, text="prod"),),
        ),
    ],
)
def test_names_that_allow_are_of_our_own_site_unless_said(
    rule: str, matches: tuple[Match, ...]
) -> None:
    """A peer names its namespaces as it likes."""
    assert rules(f"{{rules: [{{{rule}}}]}}") == (matches,)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("from: [{source: {namespaces: [prod]}}]", (PROD,)),  # of every site
        (
            "from: [{source: {notNamespaces: [prod], ipBlocks: [198.18.0.0/24]}}]",
            (
                Match(Part.FROM, 0, Field.NAMESPACE, negated=True, text="prod"),
                Match(Part.FROM, 0, Field.IP, network=ip_network("198.18.0.0/24")),
                Match(Part.FROM, 1, Field.IP, network=ip_network("198.18.0.0/24")),
                *own(Part.FROM, 1, negated=True),
            ),
        ),
        (
            "when: [{key: source.namespace, notValues: [prod]}, {key: sluice.grade, values: [l2]}]",
            (
                Match(Part.FROM, 0, Field.NAMESPACE, negated=True, text="prod"),
                *own(Part.FROM, 1, negated=True),
                Match(Part.WHEN, 0, Field.GRADE, number=Grade.L2),
            ),
        ),
        (
            "from: [{source: {notNamespaces: [prod], trustDomains: [b.example]}}]",
            (
                Match(Part.FROM, 0, Field.NAMESPACE, negated=True, text="prod"),
                Match(Part.FROM, 0, Field.TRUST_DOMAIN, text="b.example"),
            ),
        ),
    ],
)
def test_only_our_own_sites_names_are_spared_a_deny(rule: str, matches: tuple[Match, ...]) -> None:
    assert rules(f"{{action: DENY, rules: [{{{rule}}}]}}") == (matches,)


HTTP = [
    "{to: [{operation: {ports: ['80'], methods: [GET]}}]}",
    "{to: [{operation: {ports: ['80'], notPaths: [/a]}}]}",
    "{to: [{operation: {ports: ['80']}}], from: [{source: {requestPrincipals: ['*']}}]}",
    "{to: [{operation: {ports: ['80']}}], when: [{key: 'request.auth.claims[a]', values: [b]}]}",
]


@pytest.mark.parametrize("rule", HTTP)
def test_an_allow_rule_with_http_never_matches(rule: str) -> None:
    assert rules(f"{{rules: [{rule}]}}") == ()
    assert len(rules(f"{{rules: [{rule}, {{}}]}}")) == 1


@pytest.mark.parametrize("rule", HTTP)
def test_a_deny_rule_is_taken_without_http(rule: str) -> None:
    assert rules(f"{{action: DENY, rules: [{rule}]}}") == (
        (Match(Part.TO, 0, Field.PORT, port=80),),
    )


def test_a_deny_entry_of_http_alone_matches_all() -> None:
    spec = (
        "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}, {operation: {paths: [/a]}}]}]}"
    )
    assert rules(spec) == ((),)


def test_policies_attach_by_namespace_selector_and_root() -> None:
    texts = (
        policy("{rules: [{}]}", "allow"),
        policy("{action: DENY, rules: [{}]}", "mesh", "istio-system"),
        policy("{selector: {matchLabels: {app: web}}}", "web"),
        policy("{selector: {matchLabels: {app: web, version: v1}}}", "part"),
        policy("{selector: {matchLabels: {app: web, version: v9}}}", "nobody"),
        policy("{selector: {matchLabels: {version: v2}}}", "root", "istio-system"),
        policy("{}", "elsewhere", "other"),
    )
    found = attached(*texts)
    mesh, allow = "AuthorizationPolicy istio-system/mesh", "AuthorizationPolicy default/allow"
    assert found["db.default"] == (mesh, allow)
    assert found["web.default"][0] == mesh
    assert set(found["web.default"][1:]) == {
        allow, "AuthorizationPolicy default/web", "AuthorizationPolicy default/part",
        "AuthorizationPolicy istio-system/root",
    }  # fmt: skip
    names = {each.name for each in compiled(*texts).policies}
    assert names == {name for names in found.values() for name in names}


def test_what_only_peers_offer_is_judged_by_them() -> None:
    assert attached(policy("{}"))["payments.default"] == ()
    lax = peer_authentication("{mtls: {mode: DISABLE}}")
    assert demands(lax)["payments.default:443"] == (MtlsMode.STRICT, Grade.L3)


def test_without_documents_sources_must_be_known() -> None:
    assert set(demands().values()) == {(MtlsMode.STRICT, Grade.L3)}


def test_workload_before_namespace_before_mesh() -> None:
    mesh = peer_authentication("{mtls: {mode: PERMISSIVE}}", "m", "istio-system")
    namespace = peer_authentication("{mtls: {mode: DISABLE}}", "n")
    workload = peer_authentication(
        "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: "
        "{80: {mode: PERMISSIVE}, 81: {mode: DISABLE}}}", "w",
    )  # fmt: skip
    unset = peer_authentication("{mtls: {mode: UNSET}}", "n")
    db = "db.default:5432"
    assert demands(mesh)[db][0] is MtlsMode.PERMISSIVE
    assert demands(mesh, namespace)[db][0] is MtlsMode.DISABLE
    assert demands(mesh, unset)[db][0] is MtlsMode.PERMISSIVE
    found = demands(mesh, namespace, workload)
    assert found[db][0] is MtlsMode.DISABLE
    assert found["web.default:80"][0] is MtlsMode.PERMISSIVE


def test_grades_are_inherited_like_modes() -> None:
    mesh = peer_authentication("{}", "m", "istio-system", "{sluice.dev/grade: l2}")
    web = peer_authentication(
        "{selector: {matchLabels: {app: web}}}", "w", annotations="{sluice.dev/grade: key}"
    )
    found = demands(mesh, web)
    assert found["db.default:5432"] == (MtlsMode.STRICT, Grade.L2)
    assert found["web.default:80"] == (MtlsMode.STRICT, Grade.KEY)


def test_a_policy_for_some_workloads_never_asks_for_less() -> None:
    part = "selector: {matchLabels: {version: v1}}"
    lax = peer_authentication(f"{{{part}, mtls: {{mode: DISABLE}}}}")
    assert demands(lax)["web.default:80"][0] is MtlsMode.STRICT
    below = peer_authentication("{mtls: {mode: PERMISSIVE}}", "n")
    strict = peer_authentication(f"{{{part}, mtls: {{mode: STRICT}}}}", "w")
    assert demands(below, strict)["web.default:80"][0] is MtlsMode.STRICT


def test_selectors_see_a_services_own_labels() -> None:
    registry = replace(REGISTRY, services=(replace(sites.WEB, labels={"tier": "front"}), sites.DB))
    text = policy("{selector: {matchLabels: {tier: front, app: web, version: v2}}}")
    found = {s.name: s.policies for s in compiled(text, registry=registry).services}
    assert found["web.default"] == ("AuthorizationPolicy default/p",)
    assert found["db.default"] == ()
