"""Interleaved rounds, and what contestants are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane import binding, wire
from dataplane.snapshot import Snapshot
from perf.bench import ROUNDS_TIMES_MAX, Bench, Null, Options
from perf.peers import envoy, haproxy, nginx, sluice
from perf.peers.contestant import Contestant, Profile, Task, Wiring
from perf.pki import CLIENT_NAME, CLIENT_PATH, SERVER_PATH
from perf.process import BenchError
from perf.scenarios import policies


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Options(5, 1.0, (Profile.BARE,), frozenset(), "", 7, 0, 1, tmp_path))


@pytest.fixture
def task(bench: Bench) -> Callable[[Wiring, Profile], Task]:
    return lambda wiring, profile: bench.task(wiring, profile)


def contestant(name: str) -> Contestant:
    return Contestant(name, "127.0.0.1", 1, 1, lambda: (1,))


async def test_every_round_has_everybody_once_in_changing_order(bench: Bench) -> None:
    seen: list[str] = []

    async def trial(each: Contestant) -> dict[str, float]:
        seen.append(each.name)
        return {"order": len(seen)}

    running = [contestant(name) for name in "abc"]
    result = await bench.interleave("small", Profile.BARE, running, trial, Null("absent"))
    found = result.rounds
    rounds = [tuple(seen[at : at + 3]) for at in range(0, len(seen), 3)]
    assert len(rounds) == 6  # the first does not count
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    assert {name: len(each) for name, each in found.items()} == {"a": 5, "b": 5, "c": 5}
    assert min(each["order"] for found in found.values() for each in found) == 4


async def test_nobody_is_no_result(bench: Bench) -> None:
    async def trial(each: Contestant) -> dict[str, float]:
        return {}

    with pytest.raises(BenchError, match="nobody competes"):
        await bench.interleave("small", Profile.BARE, [], trial, Null("a"))


async def test_a_restless_round_is_made_anew_and_restless_machines_are_refused(
    bench: Bench,
) -> None:
    """By the null's word alone: what the others had in that round does not matter."""
    costs = iter([9.0, 10.0, 30.0, 10.5, 10.2, 29.0, 9.9, 10.1])

    async def trial(each: Contestant) -> dict[str, float]:
        return {"cpu_us": next(costs) if each.name == "null" else 1.0}

    running = [contestant("null"), contestant("a")]
    result = await bench.interleave("small", Profile.BARE, running, trial, Null("null"))
    assert [each["cpu_us"] for each in result.rounds["null"]] == [10.0, 10.5, 10.2, 9.9, 10.1]
    assert len(result.rounds["a"]) == 5
    assert result.as_json()["rounds_made"] == 7
    result.check()
    costs = iter(float(2**step) for step in range(100))
    result = await bench.interleave("small", Profile.BARE, running, trial, Null("null"))
    assert len(result.rounds["null"]) == 5 * ROUNDS_TIMES_MAX
    with pytest.raises(BenchError, match="says nothing"):
        result.check()


def test_tasks_share_no_port(bench: Bench) -> None:
    tasks = [bench.task(Wiring.PAIR, Profile.MESH) for _ in range(20)]
    ports = Counter(
        port for each in tasks for port in (each.port, each.port + 1, sluice.mesh_port(each))
    )
    assert max(ports.values()) == 1
    assert len({each.scratch for each in tasks}) == 20


TextOf = Callable[[Task, str], str]


@pytest.mark.parametrize(
    ("text_of", "identity", "log"),
    [
        (lambda task, hop: haproxy.config(task, hop, False), "ssl_c_s_dn(cn)", "log stdout"),
        (nginx.config, f'"CN={CLIENT_NAME}"', "-access.log"),
        (lambda t, hop: json.dumps(envoy.config(t, hop)), f"a.bench/{CLIENT_PATH}", "-access.log"),
    ],
    ids=["haproxy", "nginx", "envoy"],
)
def test_mesh_profile_adds_identity_and_log_and_no_more(
    task: Callable[[Wiring, Profile], Task], text_of: TextOf, identity: str, log: str
) -> None:
    given = task(Wiring.PAIR, Profile.MESH)
    bare, mesh = (text_of(replace(given, profile=each), "b") for each in Profile)
    assert identity in mesh
    assert log in mesh
    assert identity not in bare
    assert log not in bare


@pytest.mark.parametrize("text_of", [lambda t, h: haproxy.config(t, h, False), nginx.config])
def test_pair_asks_for_certificates_on_both_sides(
    task: Callable[[Wiring, Profile], Task], text_of: TextOf
) -> None:
    given = task(Wiring.PAIR, Profile.BARE)
    source, target = text_of(given, "a"), text_of(given, "b")
    assert "client.pem" in source
    assert "b-ca.pem" in source
    assert "server.pem" in target
    assert "a-ca.pem" in target
    assert "TLS_AES_128_GCM_SHA256" in source
    assert "TLS_AES_128_GCM_SHA256" in target


@pytest.mark.parametrize("wiring", Wiring)
def test_our_snapshots_are_good(task: Callable[[Wiring, Profile], Task], wiring: Wiring) -> None:
    given = task(wiring, Profile.MESH)
    snapshots: tuple[Snapshot, ...] = (sluice.local_snapshot(given),)
    if wiring is Wiring.PAIR:
        snapshots = sluice.pair_snapshots(given)
        expected = snapshots[0].sets[0].endpoints[0].expected
        assert expected == (f"spiffe://b.bench/{SERVER_PATH}",)
        assert snapshots[0].sets[0].endpoints[0].sni == snapshots[1].inbound[0].sni
    for each in snapshots:
        assert wire.decode_snapshot(wire.encode_snapshot(each)) == each
        binding.build(each, binding.Certificates())


def test_ten_thousand_policies_are_attached_as_said(
    task: Callable[[Wiring, Profile], Task],
) -> None:
    base = sluice.local_snapshot(task(Wiring.PLAIN, Profile.MESH))
    spread = policies.with_policies(base, 10)
    assert len(spread.policies) == policies.POLICIES + 1
    assert len(spread.services) == policies.SERVICES
    assert len(spread.services[0].policies) == 11
    assert sum(len(each.policies) for each in spread.services) >= 0.99 * policies.POLICIES
    assert len(policies.with_policies(base, 10_000).services[0].policies) == 10_001
