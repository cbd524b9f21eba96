"""Rules about the tree that no linter holds: heads of files, C's layers, leftovers."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "native" / "src"

# Who may include whom: a file includes only its own rank's lower neighbours (or its own header).
C_LAYERS = (
    ("base",),
    ("sys", "clock", "vector", "address"),
    (
        "arena",
        "table",
        "lru",
        "pool",
        "pipe",
        "files",
        "timer",
        "stats",
        "strangers",
        "walk",
        "event",
        "sandbox",
        "record_control",
        "cipher",
        "link",
        "sni",
    ),
    ("keys",),
    ("aead", "ktls"),
    ("record_key",),
    ("buffer",),
    ("loop", "endpoints", "spiffe", "record", "rules"),
    ("snapshot",),
    ("policy", "sets"),
    ("mailbox",),
    ("tls", "record_openssl", "leaf"),
    ("relay",),
    ("stream", "ejection"),
    ("worker",),
    ("engine",),
)
# A family of files shares its first word's rank: tls_sessions.c stands with tls.c.
RANK = {name: rank for rank, names in enumerate(C_LAYERS) for name in names}


@cache
def tracked(*patterns: str) -> tuple[Path, ...]:
    """Files git knows, or would add."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(path for line in out.splitlines() if (path := ROOT / line).is_file())


def rank_of(stem: str) -> int | None:
    return RANK.get(stem, RANK.get(stem.split("_")[0]))


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked("appliance/*.py", "dataplane/*.py", "tui/*.py")
        if path.name != "__init__.py"
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_every_c_file_says_what_it_owns() -> None:
    silent = [
        path.name
        for path in tracked("native/*.c", "native/*.h")
        if not path.read_text(encoding="utf-8").startswith(f"/* {path.name}: ")
    ]
    assert silent == []


@pytest.mark.parametrize("path", tracked("native/src/*.c", "native/src/*.h"), ids=lambda p: p.name)
def test_c_includes_only_downwards(path: Path) -> None:
    rank = rank_of(path.stem)
    assert rank is not None, f"{path.name} has no layer: add it to C_LAYERS"
    for included in re.findall(r'^#include "([a-z0-9_]+)\.h"', path.read_text(), re.M):
        if included == "dp":
            continue
        below = rank_of(included)
        assert below is not None, f"{included}.h has no layer"
        assert below <= rank, f"{path.name} includes {included}.h, which stands above it"


def test_native_knows_no_python() -> None:
    assert [p.name for p in tracked("native/src/*") if "Python.h" in p.read_text()] == []


def test_nothing_is_left_to_do() -> None:
    """A TODO or FIXME carries its reason: `TODO(why): what`."""
    found = []
    for path in tracked("*.py", "*.c", "*.h", "*.proto", "Makefile", "*.md", "*.yaml"):
        if path == Path(__file__).resolve():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b(?!\([^)]+\):)", line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
            if "NotImplementedError" in line:
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


def test_shell_is_posix_and_checked() -> None:
    """Shell scripts stop at the first error."""
    loose = []
    for path in tracked("*.sh", "firmware-config/*", ".ci/run"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if re.match(r"#!/(usr/bin/env )?(ba|/bin/|bin/)?.*sh\b", text.split("\n", 1)[0]) and (
            not re.search(r"^set -\w*e", text, re.M)
        ):
            loose.append(str(path.relative_to(ROOT)))
    assert loose == []
