"""How long `sluice apply` takes through a whole site: supervisor, daemon, CA and data plane as
processes of their own, asked by the command line's client, in network namespaces. Needs root.

1,000 ServiceEntries with ten endpoints each. `new`: nothing was known before, so that the CA has
to approve and sign 1,000 identities too; `changed`: the same text, but for one endpoint's weight.
Beside the time by the clock, the CPU time of each process: on a busy machine it says more. With
each round the steps that the daemon logged are printed.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from appliance.api.client import AdminClient
from appliance.demo.topology import SiteSpace, Topology
from perf.bench import OURS, Bench, Result
from perf.peers.contestant import Profile

SERVICES, ENDPOINTS_EACH = 1_000, 10
CHANGES = 3  # in each round
BASE = IPv4Address("198.18.64.0")
PROCESSES = ("appliance.ca", "appliance.daemon", "dataplane")
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_STEP = re.compile(r"appliance\.(?:publish|apply): (\w+) \d+: (.*) ms")


def documents(weight: int) -> str:
    """weight: of one of the endpoints."""
    return "---\n".join(_document(number, weight) for number in range(SERVICES))


def _document(number: int, weight: int) -> str:
    text = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: s{number}, namespace: default}}
spec:
  hosts: [s{number}.default.mesh]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 80, name: http, protocol: TCP, targetPort: 8080}}
  endpoints:
"""
    for each in range(ENDPOINTS_EACH):
        last = number == SERVICES - 1 and each == 0
        text += f"""\
  - address: {BASE + number * ENDPOINTS_EACH + each}
    serviceAccount: s{number}
    weight: {weight if last else 1}
"""
    return text


def processes(supervisor: int) -> dict[str, int]:
    """Numbers of those below, by name."""
    found, left = {}, [supervisor]
    while left:
        pid = left.pop()
        for task in Path(f"/proc/{pid}/task").iterdir():
            left += map(int, (task / "children").read_text(encoding="ascii").split())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        found.update({name.split(".")[-1]: pid for name in PROCESSES if name in words})
    return found


def cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_MS


async def _apply(client: AdminClient, pids: Mapping[str, int], weight: int) -> dict[str, float]:
    text = documents(weight)
    before = {name: cpu_ms(pid) for name, pid in pids.items()}
    start, mine = time.monotonic(), time.process_time()
    reply = await client.apply([("bench.yaml", text)])
    ms = (time.monotonic() - start) * 1000
    spent = {f"cpu_{name}_ms": cpu_ms(pid) - before[name] for name, pid in pids.items()}
    spent["cpu_client_ms"] = (time.process_time() - mine) * 1000
    return {"ms": ms, "apply_ms": reply.apply_ms, "cpu_ms": sum(spent.values()), **spent}


async def _round(site: SiteSpace, found: Mapping[str, list[dict[str, float]]]) -> None:
    assert site.process is not None
    pids = processes(site.process.pid)
    async with AdminClient(site.paths) as client:
        found["new"].append(await _apply(client, pids, 1))
        for number in range(CHANGES):
            found["changed"].append(await _apply(client, pids, 2 + number))


def _site_round(number: int, found: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """In a thread, with a loop of its own: the topology's netlink wants none. Returns the steps
    that the daemon logged."""
    # A site has the machine to itself, unlike the harness, whose settings its processes inherit.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    with Topology(f"bench-{os.getpid()}-{number}") as topology:
        site = topology.sites["a"]
        site.start()
        asyncio.run(_round(site, found))
        return [f"    {each[1]}: {each[2]} ms" for each in _STEP.finditer(site.last_lines(10_000))]


async def run(bench: Bench) -> AsyncIterator[Result]:
    found: dict[str, list[dict[str, float]]] = {"new": [], "changed": []}
    for number in range(bench.options.slow_rounds):
        steps = await asyncio.to_thread(_site_round, number, found)
        bench.say("\n".join([f"  round {number + 1} of {bench.options.slow_rounds}", *steps]))
    notes = {"services": SERVICES, "endpoints": SERVICES * ENDPOINTS_EACH}
    for name, rounds in found.items():
        yield Result(name, Profile.MESH, {OURS: rounds}, notes=notes)
