"""Hypothesis strategies for documents, hosts and services of a small world."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from hypothesis import strategies as st

from appliance.config.tree import plain_scalar
from appliance.registry.model import (
    Endpoint,
    Host,
    HostKind,
    HostState,
    ImportedService,
    Peer,
    PeerState,
    Registry,
    Service,
    ServicePort,
)
from dataplane.snapshot import Grade

NAMES = st.sampled_from(["a", "b", "web", "db"])
NAMESPACES = st.sampled_from(["default", "prod", "istio-system"])
PORTS = st.sampled_from([80, 81, 443, 5432])
PAIRS = st.tuples(st.sampled_from(["app", "version"]), st.sampled_from(["web", "db", "v1"]))
LABELS = st.lists(PAIRS, max_size=2).map(dict)
ADDRESSES = st.integers(0, 40).map(lambda number: str(IPv4Address("198.18.0.10") + number))
PRINCIPALS = st.sampled_from(
    ["*", "cluster.local/ns/default/sa/web", "a.example/ns/default/*", "*/sa/db",
     "b.example/ns/prod/sa/a", "old.example/ns/default/sa/web"]
)  # fmt: skip
BLOCKS = st.sampled_from(["198.18.0.0/28", "198.18.0.0/15", "198.18.0.11", "2001:db8::/32"])
# Texts that a YAML 1.1 writer leaves unquoted and YAML 1.2 takes for numbers are left out.
TEXTS = st.text(max_size=20).filter(lambda text: isinstance(plain_scalar(text), str) or not text)
DURATIONS = st.sampled_from(["1s", "250ms", "1m30s", "0.5s"])


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def some(items: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(items, min_size=1, max_size=most)


ACCOUNTS = st.sampled_from(["web", "prod/a", "default/db"])
TRUST_DOMAINS = st.sampled_from(["cluster.local", "b.example", "*"])
SELECTORS = st.fixed_dictionaries({"matchLabels": LABELS})
SOURCES = optional(
    principals=some(PRINCIPALS), notPrincipals=some(PRINCIPALS), ipBlocks=some(BLOCKS),
    notIpBlocks=some(BLOCKS), remoteIpBlocks=some(BLOCKS), requestPrincipals=some(NAMES),
    namespaces=some(st.sampled_from(["default", "prod", "d*", "*t", "*"])),
    notNamespaces=some(NAMESPACES), serviceAccounts=some(ACCOUNTS),
    notServiceAccounts=some(ACCOUNTS), trustDomains=some(TRUST_DOMAINS),
    notTrustDomains=some(TRUST_DOMAINS),
).filter(bool)  # fmt: skip
OPERATIONS = optional(
    ports=some(PORTS.map(str)), notPorts=some(PORTS.map(str)), methods=some(st.just("GET")),
    notPaths=some(st.just("/x")),
).filter(bool)  # fmt: skip
CONDITIONS = st.one_of(
    *(
        st.fixed_dictionaries({"key": st.just(key), side: some(values)})
        for side in ("values", "notValues")
        for key, values in (
            ("source.ip", BLOCKS),
            ("source.principal", PRINCIPALS),
            ("source.namespace", NAMESPACES),
            ("source.serviceAccount", ACCOUNTS),
            ("destination.port", PORTS.map(str)),
            ("sluice.grade", st.sampled_from(["l3", "l2", "port", "key"])),
            ("request.headers[x]", NAMES),
        )
    )
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": some(st.fixed_dictionaries({"source": SOURCES})),
        "to": some(st.fixed_dictionaries({"operation": OPERATIONS})),
        "when": some(CONDITIONS),
    },
)
AUTHORIZATION = optional(
    selector=SELECTORS, action=st.sampled_from(["ALLOW", "DENY"]),
    rules=st.lists(RULES, max_size=2),
)  # fmt: skip
MODES = st.fixed_dictionaries(
    {"mode": st.sampled_from(["UNSET", "STRICT", "PERMISSIVE", "DISABLE"])}
)
AUTHENTICATION = st.one_of(
    optional(mtls=MODES),
    st.fixed_dictionaries(
        {"selector": some(PAIRS).map(lambda pairs: {"matchLabels": dict(pairs)})},
        optional={"mtls": MODES,
                  "portLevelMtls": st.dictionaries(PORTS.map(str), MODES, max_size=2)},
    ),
)  # fmt: skip
TRAFFIC = {
    "loadBalancer": optional(simple=st.sampled_from(["RANDOM", "LEAST_CONN", "ROUND_ROBIN"])),
    "connectionPool": optional(
        tcp=optional(maxConnections=st.integers(1, 9), connectTimeout=DURATIONS,
                     idleTimeout=DURATIONS)
    ),
    "outlierDetection": optional(
        consecutive5xxErrors=st.integers(0, 9), consecutiveErrors=st.integers(0, 9),
        baseEjectionTime=DURATIONS, maxEjectionPercent=st.integers(0, 100),
    ),
}  # fmt: skip
POLICIES = optional(
    **TRAFFIC,
    portLevelSettings=st.lists(
        st.fixed_dictionaries({"port": st.fixed_dictionaries({"number": PORTS})}, optional=TRAFFIC),
        max_size=2,
    ),
)
DESTINATION = st.fixed_dictionaries(
    {"host": st.one_of(NAMES, st.sampled_from(["web.default.mesh", "api.example.com", "*.x"]))},
    optional={
        "trafficPolicy": POLICIES,
        "subsets": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["v1", "v2", "v" * 63])},
                optional={"labels": LABELS, "trafficPolicy": POLICIES},
            ),
            max_size=2,
        ),
        "exportTo": st.just(["*"]),
    },
)
PORT_NAMES = st.sampled_from(["http", "tcp"])
WORKLOAD = st.fixed_dictionaries(
    {"address": ADDRESSES},
    optional={"labels": LABELS, "weight": st.integers(0, 9), "serviceAccount": NAMES,
              "ports": st.dictionaries(PORT_NAMES, PORTS, max_size=2)},
)  # fmt: skip
ENTRY = st.fixed_dictionaries(
    {
        "hosts": some(
            st.one_of(NAMES, st.sampled_from(["api.example.com", "web.prod.mesh", "*.x"]))
        ),
        "ports": some(
            st.fixed_dictionaries(
                {"number": PORTS, "name": PORT_NAMES}, optional={"targetPort": PORTS}
            )
        ),
        "resolution": st.just("STATIC"),
        "location": st.just("MESH_INTERNAL"),
    },
    optional={"endpoints": st.lists(WORKLOAD, max_size=3)},
)
SERVICE = st.fixed_dictionaries(
    {"ports": some(st.fixed_dictionaries({"port": PORTS}, optional={"targetPort": PORTS}))},
    optional={
        "selector": SELECTORS, "export": st.booleans(), "serviceAccount": NAMES,
        "addresses": st.just(["198.19.9.9"]),
        "sourceAddress": st.sampled_from(["appliance", "proxy"]),
    },
)  # fmt: skip
HOST = st.fixed_dictionaries(
    {"addresses": some(ADDRESSES)},
    optional={"mac": st.just("02:00:00:00:00:01"), "interface": st.just("eth1")},
)
OFFLOAD = st.fixed_dictionaries(
    {},
    optional={
        "prefer": st.sampled_from(["auto", "user", "ktls", "nic", "openssl"]),
        "minimumBytes": st.integers(0, 2**40),
        "tls": st.sampled_from([{}, {"minVersion": "1.2"}, {"minVersion": "1.3"}]),
        "ciphers": some(st.sampled_from(["AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305"])),
    },
)

KINDS: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "AuthorizationPolicy": ("security.istio.io/v1", AUTHORIZATION),
    "PeerAuthentication": ("security.istio.io/v1beta1", AUTHENTICATION),
    "DestinationRule": ("networking.istio.io/v1alpha3", DESTINATION),
    "ServiceEntry": ("networking.istio.io/v1", ENTRY),
    "WorkloadEntry": ("networking.istio.io/v1", WORKLOAD),
    "Service": ("sluice.dev/v1", SERVICE),
    "Host": ("sluice.dev/v1", HOST),
    "OffloadProfile": ("sluice.dev/v1", OFFLOAD),
}


def _document(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    api_version, specs = KINDS[kind]
    return st.fixed_dictionaries(
        {
            "apiVersion": st.just(api_version),
            "kind": st.just(kind),
            "metadata": st.fixed_dictionaries(
                {"name": NAMES, "namespace": NAMESPACES},
                optional={"labels": LABELS, "annotations": st.dictionaries(
                    st.sampled_from(["note", "x.example/y"]), TEXTS, max_size=2
                )},
            ),
            "spec": specs,
        }
    )  # fmt: skip


def _key(document: dict[str, Any]) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata["namespace"], metadata["name"]


DOCUMENTS = st.lists(st.sampled_from(sorted(KINDS)).flatmap(_document), max_size=10, unique_by=_key)


@st.composite
def registries(draw: Callable[..., Any]) -> Registry:
    hosts = draw(st.lists(_hosts(), max_size=5))
    services = draw(st.lists(_services(), max_size=4, unique_by=lambda service: service.key))
    endpoints = draw(st.lists(_endpoints(), max_size=6))
    peers = draw(st.lists(_peers(), max_size=2))
    denied = draw(st.lists(st.sampled_from(["spiffe://a.example/ns/default/sa/web", "x"])))
    return Registry(
        tuple(hosts), tuple(services), tuple(endpoints), tuple(peers), "BUNDLE",
        denied_ids=tuple(denied),
    )  # fmt: skip


def _hosts() -> st.SearchStrategy[Host]:
    return st.builds(
        Host, NAMES, NAMESPACES, st.sampled_from(["web", "db", "Not Good"]),
        st.sampled_from(HostKind), st.sampled_from(HostState), st.just(Grade.L3),
        st.lists(ADDRESSES.map(IPv4Address), max_size=2).map(tuple),
        labels=LABELS,
    )  # fmt: skip


def _ports() -> st.SearchStrategy[tuple[ServicePort, ...]]:
    ports = st.lists(st.builds(ServicePort, PORTS, PORTS), min_size=1, max_size=2,
                     unique_by=lambda port: port.number)  # fmt: skip
    return ports.map(tuple)


def _services() -> st.SearchStrategy[Service]:
    return st.builds(
        Service, NAMES, NAMESPACES, st.sampled_from(["web", "db"]), _ports(), LABELS, st.booleans()
    )


def _endpoints() -> st.SearchStrategy[Endpoint]:
    return st.builds(
        Endpoint, st.tuples(NAMES, NAMESPACES).map(".".join), NAMES, ADDRESSES.map(IPv4Address),
        st.dictionaries(PORTS, PORTS, max_size=1), LABELS, st.integers(1, 5), st.booleans(),
    )  # fmt: skip


def _peers() -> st.SearchStrategy[Peer]:
    imports = st.builds(
        ImportedService, st.sampled_from(["web", "far", "Not Good"]), NAMESPACES, _ports(),
        st.lists(st.sampled_from(
            ["spiffe://b.example/ns/default/sa/web", "spiffe://a.example/ns/x/sa/y", "?"]
        ), max_size=2).map(tuple),
        st.just(("v1",)), st.booleans(),
    )  # fmt: skip
    return st.builds(
        Peer, NAMES, st.sampled_from(["a.example", "b.example"]), st.just("BUNDLE"),
        st.lists(ADDRESSES.map(IPv4Address), max_size=2).map(tuple), st.just(15008),
        ADDRESSES.map(IPv4Address), st.just(15010), st.sampled_from(PeerState), st.just(0),
        st.lists(imports, max_size=3).map(tuple),
    )  # fmt: skip
