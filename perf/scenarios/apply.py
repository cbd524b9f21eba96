"""How long a change takes until every worker runs it: 1,000 services with 10,000 endpoints, and
one endpoint of them.

Timed: documents loaded and verified, compiled, published and applied by the data plane. Not
timed: the store, and the CA, which has issued the leaves before. `first`: no leaf is known to the
process yet; `again`: a later apply of the same; `endpoint`: one endpoint's health.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from appliance import compile as compiler
from appliance.config.load import Source, load
from appliance.config.model import Model
from appliance.config.verify import refusals, verify
from appliance.registry.model import (
    Endpoint,
    Host,
    HostKind,
    HostState,
    Registry,
    Service,
    ServicePort,
)
from appliance.site import Site
from dataplane.snapshot import Grade, Leaf
from perf.bench import OURS, Bench, Result
from perf.peers import sluice
from perf.peers.contestant import Profile, Wiring
from perf.pki import Authority
from perf.process import BenchError

SERVICES, ENDPOINTS_EACH = 1_000, 10
HOSTS = IPv4Address("198.18.0.0")


def documents() -> str:
    """A policy for each service."""
    return "---\n".join(
        f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p{number}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: s{number}}}}}
  rules:
  - from: [{{source: {{principals: ["a.bench/ns/default/sa/s{(number + 1) % SERVICES}"]}}}}]
    to: [{{operation: {{ports: ["80"]}}}}]
"""
        for number in range(SERVICES)
    )


def registry(bundle: str) -> Registry:
    """A host for each service, each service on ten hosts."""
    hosts = tuple(
        Host(
            f"h{number}",
            "default",
            f"s{number}",
            HostKind.AGENTLESS,
            HostState.ACTIVE,
            Grade.L3,
            (HOSTS + 10 + number,),
        )
        for number in range(SERVICES)
    )
    services = tuple(
        Service(
            f"s{number}",
            "default",
            f"s{number}",
            (ServicePort(80, 8080),),
            labels={"app": f"s{number}"},
        )
        for number in range(SERVICES)
    )
    endpoints = tuple(
        Endpoint(service.key, host.name, host.addresses[0], {})
        for number, service in enumerate(services)
        for host in (hosts[(number + step) % SERVICES] for step in range(ENDPOINTS_EACH))
    )
    return Registry(hosts=hosts, services=services, endpoints=endpoints, bundle_pem=bundle)


def allocated(model: Model, found: Registry, site: Site) -> Registry:
    """As the store would: addresses and ids by key."""
    wanted = compiler.allocations(compiler.Mesh.of(model, found, site))
    network = site.spec.vip.ipv4
    return replace(
        found,
        vips={key: (network[10 + number],) for number, key in enumerate(wanted.vip_keys)},
        sets={key: number for number, key in enumerate(wanted.set_keys, 1)},
    )


def leaves(authority: Authority, needs: tuple[compiler.LeafNeed, ...]) -> dict[str, Leaf]:
    found = {}
    for need in needs:
        path = need.spiffe_id.removeprefix(f"spiffe://{authority.trust_domain}/")
        pair = authority.leaf(path, grade="l3" if need.grade is not None else "")
        found[need.key] = Leaf(need.key, need.spiffe_id, pair.certificate, pair.key)
    return found


async def _whole(
    box: sluice.Box, text: str, found: Registry, held: Mapping[str, Leaf], version: int
) -> dict[str, float]:
    start = time.monotonic()
    model = load([Source("bench.yaml", text)])
    mesh = compiler.Mesh.of(model, found, box.site)
    if refused := refusals(verify(mesh)):
        raise BenchError(f"a document of the bench is refused: {refused[0]}")
    loaded = time.monotonic()
    snapshot = compiler.compile(mesh, held, version)
    compiled = time.monotonic()
    ack = await box.planes.publish(snapshot, timeout_s=30)
    end = time.monotonic()
    return {
        "ms": (end - start) * 1000,
        "load_ms": (loaded - start) * 1000,
        "compile_ms": (compiled - loaded) * 1000,
        "publish_ms": (end - compiled) * 1000,
        "applied_ms": ack.applied_ms,
    }


async def _endpoint(box: sluice.Box, mesh: compiler.Mesh, healthy: bool) -> dict[str, float]:
    """One endpoint's health changes."""
    changed = list(mesh.registry.endpoints)
    changed[0] = replace(changed[0], healthy=healthy)
    service = changed[0].service
    start = time.monotonic()
    mesh = mesh.updated(replace(mesh.registry, endpoints=tuple(changed)), [service])
    applied_ms = 0.0
    for each in compiler.endpoint_sets(mesh, service):
        ack = await box.planes.publish_set(each)
        applied_ms += ack.applied_ms
    return {"ms": (time.monotonic() - start) * 1000, "applied_ms": applied_ms}


async def run(bench: Bench) -> AsyncIterator[Result]:
    text = documents()
    model = load([Source("bench.yaml", text)])
    first, again, endpoint = [], [], []
    for number in range(bench.options.slow_rounds):
        task = bench.task(Wiring.PLAIN, Profile.MESH)
        async with sluice.boxes(task) as (box,):
            found = allocated(model, registry(task.material.a.bundle), box.site)
            mesh = compiler.Mesh.of(model, found, box.site)
            held = leaves(task.material.a, compiler.leaf_needs(mesh))
            first.append(await _whole(box, text, found, held, 2))
            again.append(await _whole(box, text, found, held, 3))
            endpoint.append(await _endpoint(box, mesh, healthy=False))
        bench.say(f"  round {number + 1} of {bench.options.slow_rounds}")
    notes = {"services": SERVICES, "endpoints": SERVICES * ENDPOINTS_EACH}
    for name, rounds in (("first", first), ("again", again), ("endpoint", endpoint)):
        yield Result(name, Profile.MESH, {OURS: rounds}, notes=notes)
