"""What ends a run of the bench, what only a load or a scenario of it, and what its lines tell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from perf import machine, run
from perf.bench import Bench, Null, Result
from perf.load_generator import Metrics, Trial
from perf.peers.contestant import Contestant, Profile
from perf.process import BenchError

Scenario = Callable[[Bench], AsyncIterator[Result]]
NULL = Null("null")


def trial(fails: str = "") -> Callable[[Contestant], contextlib.AbstractAsyncContextManager[Trial]]:
    @contextlib.asynccontextmanager
    async def entered(each: Contestant) -> AsyncIterator[Trial]:
        async def one() -> None:
            if each.name == fails:
                raise BenchError("one exchange failed")

        def metrics() -> Metrics:
            return {"cpu_us": 1.0}

        yield Trial(one, metrics)

    return entered


def contestants(*names: str) -> list[Contestant]:
    return [Contestant(name, "127.0.0.1", 1, 1, lambda: (1,)) for name in names]


async def good(bench: Bench) -> AsyncIterator[Result]:
    who = contestants("sluice", "null", "null again")
    yield await bench.interleave("small", Profile.BARE, who, trial(), NULL)


async def half(bench: Bench) -> AsyncIterator[Result]:
    who = contestants("sluice", "null", "null again")
    yield await bench.interleave("bulk", Profile.BARE, who, trial(fails="sluice"), NULL)
    yield await bench.interleave("small", Profile.BARE, who, trial(), NULL)


async def alone(bench: Bench) -> AsyncIterator[Result]:
    yield await bench.interleave("small", Profile.BARE, contestants("sluice"), trial(), NULL)


def raises(error: Exception) -> Scenario:
    async def scenario(bench: Bench) -> AsyncIterator[Result]:
        async for result in good(bench):
            yield result
            raise error

    return scenario


@pytest.fixture
def run_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, list[tuple[str, str]]]]:
    """Of such scenarios, by these arguments: the exit code, and scenario and load of each line."""

    def run_them(
        scenarios: dict[str, Scenario], *arguments: str
    ) -> tuple[int, list[tuple[str, str]]]:
        monkeypatch.setattr(run, "SCENARIOS", scenarios)
        monkeypatch.setattr(
            run,
            "run_facts",
            lambda scenario, _, name: {"scenario": scenario, "commit": name, "time": "now"},
        )
        results = tmp_path / "results.jsonl"
        results.touch()
        options = run.arguments(["--results", str(results), "--slices", "2", *arguments])
        code = run.run_all(list(scenarios), options, (0, 1)).exit_code
        lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
        return code, [(each["scenario"], each["load"]) for each in lines]

    return run_them


@pytest.mark.parametrize(
    "error", [BenchError("no"), TimeoutError(), FileNotFoundError("/proc/1"), ValueError("{")]
)
def test_whatever_ends_a_scenario_ends_it_alone(
    run_all: Callable[..., tuple[int, list[tuple[str, str]]]],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    assert run_all({"a": raises(error), "b": good}) == (1, [("a", "small"), ("b", "small")])
    said = capsys.readouterr().err
    assert f"bench: a: {str(error) or 'TimeoutError'}\n" in said
    assert ("Traceback" in said) is not isinstance(error, BenchError)


def test_a_broken_load_is_said_and_the_next_is_measured(
    run_all: Callable[..., tuple[int, list[tuple[str, str]]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_all({"a": half}) == (1, [("a", "small")])
    assert "bench: a: bulk, bare: one exchange failed\n" in capsys.readouterr().err


def test_what_is_not_kept_is_no_success_but_where_asked_for(
    run_all: Callable[..., tuple[int, list[tuple[str, str]]]],
) -> None:
    assert run_all({"a": good}) == (0, [("a", "small")])
    assert run_all({"a": alone}) == (3, [("a", "small")])
    assert run_all({"a": alone}, "--only", "sluice")[0] == 0
    assert run_all({"a": good}, "--rounds", "3")[0] == 0


def test_the_order_is_another_each_time() -> None:
    assert len({run.arguments([]).seed for _ in range(3)}) == 3
    assert run.arguments(["--seed", "5"]).seed == 5


def test_appended_results_are_no_change_of_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    (tmp_path / "perf").mkdir()
    results, code = tmp_path / "perf/results.jsonl", tmp_path / "code"
    for each in (results, code):
        each.write_text("1\n", encoding="ascii")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    name = run.commit()
    assert name not in ("", "unknown")
    results.write_text("2\n", encoding="ascii")
    assert run.commit() == name
    code.write_text("2\n", encoding="ascii")
    assert run.commit() == f"{name}-dirty"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_clone_that_others_cannot_read_is_told_at_once(tmp_path: Path) -> None:
    if all(each.stat().st_mode & 0o001 for each in (machine.ROOT, *machine.ROOT.parents)):
        machine.check_readable(machine.ROOT)
    shutil.copytree(machine.ROOT / "dataplane", tmp_path / "dataplane")
    tmp_path.chmod(0o700)
    with pytest.raises(machine.MachineError, match="other users may go and read"):
        machine.check_readable(tmp_path)
