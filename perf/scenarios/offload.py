"""What a MiB costs by record layer: instructions of a whole guest whose emulated processor counts
them, while plain bytes pass through our relay and leave as TLS 1.3 (nic: 1.2), AES-128-GCM.

The guest is that of tests/qemu, its program tests/qemu/guest_cost.c. No clock has a part in it, so
the machine need not be quiet. Instructions are no time: the emulator has no VAES, so our records
are by OpenSSL's EVP. What the test adapter does in a card's place is counted apart.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from perf import ratio
from perf.bench import Bench, Result
from perf.process import BenchError

ROOT = Path(__file__).resolve().parents[2]
LAYERS = {0: "plain", 2: "openssl", 3: "user", 4: "ktls", 5: "nic"}  # enum dp_record_layer
DEARER_MAX = 0.02
LINE = re.compile(r"cost (?P<way>\S+) layer (?P<layer>\d) total (?P<total>\S+) card (?P<card>\S+)")
Rounds = dict[str, list[dict[str, float]]]


def parse(lines: Sequence[str]) -> tuple[Rounds, str]:
    """Runs by way, and the layer that auto came to."""
    rounds: Rounds = {}
    chosen = ""
    for found in filter(None, map(LINE.fullmatch, lines)):
        total, card = float(found["total"]), float(found["card"])
        metrics = {"minsn_mib": total - card}
        if card > 0:
            metrics["card_minsn_mib"] = card
        rounds.setdefault(found["way"], []).append(metrics)
        if found["way"] == "auto":
            chosen = LAYERS[int(found["layer"])]
    if not {"user", "auto"} <= rounds.keys():
        raise BenchError("the guest said nothing of what user and auto cost")
    return rounds, chosen


def verdict(rounds: Rounds, chosen: str) -> str:
    """Is what the product chooses by itself ever dearer than user space?"""
    user, auto = (ratio.medians(rounds[way])["minsn_mib"] for way in ("user", "auto"))
    more = auto / user - 1
    word = "dearer" if more > DEARER_MAX else "not dearer"
    return f"auto chose {chosen}, {word} than user ({more:+.1%}, {DEARER_MAX:.0%} allowed)"


async def run(bench: Bench) -> AsyncIterator[Result]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.qemu"),
        cwd=ROOT,
        env={**os.environ, "T": "cost"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()  # it has a limit of its own
    lines = output.decode(errors="replace").splitlines()
    if process.returncode != 0:
        raise BenchError("the guest failed:\n" + "\n".join(lines[-20:]))
    rounds, chosen = parse(lines)
    said = verdict(rounds, chosen)
    bench.say(said)
    kernels = (re.match(r"booting Debian's kernel (\S+)", line) for line in lines)
    kernel = next((found[1] for found in kernels if found), "unknown")
    yield Result("to-tls", "aes-128-gcm", rounds, notes={"kernel": kernel, "verdict": said})
