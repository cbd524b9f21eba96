"""A word in the colour of its meaning."""

from __future__ import annotations

from rich.text import Text

GOOD = {"open", "running", "active", "connected", "applied", "serving", "ok", "closed"}
BAD = {"refused", "dead", "failed", "revoked", "error", "stale"}


def badge(word: str) -> Text:
    if word in GOOD:
        return Text(word, style="green")
    return Text(word, style="bold red" if word in BAD else "yellow")
