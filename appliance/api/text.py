"""Numbers, names and times of the API as short text, for every tool that shows them. Pure."""

from __future__ import annotations

import time


def size(number: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def shown(text: str) -> str:
    """Text of others as it may go to a terminal: nothing in it moves the cursor or hides."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def short_id(spiffe_id: str) -> str:
    """spiffe://td/ns/default/sa/web → td/default/web; "-" when there is none."""
    if not spiffe_id:
        return "-"
    trust_domain, _, path = spiffe_id.removeprefix("spiffe://").partition("/")
    parts = path.split("/")
    if len(parts) == 4 and parts[0] == "ns" and parts[2] == "sa":
        return f"{trust_domain}/{parts[1]}/{parts[3]}"
    return f"{trust_domain}/{path}"


def when(seconds: int) -> str:
    """UNIX time as local time, or "-"."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"
