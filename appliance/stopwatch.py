"""How long the steps of one piece of work took, for one line of the log."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs from the start; `lap` names what was done since the last one."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._laps: list[tuple[str, float]] = []

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps.append((name, now - self._last))
        self._last = now

    @property
    def ms(self) -> float:
        """Until the last lap."""
        return (self._last - self._began) * 1000

    def __str__(self) -> str:
        """ "compiled 61, sent 214 ms" """
        return ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in self._laps) + " ms"
