"""One run: its options, its contestants' tasks, interleaved rounds, and what is kept of it.

Scenarios say who competes at what; this file holds the rules that are the same for all.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf import ratio
from perf.peers import sluice
from perf.peers.contestant import Contestant, Profile, Start, Task, Wiring
from perf.pki import Material
from perf.process import BenchError

ORIGIN = 9000
FIRST_PORT = 10_000
OURS = "sluice"
ROUNDS_TIMES_MAX = 3  # as many rounds as were asked for, for so many quiet ones
SLOW_ROUNDS_MAX = 5  # of what starts everything anew in each, and hardly varies
Trial = Callable[[Contestant], Awaitable[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: float  # that one trial measures
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
    def slow_rounds(self) -> int:
        return min(self.rounds, SLOW_ROUNDS_MAX)


@dataclass(frozen=True, slots=True)
class Null:
    """Who does nothing, and which metric of it tells whether a round was quiet."""

    name: str
    metric: str = "cpu_us"


@dataclass(frozen=True, slots=True)
class Result:
    """What one JSON line holds beside the facts of the run."""

    load: str  # part of the scenario, e.g. "bulk"
    profile: str
    rounds: dict[str, list[dict[str, float]]]  # by contestant
    null: Null | None = None  # whose spread decides whether the run counts
    made: int | None = None  # rounds, quiet or not; None = all of them are kept
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def null_spread(self) -> float | None:
        if self.null is None or self.null.name not in self.rounds:
            return None
        return ratio.spread([each[self.null.metric] for each in self.rounds[self.null.name]])

    def check(self) -> None:
        """Raises BenchError when the machine was too restless for the run to say anything."""
        found = self.null_spread
        if found is not None and found > ratio.SPREAD_MAX:
            raise BenchError(
                f"{self.load}: the null relay itself varied by {found:.0%}, more than "
                f"{ratio.SPREAD_MAX:.0%}: this run says nothing; quieten the machine"
            )

    def as_json(self) -> dict[str, Any]:
        ours = self.rounds.get(OURS)
        return {
            "load": self.load,
            "profile": self.profile,
            "rounds": (kept := len(next(iter(self.rounds.values()), []))),
            "rounds_made": kept if self.made is None else self.made,
            "null_spread": self.null_spread,
            "medians": {
                name: {metric: round(value, 4) for metric, value in ratio.medians(each).items()}
                for name, each in self.rounds.items()
            },
            "ratios": {
                name: {metric: value.as_list() for metric, value in each.items()}
                for name, each in (ratio.ratios(self.rounds, OURS) if ours else {}).items()
            },
            "notes": self.notes,
        }


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
            origin=ORIGIN,
            scratch=scratch,
            material=self.material,
            proxy_processor=self.options.proxy_processor,
            load_processor=self.options.load_processor,
            records=self.options.records,
            **changes,
        )

    def wanted(self, starts: Mapping[str, Start]) -> dict[str, Start]:
        """Those that compete, and what we were before, if asked for."""
        only = self.options.only
        found = {name: start for name, start in starts.items() if not only or name in only}
        if self.options.before is not None:
            found["before"] = sluice.of_tree(self.options.before)
        return found

    def measures(self, load: str) -> bool:
        return not self.options.loads or load in self.options.loads

    @contextlib.asynccontextmanager
    async def contestants(
        self, starts: dict[str, Start], wiring: Wiring, profile: Profile, **changes: Any
    ) -> AsyncIterator[list[Contestant]]:
        """All that are wanted, running. They idle while another is measured."""
        async with contextlib.AsyncExitStack() as stack:
            running = []
            for start in self.wanted(starts).values():
                task = self.task(wiring, profile, **changes)
                running.append(await stack.enter_async_context(start(task)))
            yield running

    async def interleave(
        self,
        load: str,
        profile: Profile,
        contestants: Sequence[Contestant],
        trial: Trial,
        null: Null,
    ) -> Result:
        """Rounds of one trial each, in a new random order each round, until so many as were asked
        for were quiet; one more round before, which does not count, so that everybody has run
        once. When there are not enough quiet ones in ROUNDS_TIMES_MAX times as many, all are kept,
        and `Result.check` judges them."""
        if not contestants:
            raise BenchError("nobody competes: see --only")
        wanted = self.options.rounds
        found: dict[str, list[dict[str, float]]] = {each.name: [] for each in contestants}
        await self._round(contestants, trial)
        for made in range(1, wanted * ROUNDS_TIMES_MAX + 1):
            for name, metrics in (await self._round(contestants, trial)).items():
                found[name].append(metrics)
            quiet = list(range(made))
            if null.name in found:
                quiet = ratio.quiet([each[null.metric] for each in found[null.name]])
            self.say(f"  round {made}: {len(quiet)} quiet of {wanted}")
            if len(quiet) >= wanted:
                kept = {name: [rounds[at] for at in quiet] for name, rounds in found.items()}
                return Result(load, profile, kept, null, made)
        return Result(load, profile, found, null)

    async def _round(
        self, contestants: Sequence[Contestant], trial: Trial
    ) -> dict[str, dict[str, float]]:
        order = list(contestants)
        self._random.shuffle(order)
        return {each.name: await trial(each) for each in order}
