"""The load generator's front: arguments in, the metrics of one trial out. See load/main.c."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from perf.peers.contestant import Contestant
from perf.process import BenchError

BUILD = Path(__file__).parent / "build"
GIB = 1 << 30
PATIENCE_SECONDS = 30.0
ERRORS = ("refused", "reset", "ended", "timeout", "other")


def command(mode: str, contestant: Contestant, origin: int, **options: float) -> list[str]:
    """options: the long options' names with underscores."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [
        *("taskset", "-c", str(contestant.load_processor)),
        *(str(BUILD / "load"), mode),
        f"--target={contestant.address}:{contestant.port}",
        f"--origin={origin}",
        f"--cpu-of={','.join(map(str, contestant.pids()))}",
        *given,
    ]


async def run(argv: Sequence[str], seconds: float) -> dict[str, float]:
    """One trial. seconds: how long it should take. Raises BenchError."""
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
    found: dict[str, float] = json.loads(output)
    return found


async def bulk(
    contestant: Contestant, origin: int, seconds: float, connections: int = 4
) -> dict[str, float]:
    """gbit_s; cpu_s_gib: of the proxies, for a GiB of payload."""
    argv = command("bulk", contestant, origin, seconds=seconds, connections=connections)
    got = await run(argv, seconds)
    if not got["bytes"]:
        raise BenchError(f"{contestant.name}: not a byte arrived")
    return {
        "gbit_s": got["bytes"] * 8 / got["seconds"] / 1e9,
        "cpu_s_gib": got["cpu_ns"] / 1e9 / (got["bytes"] / GIB),
        "proxy_busy": got["cpu_ns"] / 1e9 / got["seconds"],
        "load_busy": got["load_cpu_ns"] / 1e9 / got["seconds"],
    }


def exchanges(contestant: Contestant, got: dict[str, float]) -> dict[str, float]:
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


async def requests(
    contestant: Contestant, origin: int, seconds: float, connections: int = 64, **options: float
) -> dict[str, float]:
    """Over kept connections. rate=N: by the clock."""
    argv = command(
        "requests", contestant, origin, seconds=seconds, connections=connections, **options
    )
    return exchanges(contestant, await run(argv, seconds))


async def connections(
    contestant: Contestant, origin: int, seconds: float, at_once: int = 16
) -> dict[str, float]:
    """A connection for each exchange."""
    argv = command("connections", contestant, origin, seconds=seconds, connections=at_once)
    return exchanges(contestant, await run(argv, seconds))


@contextlib.asynccontextmanager
async def held(contestant: Contestant, origin: int, count: int) -> AsyncIterator[None]:
    """So many connections, idle, each used once. Raises BenchError when one was lost."""
    argv = command("hold", contestant, origin, connections=count, patience=60)
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
