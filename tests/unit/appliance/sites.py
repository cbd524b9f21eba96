"""A small site that the tests of config and compile share: values, no behaviour."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from appliance import compile as compiler
from appliance.compile import Mesh
from appliance.config.load import Source, load
from appliance.config.model import Model
from appliance.registry.model import (
    Endpoint,
    Host,
    HostKind,
    HostState,
    ImportedService,
    Peer,
    Registry,
    Service,
    ServicePort,
)
from appliance.site import Site
from dataplane.snapshot import Grade, Leaf, Snapshot

DATA = Path(__file__).parents[2] / "data"
SITE = Site.model_validate(
    {
        "apiVersion": "sluice.dev/v1",
        "kind": "Site",
        "metadata": {"name": "a"},
        "spec": {
            "trustDomain": "a.example",
            "trustDomainAliases": ["old.example"],
            "appliance": "edge1",
            "hosts": {"interfaces": ["eth1"], "addresses": ["198.18.0.1"]},
            "mesh": {"addresses": ["198.18.255.1"]},
        },
    }
)


def host(name: str, address: str, account: str = "default", **more: object) -> Host:
    base = Host(
        name, "default", account, HostKind.AGENTLESS, HostState.ACTIVE, Grade.L3,
        (ip_address(address),),
    )  # fmt: skip
    return replace(base, **more)  # type: ignore[arg-type]


def endpoint(service: str, name: str, address: str, **more: object) -> Endpoint:
    return replace(Endpoint(service, name, ip_address(address), {}), **more)  # type: ignore[arg-type]


WEB1 = host("web1", "198.18.0.11", "web", mac="02:00:00:00:00:11")
WEB2 = host("web2", "198.18.0.12", "web", kind=HostKind.AGENT)
DB1 = host("db1", "198.18.0.21", "db", interface="eth1")
WEB = Service("web", "default", "web", (ServicePort(80, 8080, "http", "http"),))
DB = Service("db", "default", "db", (ServicePort(5432, 5432),))
PEER = Peer(
    "b", "b.example", "BUNDLE-B", (ip_address("198.18.255.2"), ip_address("2001:db8::2")), 15008,
    ip_address("198.18.255.2"), 15010,
    imports=(
        ImportedService(
            "payments", "default", (ServicePort(443, 443),),
            ("spiffe://b.example/ns/default/sa/payments", "spiffe://a.example/ns/x/sa/y"),
        ),
        ImportedService("db", "default", (ServicePort(5432, 5432), ServicePort(5433, 5433)),
                        ("spiffe://b.example/ns/default/sa/db",)),
    ),
)  # fmt: skip
REGISTRY = Registry(
    hosts=(WEB1, WEB2, DB1),
    services=(WEB, DB),
    endpoints=(
        endpoint("web.default", "web1", "198.18.0.11", labels={"version": "v1"}),
        endpoint("web.default", "web2", "198.18.0.12", labels={"version": "v2"}),
        endpoint("db.default", "db1", "198.18.0.21"),
    ),
    peers=(PEER,),
    bundle_pem="BUNDLE-A",
)


def model(*texts: str) -> Model:
    return load([Source(f"{number}.yaml", text) for number, text in enumerate(texts)])


def policy(spec: str, name: str = "p", namespace: str = "default") -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def peer_authentication(
    spec: str, name: str = "p", namespace: str = "default", annotations: str = "{}"
) -> str:
    return (
        "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}, annotations: {annotations}}}\n"
        f"spec: {spec}\n"
    )


def networking(kind: str, name: str, spec: str) -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}}}\nspec: {spec}\n"
    )


def own(kind: str, name: str, spec: str, labels: str = "{}") -> str:
    return (
        f"apiVersion: sluice.dev/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, labels: {labels}}}\nspec: {spec}\n"
    )


def allocated(documents: Model, registry: Registry = REGISTRY) -> Registry:
    """With an address for each service and an id for each set, as the store gives them."""
    wanted = compiler.allocations(Mesh.of(documents, registry, SITE))
    vips = {
        key: (SITE.spec.vip.ipv4[number + 10], SITE.spec.vip.ipv6[number + 10])
        for number, key in enumerate(wanted.vip_keys)
    }
    return replace(
        registry,
        vips=vips,
        sets={key: number for number, key in enumerate(wanted.set_keys, 1)},
    )


def leaves(documents: Model, registry: Registry = REGISTRY) -> dict[str, Leaf]:
    return {
        need.key: Leaf(need.key, need.spiffe_id, "CHAIN", "KEY")
        for need in compiler.leaf_needs(Mesh.of(documents, registry, SITE))
    }


def compiled(*texts: str, registry: Registry = REGISTRY) -> Snapshot:
    documents = model(*texts)
    return compiler.compile(
        Mesh.of(documents, allocated(documents, registry), SITE), leaves(documents, registry), 1
    )
