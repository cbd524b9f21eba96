"""Laws of compile: it holds for whatever loads, is a function, and leaves no loose end."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import compile as compiler
from appliance.compile import Mesh
from appliance.compile.authz import policy as compiled_policy
from appliance.config import istio
from appliance.config.condition import GRADES, is_http
from appliance.config.load import Source, load
from appliance.config.model import Document, Model
from appliance.config.verify import verify
from appliance.registry.model import Registry
from dataplane.binding import Certificates, build
from dataplane.snapshot import (
    Action,
    EndpointKind,
    Field,
    Grade,
    Match,
    MatchOp,
    Part,
    Policy,
    Snapshot,
)
from tests.property.documents import AUTHORIZATION, DOCUMENTS, registries
from tests.unit.appliance.sites import SITE, allocated, leaves

DOMAINS = (SITE.trust_domain, *SITE.spec.trust_domain_aliases)


def loaded(documents: list[dict[str, Any]]) -> Model:
    return load([Source("x", yaml.safe_dump_all(documents))])


@given(DOCUMENTS, registries())
@settings(max_examples=60, deadline=None)
def test_compile_is_total_and_closed(documents: list[dict[str, Any]], registry: Registry) -> None:
    model = loaded(documents)
    ready = allocated(model, registry)
    held = leaves(model, ready)
    mesh = Mesh.of(model, ready, SITE)
    snapshot = compiler.compile(mesh, held, 1)
    assert snapshot == compiler.compile(Mesh.of(loaded(documents), ready, SITE), held, 1)
    _closed(snapshot)
    for note in verify(mesh):
        assert note.line > 0
        assert note.text
    for view in mesh.views.values():
        for each in compiler.endpoint_sets(mesh, view.key):
            assert each in snapshot.sets


def _closed(snapshot: Snapshot) -> None:
    sets = {each.id: each for each in snapshot.sets}
    keys = {leaf.key for leaf in snapshot.leaves}
    policies = {policy.name for policy in snapshot.policies}
    assert len(sets) == len(snapshot.sets)
    assert len(keys) == len(snapshot.leaves)
    services = {(service.name, service.port) for service in snapshot.services}
    owners = {(vip, service.name) for service in snapshot.services for vip in service.vips}
    assert len({vip for vip, _ in owners}) == len(owners)
    assert len(services) == len(snapshot.services)
    for service in snapshot.services:
        assert service.outbound_set in sets
        assert service.leaf is None or service.leaf in keys
        assert set(service.policies) <= policies
    for entry in snapshot.inbound:
        assert (entry.service, entry.port) in services
        kinds = {endpoint.kind for endpoint in sets[entry.set].endpoints}
        assert EndpointKind.MESH not in kinds
        assert len(entry.sni) <= 253
    assert len({entry.sni for entry in snapshot.inbound}) == len(snapshot.inbound)
    for host in snapshot.hosts:
        assert host.leaf is None or host.leaf in keys
        assert (host.address is None) != (host.agent_id is None)
    bindings = [host.address or host.agent_id for host in snapshot.hosts]
    assert len(set(bindings)) == len(bindings)
    for each in snapshot.sets:
        places = {(e.kind, e.address, e.port, e.sni) for e in each.endpoints}
        assert len(places) == len(each.endpoints)
        for endpoint in each.endpoints:
            assert (endpoint.kind is EndpointKind.PLAIN) == (not endpoint.expected)
            assert bool(endpoint.sni) == bool(endpoint.expected)
            assert endpoint.weight >= 1
            if endpoint.kind is EndpointKind.MESH:
                assert endpoint.priority > 0
                assert all(i.startswith("spiffe://b.example/ns/") for i in endpoint.expected)
    assert len(set(snapshot.denied)) == len(snapshot.denied)
    assert len({name.name for name in snapshot.names}) == len(snapshot.names)
    assert len({bundle.trust_domain for bundle in snapshot.bundles}) == len(snapshot.bundles)


@given(DOCUMENTS, registries())
@settings(max_examples=25, deadline=None)
def test_health_moves_nothing_but_sets(documents: list[dict[str, Any]], registry: Registry) -> None:
    """And what is brought up to date is as if it had been made anew."""
    model = loaded(documents)
    ready = allocated(model, registry)
    held = leaves(model, ready)
    flipped = replace(
        ready, endpoints=tuple(replace(e, healthy=not e.healthy) for e in ready.endpoints)
    )
    mesh, anew = Mesh.of(model, ready, SITE), Mesh.of(model, flipped, SITE)
    before, after = compiler.compile(mesh, held, 1), compiler.compile(anew, held, 1)
    assert replace(before, sets=()) == replace(after, sets=())
    updated = mesh.updated(flipped, mesh.views.keys())
    assert updated == anew
    assert list(updated.views) == list(anew.views)
    bare = Mesh.of(model, registry, SITE)
    assert bare.allocated(ready) == mesh


@given(DOCUMENTS, registries())
@settings(max_examples=60, deadline=None)
def test_the_data_plane_takes_what_compile_makes(
    documents: list[dict[str, Any]], registry: Registry
) -> None:
    """All of it but certificates, which are no texts of ours."""
    model = loaded(documents)
    snapshot = compiler.compile(Mesh.of(model, allocated(model, registry), SITE), {}, 1)
    build(replace(snapshot, bundles=()), Certificates())


@dataclass(frozen=True)
class Connection:
    """What a rule is asked about; principal is None for a source that is not known."""

    principal: str | None
    address: IPv4Address
    port: int
    grade: Grade

    @property
    def account(self) -> tuple[str, str, str]:
        trust_domain, _, namespace, _, name = (self.principal or "////").split("/")
        return trust_domain, namespace, name


CONNECTIONS = st.builds(
    Connection,
    st.sampled_from(
        [None, "a.example/ns/default/sa/web", "old.example/ns/default/sa/web",
         "b.example/ns/prod/sa/a", "b.example/ns/default/sa/db", "a.example/ns/prod/sa/db"]
    ),
    st.sampled_from(["198.18.0.11", "198.18.7.7", "203.0.113.4"]).map(IPv4Address),
    st.sampled_from([80, 81, 443]),
    st.sampled_from(Grade),
)  # fmt: skip


@given(AUTHORIZATION, CONNECTIONS)
@settings(max_examples=300, deadline=None)
def test_compiled_rules_decide_as_istio_says(spec: dict[str, Any], asked: Connection) -> None:
    parsed = istio.AuthorizationPolicy.model_validate(spec)
    doc = Document("security.istio.io/v1", "AuthorizationPolicy", "default", "p", parsed)
    assert _evaluate(compiled_policy(doc, DOMAINS), asked) == _oracle(parsed, asked)


def _evaluate(policy: Policy, asked: Connection) -> bool:
    """As native/src/policy.c does it."""
    return any(
        _part(rule, Part.FROM, asked, any)
        and _part(rule, Part.TO, asked, any)
        and _part(rule, Part.WHEN, asked, all)
        for rule in policy.rules
    )


def _part(rule: tuple[Match, ...], part: Part, asked: Connection, quantifier: Any) -> bool:
    entries = sorted({match.entry for match in rule if match.part is part})
    held = [
        _entry([m for m in rule if m.part is part and m.entry == entry], asked) for entry in entries
    ]
    return not held or bool(quantifier(held))


def _entry(matches: list[Match], asked: Connection) -> bool:
    for field in {match.field for match in matches}:
        positive = [m for m in matches if m.field is field and not m.negated]
        negated = [m for m in matches if m.field is field and m.negated]
        if positive and not any(_value(match, asked) for match in positive):
            return False
        if any(_value(match, asked) for match in negated):
            return False
    return True


def _value(match: Match, asked: Connection) -> bool:
    if match.field in (Field.IP, Field.REMOTE_IP):
        assert match.network is not None
        return asked.address in match.network
    if match.field is Field.PORT:
        return asked.port == match.port
    if match.field is Field.GRADE:
        return asked.grade >= match.number
    trust_domain, namespace, name = asked.account
    text = {
        Field.PRINCIPAL: asked.principal or "",
        Field.NAMESPACE: namespace,
        Field.TRUST_DOMAIN: trust_domain,
        Field.SERVICE_ACCOUNT: f"{namespace}/{name}" if asked.principal else "",
    }[match.field]
    if match.op is MatchOp.PRESENT:
        return text != ""
    if match.op is MatchOp.PREFIX:
        return text.startswith(match.text)
    if match.op is MatchOp.SUFFIX:
        return text.endswith(match.text)
    return text == match.text


def _oracle(spec: istio.AuthorizationPolicy, asked: Connection) -> bool:
    """Straight from Istio's reference, field by field; None = only HTTP has it."""
    action = Action.DENY if spec.action == "DENY" else Action.ALLOW
    return any(_rule(rule, asked, action) for rule in spec.rules)


