"""What 10,000 policies of ten rules cost: new connections and small requests, against one policy.

Three of our own, interleaved: one policy; 10,000 over 1,000 services, ten of them on the service
that is measured; and all 10,000 on that one service, which nobody should do.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address

from dataplane import snapshot as s
from perf import load_generator as load
from perf.bench import OURS, Bench, Null, Result
from perf.load_generator import Entered
from perf.peers import sluice
from perf.peers.contestant import Contestant, Profile, Start, Task, Wiring

POLICIES, RULES, SERVICES = 10_000, 10, 1_000
BASE = IPv4Address("127.78.0.0")


def _policy(number: int) -> s.Policy:
    """It matches nobody of ours: each of its rules has to be looked at."""
    rules = tuple(
        (s.Match(s.Part.FROM, 0, s.Field.PRINCIPAL, text=f"a.bench/ns/p{number}/sa/r{rule}"),)
        for rule in range(RULES)
    )
    return s.Policy(f"AuthorizationPolicy default/p{number}", s.Action.DENY, rules)


def with_policies(snapshot: s.Snapshot, here: int) -> s.Snapshot:
    """here: how many of them are on the service that is measured."""
    more = tuple(_policy(number) for number in range(POLICIES))
    names = [each.name for each in more]
    measured = snapshot.services[0]
    others, left = [], names[here:]
    each = len(left) // (SERVICES - 1)
    for number in range(SERVICES - 1):
        others.append(
            replace(
                measured,
                name=f"s{number}.default",
                vips=(BASE + number + 1,),
                policies=tuple(left[number * each : (number + 1) * each]),
            )
        )
    return replace(
        snapshot,
        policies=snapshot.policies + more,
        services=(replace(measured, policies=(*measured.policies, *names[:here])), *others),
    )


def _start(name: str, here: int | None) -> Start:
    @contextlib.asynccontextmanager
    async def start(task: Task) -> AsyncIterator[Contestant]:
        async with sluice.boxes(task) as (box,):
            if here is not None:
                snapshot = with_policies(sluice.local_snapshot(task), here)
                await box.planes.publish(replace(snapshot, version=2), timeout_s=30)
            yield sluice.contestant(task, (box,), name)

    return start


STARTS = {
    OURS: _start(OURS, 10),
    "one policy": _start("one policy", None),
    "all on one service": _start("all on one service", POLICIES),
}


NULL = Null("one policy")


async def run(bench: Bench) -> AsyncIterator[Result]:
    seconds = bench.options.slice_seconds

    def fresh(contestant: Contestant) -> Entered:
        return load.connections(contestant, seconds)

    def small(contestant: Contestant) -> Entered:
        return load.requests(contestant, seconds)

    async with bench.contestants(STARTS, Wiring.PLAIN, Profile.MESH, NULL) as running:
        notes = {"policies": POLICIES, "rules": RULES}
        for name, trial in (("connections", fresh), ("small", small)):
            if bench.measures(name):
                result = await bench.interleave(name, Profile.MESH, running, trial, NULL)
                yield replace(result, notes=notes)
