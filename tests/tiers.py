"""Runs the test tiers that this machine can run and says which it could not and why.

Owns the list of tiers and the closing table; each tier is a command. A tier that is expected
(EXPECT_ROOT=1) and cannot run is a failure. Usage: python -m tests.tiers [TIER ...]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.qemu.__main__ import cannot as _no_guest

ROOT = Path(__file__).resolve().parent.parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider")
MAKE = ("make", "-s", "-j2", "--no-print-directory", "-C", "native")


@dataclass(frozen=True, slots=True)
class Tier:
    name: str
    what: str
    command: tuple[str, ...]
    expect: str = ""  # environment variable that makes "cannot run" a failure
    cannot: Callable[[], str | None] = lambda: None


def _no_root() -> str | None:
    """Why network namespaces and nftables cannot be used, or None."""
    if os.geteuid() != 0:
        return "needs root: run `sudo make test`"
    if shutil.which("nft") is None:
        return "nft is missing: run `make setup`"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "nft", "add", "table", "inet", "probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        return f"no network namespaces or nftables here: {probe.stderr.strip()[:120]}"
    return None


TIERS = (
    Tier("tidy", "lint, types, layers", (*PYTEST, "tests/tidy")),
    Tier("unit", "parts alone", (*PYTEST, "tests/unit")),
    Tier("property", "laws, by Hypothesis", (*PYTEST, "tests/property")),
    Tier("native", "C under ASan and UBSan, fuzz corpora", (*MAKE, "test", "SAN=address")),
    Tier("tsan", "C under ThreadSanitizer", (*MAKE, "tests", "SAN=thread")),
    Tier("tui", "screens by keys and snapshots", (*PYTEST, "tests/tui")),
    Tier(
        "netns",
        "two sites, real processes and traffic",
        (*PYTEST, "tests/netns"),
        expect="EXPECT_ROOT",
        cannot=_no_root,
    ),
    Tier(
        "qemu",
        "kernel TLS and a card's, two sites: Debian's 6.12 kernel, emulated",
        (sys.executable, "-m", "tests.qemu"),
        expect="EXPECT_QEMU",
        cannot=_no_guest,
    ),
)


def _counts(output: str) -> tuple[int, int]:
    """(passed, failed): of the lines "N passed, N failed", those that total ("… in N s") if any."""
    closing = re.findall(r"^=* ?(\d+ (?:passed|failed|error).*)$", output, re.MULTILINE)
    totals = [line for line in closing if " in " in line]
    passed = failed = 0
    for number, word in re.findall(r"(\d+) (passed|failed|error)", "\n".join(totals or closing)):
        passed += int(number) * (word == "passed")
        failed += int(number) * (word != "passed")
    return passed, failed


def _run(command: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and output; the output is shown as it comes."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if not line.startswith("ok "):
            print(line, end="", flush=True)
    return process.wait(), "".join(lines).rstrip()


def main(names: list[str]) -> int:
    unknown = set(names) - {tier.name for tier in TIERS}
    if unknown:
        print(
            f"no such tier: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(tier.name for tier in TIERS)}",
            file=sys.stderr,
        )
        return 2
    rows, passed, failed, skipped = [], 0, 0, 0
    for tier in TIERS:
        if names and tier.name not in names:
            continue
        reason = tier.cannot()
        if reason is not None:
            expected = bool(tier.expect) and os.environ.get(tier.expect) == "1"
            failed, skipped = failed + expected, skipped + (not expected)
            word = f"FAILED: {tier.expect}=1, but it" if expected else "not run:"
            rows.append(f"{tier.name:9} {word} {reason}")
            continue
        print(f"== {tier.name}: {tier.what}", flush=True)
        began = time.monotonic()
        code, output = _run(tier.command)
        good, bad = _counts(output)
        if code != 0 and bad == 0:
            bad = 1
        if code == 0 and good == 0:
            code, bad = 1, 1
            print(f"{tier.name} ran no test", flush=True)
        passed, failed = passed + good, failed + bad
        state = "ok" if code == 0 else f"FAILED ({bad})"
        rows.append(f"{tier.name:9} {state:12} {good:5} passed  {time.monotonic() - began:6.1f} s")
    print("\n" + "\n".join(rows))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
