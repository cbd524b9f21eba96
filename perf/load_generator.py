"""The load generator's front: one process a contestant, connected and at rest, that measures a
slice when told; what slices add up to, and the metrics of that. See load/main.c.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.peers.contestant import Contestant
from perf.process import BenchError

BUILD = Path(__file__).parent / "build"
GIB = 1 << 30
PATIENCE_SECONDS = 30.0
WARMUP_SECONDS = 0.02  # before each slice: the caches are another contestant's
LINE_BYTES_MAX = 1 << 20
ERRORS = ("refused", "reset", "ended", "timeout", "other")
QUANTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999, "max_us": 1.0}
Metrics = dict[str, float]


@dataclass(slots=True)
class Sum:
    """Of slices: numbers are added, histograms merged."""

    numbers: Counter[str] = field(default_factory=Counter)
    latency: Counter[float] = field(default_factory=Counter)  # lower bound in µs → how many

    def add(self, said: Mapping[str, Any]) -> None:
        for name, value in said.items():
            if name == "latency":
                self.latency.update({bucket: count for bucket, count in value})
            else:
                self.numbers[name] += value

    def quantile_us(self, part: float) -> float:
        """Where so great a part of the exchanges is at or below; 0 of none."""
        wanted, seen, last = int(self.latency.total() * part), 0, 0.0
        for bucket, count in sorted(self.latency.items()):
            seen, last = seen + count, bucket
            if seen > wanted:
                break
        return last

    def as_metrics(self) -> Metrics:
        quantiles = {name: self.quantile_us(part) for name, part in QUANTILES.items()}
        return {**self.numbers, **(quantiles if self.latency else {})}


def parse(output: str | bytes) -> Metrics:
    """What was said of a single slice."""
    found = Sum()
    found.add(json.loads(output))
    return found.as_metrics()


@dataclass(frozen=True, slots=True)
class Trial:
    """A contestant's part in a round: slices that add up, and what came of them."""

    slice: Callable[[], Awaitable[None]]
    metrics: Callable[[], Metrics]  # raises BenchError


Entered = contextlib.AbstractAsyncContextManager[Trial]


def command(mode: str, contestant: Contestant, **options: float) -> list[str]:
    """options: the long options' names with underscores."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [
        *("taskset", "-c", str(contestant.load_processor)),
        *(str(BUILD / "load"), mode),
        f"--target={contestant.address}:{contestant.port}",
        f"--origin={contestant.origin}",
        f"--cpu-of={','.join(map(str, contestant.pids()))}",
        *given,
    ]


async def run(argv: Sequence[str], seconds: float) -> Metrics:
    """A single slice by a process of its own. seconds: how long it should take."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + PATIENCE_SECONDS):
            output, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise BenchError(f"{' '.join(argv[3:6])}: {errors.decode().strip()}")
    return parse(output)


class Clients:
    """A load generator that runs, and rests between slices."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, seconds: float) -> None:
        self._name, self._process, self._seconds = name, process, seconds

    async def said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(self._seconds + PATIENCE_SECONDS):
                if line := await self._process.stdout.readline():
                    found: dict[str, Any] = json.loads(line)
                    return found
                errors = await self._process.stderr.read()
        except TimeoutError:
            raise BenchError(f"{self._name}: no end of a slice of {self._seconds} s") from None
        raise BenchError(f"{self._name}: {errors.decode().strip()}")

    async def slice(self, beside: bool = False) -> dict[str, Any]:
        """Measures one. beside: bulk streams too. Raises BenchError."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"beside\n" if beside else b"alone\n")
        return await self.said()


@contextlib.asynccontextmanager
async def clients(
    mode: str, contestant: Contestant, seconds: float, **options: float
) -> AsyncIterator[Clients]:
    """seconds: of a slice. Once they are there, they have connected and made an exchange each."""
    argv = command(mode, contestant, seconds=seconds, warmup=WARMUP_SECONDS, **options)
    process = await asyncio.create_subprocess_exec(
        *argv,
        "--slices",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        found = Clients(f"{contestant.name}, {mode}", process, seconds)
        await found.said()
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _trial(
    mode: str,
    contestant: Contestant,
    seconds: float,
    judge: Callable[[Contestant, Metrics], Metrics],
    **options: float,
) -> AsyncIterator[Trial]:
    async with clients(mode, contestant, seconds, **options) as found:
        total = Sum()

        async def one() -> None:
            total.add(await found.slice())

        yield Trial(one, lambda: judge(contestant, total.as_metrics()))


def stream(contestant: Contestant, got: Metrics) -> Metrics:
    """gbit_s; cpu_s_gib: of the proxies, for a GiB of payload."""
    if not got["bytes"]:
        raise BenchError(f"{contestant.name}: not a byte arrived")
    return {
        "gbit_s": got["bytes"] * 8 / got["seconds"] / 1e9,
        "cpu_s_gib": got["cpu_ns"] / 1e9 / (got["bytes"] / GIB),
        "proxy_busy": got["cpu_ns"] / 1e9 / got["seconds"],
        "load_busy": got["load_cpu_ns"] / 1e9 / got["seconds"],
    }


def exchanges(contestant: Contestant, got: Metrics) -> Metrics:
    """rate: a second; cpu_us: of the proxies, for one; latencies. Raises BenchError for errors:
    they would make a broken proxy look fast."""
    failed = {name: got[name] for name in ERRORS if got[name]}
    if failed or not got["count"]:
        raise BenchError(f"{contestant.name}: {got['count']:.0f} exchanges, failed: {failed}")
    return {
        "rate": got["count"] / got["seconds"],
        "cpu_us": got["cpu_ns"] / 1e3 / got["count"],
        **{name: got[name] for name in ("p50_us", "p99_us", "p999_us")},
        "proxy_busy": got["cpu_ns"] / 1e9 / got["seconds"],
        "load_busy": got["load_cpu_ns"] / 1e9 / got["seconds"],
    }


def bulk(contestant: Contestant, seconds: float, connections: int = 4) -> Entered:
    return _trial("bulk", contestant, seconds, stream, connections=connections)


def requests(
    contestant: Contestant, seconds: float, connections: int = 64, **options: float
) -> Entered:
    """Over kept connections. rate=N: by the clock."""
    return _trial("requests", contestant, seconds, exchanges, connections=connections, **options)


def connections(contestant: Contestant, seconds: float, at_once: int = 16) -> Entered:
    """A connection for each exchange."""
    return _trial("connections", contestant, seconds, exchanges, connections=at_once)


@contextlib.asynccontextmanager
async def held(contestant: Contestant, count: int) -> AsyncIterator[None]:
    """So many connections, idle, each used once. Raises BenchError when one was lost."""
    argv = command("hold", contestant, connections=count, patience=60)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60 + PATIENCE_SECONDS):
            if not await process.stdout.readline():
                raise BenchError((await process.stderr.read()).decode().strip())
        yield
        process.stdin.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            lost = json.loads(await process.stdout.readline())["lost"]
            await process.wait()
        if lost:
            raise BenchError(f"{contestant.name}: {lost} of {count} idle connections were lost")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
