"""Interleaved rounds, and what contestants are told."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane import binding, wire
from dataplane.snapshot import Snapshot
from perf.bench import ROUNDS_MIN, Bench, Null, Options, Result
from perf.load_generator import Metrics, Trial
from perf.peers import envoy, haproxy, nginx, sluice
from perf.peers.contestant import Contestant, Profile, Task, Wiring
from perf.pki import CLIENT_NAME, CLIENT_PATH, SERVER_PATH
from perf.process import BenchError
from perf.scenarios import handshakes, policies


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Options(5, 1.2, 3, (Profile.BARE,), frozenset(), "", 7, 0, 1, tmp_path))


@pytest.fixture
def task(bench: Bench) -> Callable[[Wiring, Profile], Task]:
    return lambda wiring, profile: bench.task(wiring, profile)


def contestant(name: str) -> Contestant:
    return Contestant(name, "127.0.0.1", 1, 1, lambda: (1,))


class Course:
    """Trials that tell who was measured when."""

    def __init__(self) -> None:
        self.slices: list[str] = []
        self.connected = 0

    @contextlib.asynccontextmanager
    async def __call__(self, each: Contestant) -> AsyncIterator[Trial]:
        mine: list[int] = []
        self.connected += 1

        async def one() -> None:
            self.slices.append(each.name)
            mine.append(len(self.slices))

        yield Trial(one, lambda: {"first": mine[0], "slices": len(mine), "cpu_us": 1.0})


async def test_slices_of_a_round_take_turns_in_changing_order(bench: Bench) -> None:
    course, running = Course(), [contestant(name) for name in "abc"]
    result = await bench.interleave("small", Profile.BARE, running, course, Null("absent"))
    turns = [tuple(course.slices[at : at + 3]) for at in range(0, len(course.slices), 3)]
    assert len(turns) == 6 * 3  # the first round does not count
    assert all(sorted(each) == ["a", "b", "c"] for each in turns)
    assert len(set(turns)) > 3
    assert course.connected == 6 * 3
    assert {name: len(each) for name, each in result.rounds.items()} == {"a": 5, "b": 5, "c": 5}
    every = [each for rounds in result.rounds.values() for each in rounds]
    assert {each["slices"] for each in every} == {3}
    assert min(each["first"] for each in every) == 10


async def test_only_the_null_takes_part_twice(bench: Bench) -> None:
    running = [contestant(name) for name in ("a", "b", "a again", "b again")]
    result = await bench.interleave("small", Profile.BARE, running, Course(), Null("b"))
    assert result.rounds.keys() == {"a", "b", "b again"}


async def test_nobody_is_no_result(bench: Bench) -> None:
    with pytest.raises(BenchError, match="nobody competes"):
        await bench.interleave("small", Profile.BARE, [], Course(), Null("a"))


async def test_the_second_null_is_a_process_of_its_own(bench: Bench) -> None:
    @contextlib.asynccontextmanager
    async def start(task: Task) -> AsyncIterator[Contestant]:
        yield replace(contestant("null"), port=task.port)

    async with bench.contestants(
        {"null": start}, Wiring.PLAIN, Profile.BARE, Null("null"), Null("absent")
    ) as running:
        assert [each.name for each in running] == ["null", "null again"]
        assert len({each.port for each in running} | {each.origin for each in running}) == 4
    without = Bench(replace(bench.options, only=frozenset({"other"})))
    assert without.wanted({"null": start, "other": start}, Null("null")).keys() == {"other"}


def result_of(null: list[float], again: list[float], **more: list[float]) -> Result:
    """Of rounds in which `cpu_us` was that, and `p99_us` much less steady."""

    def rounds(values: list[float]) -> list[Metrics]:
        return [{"cpu_us": each, "p99_us": each**9} for each in values]

    found = {"null": null, "null again": again[::-1], **more}
    return Result(
        "small", "bare", {name: rounds(each) for name, each in found.items()}, Null("null")
    )


def test_a_restless_machine_refuses_the_run() -> None:
    calm = [10.0, 10.1, 10.2, 10.1, 10.0, 9.9, 10.0]
    assert result_of(calm, calm).refusal() is None
    assert result_of(calm, calm).too_little(7) is None
    assert "this run says nothing" in str(result_of(calm, [12.0, *calm[1:]]).refusal())
    assert Result("idle", "mesh", {"sluice": [{"kib_each": 1.0}]}).refusal() is None


def test_too_few_rounds_or_no_control_are_not_kept() -> None:
    few = [10.0] * (ROUNDS_MIN - 1)
    assert "6 rounds, of at least 7" in str(result_of(few, few).too_little(len(few)))
    alone = Result("small", "bare", {"sluice": [{"cpu_us": 1.0}] * 9}, Null("null"))
    assert alone.refusal() is None
    assert "did not take part twice" in str(alone.too_little(9))
    idle = Result("idle", "mesh", {"sluice": [{"kib_each": 1.0}]})
    assert idle.too_little(9) is None
    assert "not kept" in str(idle.too_little(1))


def test_a_line_tells_the_control_and_no_ratio_without_it() -> None:
    calm = [10.0, 10.1, 10.2, 10.1, 10.0, 9.9, 10.0]
    found = result_of(calm, calm, sluice=[each / 2 for each in calm]).as_json()
    assert found["rounds"] == 7
    assert (found["null"], found["null_metric"]) == ("null", "cpu_us")
    assert found["null_ratio"] == [1.0, 0.9804, 1.02]
    assert found["null_spread"] == 0.04
    assert found["drift"] == pytest.approx(0.03, abs=0.01)
    assert list(found["unsaid"]) == ["p99_us"]
    assert found["ratios"] == {"null": {"cpu_us": [0.5, 0.5, 0.5]}}
    assert "null again" in found["medians"]
    assert found["own"] == {}


def test_a_ratio_in_itself_has_an_interval_of_its_own() -> None:
    ours = [{"p99_growth": each} for each in (1.0, 2.0, 2.0, 2.1, 1.9, 2.0, 4.0)]
    median, low, high = Result("plain", "mesh", {"sluice": ours}).as_json()["own"]["p99_growth"]
    assert median == 2.0
    assert 1.0 <= low <= 2.0 <= high <= 4.0


def test_tasks_share_no_port(bench: Bench) -> None:
    tasks = [bench.task(Wiring.PAIR, Profile.MESH) for _ in range(20)]
    ports = Counter(
        port for each in tasks for port in (each.port, each.port + 1, sluice.mesh_port(each))
    )
    assert max(ports.values()) == 1
    assert len({each.scratch for each in tasks}) == 20


TextOf = Callable[[Task, str], str]


@pytest.mark.parametrize(
    ("text_of", "more"),
    [
        (lambda t, h: haproxy.config(t, h, False), ("ssl_c_s_dn(cn)", "log stdout", "prometheus")),
        (nginx.config, (f'"CN={CLIENT_NAME}"', "-access.log", "stub_status")),
        (nginx.http_config, (f'"CN={CLIENT_NAME}"', "-access.log", "stub_status")),
        (
            lambda t, h: json.dumps(envoy.config(t, h)),
            (f"a.bench/{CLIENT_PATH}", "-access.log", '"admin"'),
        ),
    ],
    ids=["haproxy", "nginx", "nginx-http", "envoy"],
)
def test_mesh_profile_adds_identity_log_and_metrics(
    task: Callable[[Wiring, Profile], Task], text_of: TextOf, more: tuple[str, ...]
) -> None:
    given = task(Wiring.PAIR, Profile.MESH)
    bare, mesh = (text_of(replace(given, profile=each), "b") for each in Profile)
    for each in (*more, "/b.metrics"):
        assert each in mesh
        assert each not in bare


@pytest.mark.parametrize(
    "text_of", [lambda t, h: haproxy.config(t, h, False), nginx.config, nginx.http_config]
)
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


def test_handshakes_have_to_be_what_they_are_called() -> None:
    assert handshakes.part("full", "a", 1000, 0) == 0
    assert handshakes.part("resumed", "a", 1000, 984) == 0.984
    for kind, made, resumed in (
        ("full", 1000, 1),
        ("full", 0, 0),
        ("resumed", 1000, 940),
        ("resumed", 1, 669),
    ):
        with pytest.raises(BenchError, match=f"a: {resumed} of {made} handshakes"):
            handshakes.part(kind, "a", made, resumed)
