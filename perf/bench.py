"""One run: its options, its contestants' tasks, interleaved rounds, and when they count.

Scenarios say who competes at what; this file holds the rules that are the same for all.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perf import ratio
from perf.load_generator import Entered, Metrics
from perf.peers import sluice
from perf.peers.contestant import Contestant, Profile, Start, Task, Wiring
from perf.pki import Material
from perf.process import BenchError

FIRST_PORT = 10_000
OURS = "sluice"
AGAIN = " again"  # behind the name of the null's second
ROUNDS_MIN = 7  # with fewer nothing is kept: an interval would be from the least to the greatest
OWN = ("p99_growth",)  # metrics that are a ratio in themselves
SLOW_ROUNDS_MAX = 5  # of what starts everything anew in each, and hardly varies
Enter = Callable[[Contestant], Entered]


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: float  # that a contestant is measured for in a round
    slices: int  # that these seconds are cut into
    profiles: tuple[Profile, ...]
    only: frozenset[str]  # contestants' names; empty = all
    records: str  # the product's record layer; "" = its default
    seed: int
    proxy_processor: int
    load_processor: int
    scratch: Path
    before: Path | None = None  # another checkout of ours, as one more contestant
    loads: frozenset[str] = frozenset()  # parts of the scenario; empty = all

    @property
    def slice_seconds(self) -> float:
        return self.seconds / self.slices

    @property
    def slow_rounds(self) -> int:
        return min(self.rounds, SLOW_ROUNDS_MAX)


@dataclass(frozen=True, slots=True)
class Null:
    """Who takes part twice, and the metric whose ratio to itself says whether a run counts."""

    name: str
    metric: str = "cpu_us"

    @property
    def again(self) -> str:
        return self.name + AGAIN


@dataclass(frozen=True, slots=True)
class Result:
    """What one JSON line holds beside the facts of the run."""

    load: str  # part of the scenario, e.g. "bulk"
    profile: str
    rounds: dict[str, list[Metrics]]  # by contestant
    null: Null | None = None  # None: no time is compared with another's
    notes: dict[str, Any] = field(default_factory=dict)
    broken: str = ""  # why there is nothing of this load, if so

    def controls(self) -> dict[str, ratio.Control]:
        """The null against itself, of each metric. Empty: it did not take part twice."""
        if self.null is None or not {self.null.name, self.null.again} <= self.rounds.keys():
            return {}
        one, again = self.rounds[self.null.name], self.rounds[self.null.again]
        return {
            metric: ratio.control([r[metric] for r in one], [r[metric] for r in again])
            for metric in ratio.comparable(one, again)
        }

    def refusal(self) -> str | None:
        """Why the machine was too restless for the run to say anything, if so."""
        if self.null is None or (found := self.controls().get(self.null.metric)) is None:
            return None
        if (why := found.why_not()) is None:
            return None
        return f"{self.load}: {self.null.name}: {why}: this run says nothing; quieten the machine"

    def too_little(self, rounds: int) -> str | None:
        """Why it is not kept, if so, though nothing is wrong with it. rounds: asked for."""
        if rounds < ROUNDS_MIN:
            return f"{self.load}: not kept: {rounds} rounds, of at least {ROUNDS_MIN}"
        if self.null is None:
            return None
        if not (controls := self.controls()):
            return f"{self.load}: not kept: {self.null.name} did not take part twice"
        if self.null.metric not in controls:
            return f"{self.load}: not kept: {self.null.name}: {self.null.metric} was 0"
        return None

    def as_json(self) -> dict[str, Any]:
        """A metric in which the null does not agree with itself has no ratios; `unsaid` has it."""
        controls = self.controls()
        unsaid = {name: why for name, each in controls.items() if (why := each.why_not())}
        compared = {name: each for name, each in self.rounds.items() if self._is_compared(name)}
        found = ratio.ratios(compared, OURS) if OURS in compared else {}
        null = self.null and controls.get(self.null.metric)
        return {
            "load": self.load,
            "profile": self.profile,
            "rounds": len(next(iter(self.rounds.values()), [])),
            "null": self.null and self.null.name,
            "null_metric": self.null and self.null.metric,
            "null_ratio": null and null.ratio.as_list(),
            "null_spread": null and round(null.spread, 4),
            "drift": null and round(null.drift, 4),
            "unsaid": unsaid,
            "medians": {
                name: {metric: round(value, 4) for metric, value in ratio.medians(each).items()}
                for name, each in self.rounds.items()
            },
            "own": {
                metric: ratio.own([each[metric] for each in self.rounds[OURS]]).as_list()
                for metric in OWN
                if OURS in compared and metric in compared[OURS][0]
            },
            "ratios": {
                name: {
                    metric: value.as_list()
                    for metric, value in each.items()
                    if metric not in unsaid
                }
                for name, each in found.items()
            },
            "notes": self.notes,
        }

    def _is_compared(self, name: str) -> bool:
        return self.null is None or name != self.null.again


def again(start: Start) -> Start:
    """The same program once more, in a process of its own."""

    @contextlib.asynccontextmanager
    async def started(task: Task) -> AsyncIterator[Contestant]:
        async with start(task) as found:
            yield replace(found, name=found.name + AGAIN)

    return started


class Bench:
    """What scenarios are given."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.material = Material.new()
        self._random = random.Random(options.seed)
        self._numbers = itertools.count()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def task(self, wiring: Wiring, profile: Profile, **changes: Any) -> Task:
        """Ports and a directory that nobody else has. changes: fields of Task."""
        number = next(self._numbers)
        scratch = self.options.scratch / str(number)
        scratch.mkdir(mode=0o755)
        return Task(
            wiring=wiring,
            profile=profile,
            port=FIRST_PORT + 10 * number,
            scratch=scratch,
            material=self.material,
            proxy_processor=self.options.proxy_processor,
            load_processor=self.options.load_processor,
            records=self.options.records,
            **changes,
        )

    def wanted(self, starts: Mapping[str, Start], *nulls: Null) -> dict[str, Start]:
        """Those that compete, what we were before, if asked for, and each null's second."""
        only = self.options.only
        found = {name: start for name, start in starts.items() if not only or name in only}
        found |= {each.again: again(found[each.name]) for each in nulls if each.name in found}
        if self.options.before is not None:
            found["before"] = sluice.of_tree(self.options.before)
        return found

    def measures(self, load: str) -> bool:
        return not self.options.loads or load in self.options.loads

    @contextlib.asynccontextmanager
    async def contestants(
        self,
        starts: Mapping[str, Start],
        wiring: Wiring,
        profile: Profile,
        *nulls: Null,
        **changes: Any,
    ) -> AsyncIterator[list[Contestant]]:
        """All that are wanted, running. They idle while another is measured."""
        async with contextlib.AsyncExitStack() as stack:
            running = []
            for start in self.wanted(starts, *nulls).values():
                task = self.task(wiring, profile, **changes)
                running.append(await stack.enter_async_context(start(task)))
            yield running

    async def attempt(self, load: str, profile: Profile, result: Awaitable[Result]) -> Result:
        """A load that breaks is a result that says so: the scenario's others go on."""
        try:
            return await result
        except BenchError as error:
            return Result(load, profile, {}, broken=f"{load}, {profile}: {error}")

    async def interleave(
        self,
        load: str,
        profile: Profile,
        contestants: Sequence[Contestant],
        trial: Enter,
        null: Null,
    ) -> Result:
        """Raises BenchError when nobody competes; for what breaks later see attempt()."""
        taking_part = [
            each for each in contestants if not each.name.endswith(AGAIN) or each.name == null.again
        ]
        if not taking_part:
            raise BenchError("nobody competes: see --only")
        rounds = self._rounds(load, profile, taking_part, trial, null)
        return await self.attempt(load, profile, rounds)

    async def _rounds(
        self,
        load: str,
        profile: Profile,
        taking_part: Sequence[Contestant],
        trial: Enter,
        null: Null,
    ) -> Result:
        """Every round counts, but for one before the first, so that everybody has run once."""
        rounds: dict[str, list[Metrics]] = {each.name: [] for each in taking_part}
        await self._round(taking_part, trial)
        for number in range(1, self.options.rounds + 1):
            for name, metrics in (await self._round(taking_part, trial)).items():
                rounds[name].append(metrics)
            self.say(f"  {load}, {profile}: round {number} of {self.options.rounds}")
        return Result(load, profile, rounds, null)

    async def _round(self, contestants: Sequence[Contestant], trial: Enter) -> dict[str, Metrics]:
        """Everybody's clients connect anew; then all measure a slice in turn, in a new random
        order each time, until everybody has had all of its slices."""
        async with contextlib.AsyncExitStack() as stack:
            order = [
                (each.name, await stack.enter_async_context(trial(each))) for each in contestants
            ]
            for _ in range(self.options.slices):
                self._random.shuffle(order)
                for _, each in order:
                    await each.slice()
            return {name: each.metrics() for name, each in order}