def _rule(rule: istio.Rule, asked: Connection, action: Action) -> bool:
    asks = any(when.key == "source.principal" and when.values for when in rule.when or ())
    entries = [entry.source for entry in rule.sources or ()] or [istio.Source.model_construct()]
    named = [bool(asks or entry.principals or entry.trust_domains) for entry in entries]
    sources = [
        [
            *_source(entry, asked, _Ours(asked, action, each)),
            *(
                _condition(condition, asked, _Ours(asked, action, ours))
                for ours in [each if action is Action.DENY else all(named)]
                for condition in rule.when or ()
            ),
        ]
        for entry, each in zip(entries, named, strict=True)
    ]
    operations = [_operation(entry.operation, asked) for entry in rule.to or ()]
    verdicts = [verdict for entry in (*sources, *operations) for verdict in entry]
    if action is Action.ALLOW and None in verdicts:
        return False
    return any(all(v is not False for v in entry) for entry in sources) and (
        not operations or any(all(v is not False for v in entry) for entry in operations)
    )


class _Ours:
    """Names without a trust domain: ours allow; only ours are spared a DENY. Named: anyone's."""

    def __init__(self, asked: Connection, action: Action, named: bool) -> None:
        ours = named or asked.account[0] in DOMAINS
        self._allows = ours or action is Action.DENY
        self._spares = ours or action is Action.ALLOW

    def positive(self, patterns: Any, text: str) -> bool:
        return not patterns or (_texts(patterns, text) and self._allows)

    def negative(self, patterns: Any, text: str) -> bool:
        return not (_texts(patterns, text, False) and self._spares)


