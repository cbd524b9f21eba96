"""Packs the agent into one file that any Python ≥ 3.9 runs: `python -m appliance.agent.build OUT`.

Owns the list of what goes in: this package and the two modules of enroll/ that it shares. The
same tree gives the same bytes, so that the join line can name their SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("appliance/__init__.py", "appliance/enroll/__init__.py", "appliance/enroll/code.py",
          "appliance/enroll/pinned.py")  # fmt: skip
LEFT_OUT = ("build.py",)
_ENTRY = "import runpy\nrunpy.run_module('appliance.agent', run_name='__main__', alter_sys=False)\n"
_DATE = (1980, 1, 1, 0, 0, 0)


def sources() -> tuple[str, ...]:
    """Paths from the root of the tree."""
    own = (f"appliance/agent/{p.name}" for p in (ROOT / "appliance/agent").glob("*.py"))
    return tuple(sorted((*SHARED, *(p for p in own if p.rpartition("/")[2] not in LEFT_OUT))))


@cache
def agent_file() -> bytes:
    """The single-file agent."""
    out = io.BytesIO()
    out.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("__main__.py", *sources()):
            data = _ENTRY.encode() if name == "__main__.py" else (ROOT / name).read_bytes()
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return out.getvalue()


@cache
def agent_sha256() -> str:
    return hashlib.sha256(agent_file()).hexdigest()


def join_line(address: str, port: int) -> str:
    """To paste on the host. It has no secret: the agent asks for the code. The directory is
    the user's own, so that nobody changes the file between check and start."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return (
        f"f=$(mktemp -d)/sluice-agent && curl -fsSk https://{where}/agent -o $f && "
        f'echo "{agent_sha256()}  $f" | sha256sum -c --quiet - && sudo python3 $f join {where}'
    )


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m appliance.agent.build OUT", file=sys.stderr)
        return 2
    path = Path(sys.argv[1])
    path.write_bytes(agent_file())
    path.chmod(0o755)
    print(f"{agent_sha256()}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
