"""Documents that load, but do not fit the site: what is refused and what is approximated."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from appliance.compile import Mesh
from appliance.config.verify import refusals, verify
from appliance.registry.model import Registry
from tests.unit.appliance import sites
from tests.unit.appliance.sites import (
    REGISTRY,
    SITE,
    allocated,
    model,
    networking,
    own,
    peer_authentication,
    policy,
)

STATIC = "ports: [{number: 80, name: http}], resolution: STATIC"


def told(*texts: str, registry: Registry = REGISTRY) -> list[str]:
    documents = model(*texts)
    notes = verify(Mesh.of(documents, allocated(documents, registry), SITE))
    return [f"{note.level}: {note}" for note in notes]


def entry(spec: str, name: str = "x") -> str:
    return networking("ServiceEntry", name, "{" + spec + "}")


REFUSED = {
    "rule for no service": (
        networking("DestinationRule", "d", "{host: nothing}"),
        "0.yaml:4: spec.host: there is no service nothing.default: add a host",
    ),
    "rule for a foreign name": (
        networking("DestinationRule", "d", "{host: api.example.com}"),
        "0.yaml:4: spec.host: there is no service api.example.com",
    ),
    "port that is not there": (
        networking(
            "DestinationRule", "d",
            "{host: web, trafficPolicy: {portLevelSettings: [{port: {number: 81}}]}}",
        ),
        "0.yaml:4: spec.trafficPolicy.portLevelSettings[0].port.number: web.default has no such",
    ),
    "subset twice": (
        networking("DestinationRule", "d", "{host: web, subsets: [{name: a}, {name: a}]}"),
        "0.yaml:4: spec.subsets[1]: a is there twice",
    ),
    "PROXY for a subset": (
        networking(
            "DestinationRule", "d",
            "{host: web, subsets: [{name: a, trafficPolicy: {proxyProtocol: {version: V2}}}]}",
        ),
        "0.yaml:4: spec.subsets[0].trafficPolicy.proxyProtocol: holds for the whole service",
    ),
    "service that hosts registered": (
        entry(f"hosts: [web], {STATIC}"),
        "0.yaml:4: spec.hosts[0]: web.default is registered by hosts already",
    ),
    "wildcard": (
        entry(f"hosts: ['*.example.com'], {STATIC}"),
        "0.yaml:4: spec.hosts[0]: wildcards are not in this version",
    ),
    "two foreign hosts": (
        entry(f"hosts: [a.example.com, b.example.com], {STATIC}"),
        "0.yaml:4: spec.hosts[1]: x.default stands for one host",
    ),
    "port twice": (
        entry("hosts: [a], resolution: STATIC, "
              "ports: [{number: 80, name: a}, {number: 80, name: b}]"),
        "0.yaml:4: spec.ports[1]: 80 is there twice",
    ),
    "no virtual address": (
        own("Service", "x", "{ports: [{port: 1}], addresses: [10.0.0.1]}"),
        "0.yaml:4: spec.addresses[0]: not a virtual address: take one of 198.19.0.0/16",
    ),
    "host with our address": (
        own("Host", "h", "{addresses: [198.18.0.1]}"),
        "0.yaml:4: spec.addresses[0]: 198.18.0.1 is the appliance's own",
    ),
    "host with a virtual address": (
        own("Host", "h", "{addresses: [198.19.0.1]}"),
        "0.yaml:4: spec.addresses[0]: 198.19.0.1 is the appliance's own or a virtual one",
    ),
    "host with another's address": (
        own("Host", "h", "{addresses: [198.18.0.11]}"),
        "0.yaml:4: spec.addresses[0]: 198.18.0.11 is bound to web1 already",
    ),
    "host that was added": (
        own("Host", "web1", "{addresses: [198.18.0.99]}"),
        "0.yaml:3: metadata.name: the host web1 was added already",
    ),
    "host elsewhere": (
        own("Host", "h", "{addresses: [198.18.0.99], interface: eth9}"),
        "0.yaml:4: spec.interface: hosts are on eth1",
    ),
    "workload's port": (
        policy("{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}"),
        "0.yaml:4: spec.rules[0].to[0].operation.ports[0]: the workload's port; here ports are "
        "the service's: write 80 (web.default)",
    ),
    "workload's port in when": (
        policy("{rules: [{when: [{key: destination.port, values: ['8080']}]}]}"),
        "0.yaml:4: spec.rules[0].when[0].values[0]: the workload's port",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, expected = REFUSED[name]
    lines = [line for line in told(text) if line.startswith("refused")]
    assert len(lines) == 1
    assert lines[0].startswith(f"refused: {expected}")


def test_two_documents_for_one_thing() -> None:
    rule = "{host: web.default.svc.cluster.local}"
    pairs = [
        (networking("DestinationRule", "a", "{host: web}"),
         networking("DestinationRule", "b", rule)),
        (peer_authentication("{}", "a"), peer_authentication("{mtls: {mode: STRICT}}", "b")),
        (own("Service", "x", "{ports: [{port: 1}]}"), entry(f"hosts: [x.default.mesh], {STATIC}")),
        (entry(f"hosts: [y], {STATIC}", "a"), entry(f"hosts: [y.default.mesh], {STATIC}", "b")),
        (own("Host", "h1", "{addresses: [198.18.0.99]}"),
         own("Host", "h2", "{addresses: [198.18.0.99]}")),
        (own("Service", "x", "{ports: [{port: 1}], addresses: [198.19.1.1]}"),
         own("Service", "y", "{ports: [{port: 1}], addresses: [198.19.1.1]}")),
    ]  # fmt: skip
    for first, second in pairs:
        lines = [line for line in told(first, second) if line.startswith("refused")]
        assert len(lines) == 1
        assert lines[0].startswith("refused: 1.yaml:")
        assert not [line for line in told(first) if line.startswith("refused")]


APPROXIMATED = {
    "old name": (
        networking(
            "DestinationRule", "d",
            "{host: web, trafficPolicy: {outlierDetection: {consecutiveErrors: 5}}}",
        ),
        "spec.trafficPolicy.outlierDetection.consecutiveErrors: the old name of "
        "consecutive5xxErrors",
    ),
    "old balancer": (
        networking(
            "DestinationRule", "d",
            "{host: web, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}",
        ),
        "spec.trafficPolicy.loadBalancer.simple: the old name of LEAST_REQUEST",
    ),
    "exportTo": (
        networking("DestinationRule", "d", "{host: web, exportTo: ['.']}"),
        "spec.exportTo: every namespace of the site sees it",
    ),
    "subset of nobody": (
        networking("DestinationRule", "d", "{host: web, subsets: [{name: a, labels: {b: c}}]}"),
        "spec.subsets[0].labels: no endpoint of this site has these labels now",
    ),
    "HTTP allow": (
        policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        "spec.rules[0].to[0].operation.methods: HTTP is not looked into in this version: the rule "
        "allows nothing",
    ),
    "HTTP deny": (
        policy("{action: DENY, rules: [{when: [{key: 'request.headers[a]', values: [b]}]}]}"),
        "spec.rules[0].when[0].key: HTTP is not looked into in this version: the rule denies as if",
    ),
    "policy for nobody": (
        policy("{selector: {matchLabels: {app: nobody}}}"),
        "spec.selector: it holds for no service of this site now",
    ),
    "policy for a part": (
        policy("{selector: {matchLabels: {version: v1}}}"),
        "spec.selector: it selects only some workloads of web.default",
    ),
    "port of nobody": (
        policy("{rules: [{to: [{operation: {ports: ['81']}}]}]}"),
        "spec.rules[0].to[0].operation.ports[0]: no service that it holds for has this port",
    ),
    "foreign name": (
        entry(f"hosts: [api.example.com], {STATIC}, endpoints: [{{address: 198.18.9.9}}]", "api"),
        "spec.hosts[0]: DNS answers mesh names only: hosts reach it as api.default.mesh",
    ),
    "workload for nobody": (
        networking("WorkloadEntry", "w", "{address: 198.18.9.9, labels: {app: nobody}}"),
        "spec.labels: no ServiceEntry or Service of its namespace selects its labels",
    ),
    "locality": (
        networking("WorkloadEntry", "w", "{address: 198.18.9.9, locality: r/z}"),
        "spec.locality: endpoints of the site come before those of other sites",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APPROXIMATED)
def test_approximated(name: str) -> None:
    text, expected = APPROXIMATED[name]
    lines = told(text)
    assert any(line.startswith(f"approximated: 0.yaml:4: {expected}") for line in lines), lines
    assert not any(line.startswith("refused") for line in lines)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (
            "{rules: [{from: [{source: {namespaces: [a], serviceAccounts: [x]}}]}]}",
            ["from[0].source.namespaces", "from[0].source.serviceAccounts"],
        ),
        ("{rules: [{when: [{key: source.namespace, values: [a]}]}]}", ["when[0].key"]),
        ("{rules: [{from: [{source: {namespaces: [a], trustDomains: ['*']}}]}]}", []),
        ("{rules: [{from: [{source: {notNamespaces: [a]}}]}]}", []),
        ("{action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}", []),
        (
            "{action: DENY, rules: [{from: [{source: {notNamespaces: [a]}}],"
            " when: [{key: source.serviceAccount, notValues: [b]}]}]}",
            ["from[0].source.notNamespaces", "when[0].key"],
        ),
    ],
)
def test_whose_names_are_meant_is_said_once_there_are_peers(spec: str, where: list[str]) -> None:
    text = "of this site; for a peer's name its trust domain too, by trustDomains or principals"
    expected = [f"approximated: 0.yaml:4: spec.rules[0].{each}: {text}" for each in where]
    assert told(policy(spec)) == expected
    assert told(policy(spec), registry=replace(REGISTRY, peers=())) == []


@pytest.mark.parametrize(
    ("field", "text", "good"),
    [
        ("principals", "cluster.local*", "cluster.local/*"),
        ("notPrincipals", "clus*", "cluster.local/*"),
        ("principals", "a.example*", "cluster.local/*"),
        ("principals", "old.example", "cluster.local/*"),
        ("principals", "*cluster.local/ns/x/sa/y", "cluster.local/ns/x/sa/y"),
        ("trustDomains", "cluster.*", "cluster.local"),
        ("notTrustDomains", "*.example", "cluster.local"),
        *(("principals", text, None) for text in
          ("*", "cluster.local/*", "*/sa/web", "*web", "b.example*", "b.example/ns/x/*")),
        *(("trustDomains", text, None) for text in ("*", "cluster.local", "b.*")),
    ],
)  # fmt: skip
def test_a_wildcard_misses_no_spelling_of_our_own(field: str, text: str, good: str | None) -> None:
    for action in ("ALLOW", "DENY"):
        rule = f"{{action: {action}, rules: [{{from: [{{source: {{{field}: ['{text}']}}}}]}}]}}"
        expected = [
            f"refused: 0.yaml:4: spec.rules[0].from[0].source.{field}[0]: '{text}' would not match "
            f"every name of this site: write {good}"
        ]
        assert told(policy(rule)) == (expected if good else [])
    if field == "principals" and good:
        rule = f"{{rules: [{{when: [{{key: source.principal, values: ['{text}']}}]}}]}}"
        assert "when[0].values[0]" in told(policy(rule))[0]


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("{rules: [{from: [{source: {remoteIpBlocks: [1.2.3.4]}}]}]}",
         "from[0].source.remoteIpBlocks"),
        ("{rules: [{from: [{source: {notRemoteIpBlocks: [1.2.3.4]}}]}]}",
         "from[0].source.notRemoteIpBlocks"),
        ("{rules: [{when: [{key: remote.ip, notValues: [1.2.3.4]}]}]}", "when[0].key"),
        ("{rules: [{from: [{source: {ipBlocks: [1.2.3.4]}}]}]}", None),
        ("{action: DENY, rules: [{from: [{source: {remoteIpBlocks: [1.2.3.4]}}]}]}", None),
    ],
)  # fmt: skip
def test_an_address_that_a_peer_claims_is_said_to_be_that(spec: str, where: str | None) -> None:
    text = (
        "of a peer's hosts it is the address that their appliance claims; sites may use the same: "
        "add principals or trustDomains"
    )
    expected = [f"approximated: 0.yaml:4: spec.rules[0].{where}: {text}"] if where else []
    assert told(policy(spec)) == expected


def test_a_workloads_ports_are_named_by_its_services() -> None:
    service = entry(f"hosts: [y], {STATIC}, location: MESH_INTERNAL, "
                    "workloadSelector: {labels: {app: y}}")  # fmt: skip
    good = "{address: 198.18.9.9, labels: {app: y}, ports: {http: 8080}}"
    bad = "{address: 198.18.9.9, labels: {app: y}, ports: {grpc: 8080}}"
    assert told(service, networking("WorkloadEntry", "w", good)) == []
    assert told(service, networking("WorkloadEntry", "w", bad)) == [
        "refused: 1.yaml:4: spec.ports.grpc: no service that selects it has this port: "
        "known are http"
    ]


def test_subset_whose_mesh_name_does_not_fit() -> None:
    long = "s" * 60
    registry = replace(
        REGISTRY,
        services=(replace(sites.WEB, name=long, namespace="n" * 63),),
        endpoints=(),
    )
    far = SITE.model_copy(update={"spec": SITE.spec.model_copy(update={"trust_domain": "t" * 63})})
    text = networking(
        "DestinationRule", "d", f"{{host: {long}.{'n' * 63}, subsets: [{{name: {'v' * 63}}}]}}"
    )
    (note,) = refusals(verify(Mesh.of(model(text), registry, far)))
    assert note.path == "spec.subsets[0].name"
    assert "longer than 253" in note.text


def test_the_articles_rules_fit_their_services() -> None:
    registry = replace(
        REGISTRY,
        services=(replace(sites.WEB, name="product-service"),
                  replace(sites.WEB, name="payment-service")),
    )  # fmt: skip
    data = sites.DATA / "istio"
    lines = told(
        (data / "destinationrule-product.yaml").read_text(),
        (data / "destinationrule-payment-outlier.yaml").read_text(),
        registry=registry,
    )
    assert not [line for line in lines if line.startswith("refused")]
    assert any("the old name of consecutive5xxErrors" in line for line in lines)


def test_a_document_may_ask_for_an_address_that_is_free() -> None:
    text = own("Service", "x", "{ports: [{port: 1}], addresses: [198.19.1.1]}")
    assert told(text) == []
    taken = replace(allocated(model()), vips={"web.default": (ip_address("198.19.1.1"),)})
    (note,) = refusals(verify(Mesh.of(model(text), taken, SITE)))
    assert note.text == "198.19.1.1 is web.default's already: take another"