def _accounts(texts: tuple[str, ...] | None) -> list[str]:
    return [text if "/" in text else f"default/{text}" for text in texts or ()]


def _source(source: istio.Source, asked: Connection, ours: _Ours) -> list[bool | None]:
    trust_domain, namespace, name = asked.account
    account = f"{namespace}/{name}" if asked.principal else ""
    return [
        _texts(_own(source.principals), _own_of(asked.principal)),
        not _texts(_own(source.not_principals), _own_of(asked.principal), False),
        ours.positive(source.namespaces, namespace),
        ours.negative(source.not_namespaces, namespace),
        ours.positive(_accounts(source.service_accounts), account),
        ours.negative(_accounts(source.not_service_accounts), account),
        _texts(_own(source.trust_domains), _own_of(trust_domain)),
        not _texts(_own(source.not_trust_domains), _own_of(trust_domain), False),
        _blocks(source.ip_blocks, asked),
        not _blocks(source.not_ip_blocks, asked, False),
        _blocks(source.remote_ip_blocks, asked),
        None if source.request_principals else True,
    ]


def _operation(operation: istio.Operation, asked: Connection) -> list[bool | None]:
    return [
        not operation.ports or asked.port in operation.ports,
        asked.port not in (operation.not_ports or ()),
        None if operation.methods or operation.not_paths else True,
    ]


def _condition(condition: istio.Condition, asked: Connection, ours: _Ours) -> bool | None:
    if is_http(condition.key):
        return None
    _, namespace, name = asked.account
    if condition.key == "source.namespace":
        values, others = condition.values, condition.not_values
        return ours.positive(values, namespace) and ours.negative(others, namespace)
    if condition.key == "source.serviceAccount":
        account = f"{namespace}/{name}" if asked.principal else ""
        accounts, not_accounts = _accounts(condition.values), _accounts(condition.not_values)
        return ours.positive(accounts, account) and ours.negative(not_accounts, account)

    def holds(texts: tuple[str, ...] | None, empty: bool) -> bool:
        if not texts:
            return empty
        if condition.key == "source.ip":
            return any(asked.address in ip_network(text, strict=False) for text in texts)
        if condition.key == "destination.port":
            return str(asked.port) in texts
        if condition.key == "sluice.grade":
            return any(asked.grade >= GRADES[text] for text in texts)
        return _texts(_own(texts), _own_of(asked.principal))

    return holds(condition.values, True) and not holds(condition.not_values, False)


def _own(texts: tuple[str, ...] | None) -> list[str]:
    """One spelling for the own trust domain."""
    return [
        "@" + text.removeprefix(domain)
        if (domain := text.split("/")[0]) in (*DOMAINS, "cluster.local")
        else text
        for text in texts or ()
    ]


def _own_of(text: str | None) -> str:
    return "" if not text else _own((text,))[0]


def _texts(patterns: Any, text: str, empty: bool = True) -> bool:
    if not patterns:
        return empty
    return bool(text) and any(
        text.endswith(pattern[1:]) if pattern.startswith("*")
        else text.startswith(pattern[:-1]) if pattern.endswith("*")
        else text == pattern
        for pattern in patterns
    )  # fmt: skip


def _blocks(networks: Any, asked: Connection, empty: bool = True) -> bool:
    return empty if not networks else any(asked.address in network for network in networks)
