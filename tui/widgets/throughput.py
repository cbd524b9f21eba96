"""Live throughput: now, and the last minutes as two sparklines."""

from __future__ import annotations

from collections import deque

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Label, Sparkline

from appliance.api.text import size

POINTS_MAX = 120


class Throughput(Vertical):
    """Bytes a second, client to service (up) and back (down)."""

    def __init__(self) -> None:
        super().__init__()
        self._points = {
            name: deque([0.0] * POINTS_MAX, maxlen=POINTS_MAX) for name in ("up", "down")
        }

    def compose(self) -> ComposeResult:
        for name in ("up", "down"):
            with Horizontal(classes="throughput-row"):
                yield Label(f"{name:4} -", id=f"{name}-label")
                yield Sparkline([], id=f"{name}-line")

    def add(self, up: float, down: float) -> None:
        """One point each, in bytes a second."""
        for name, value in (("up", up), ("down", down)):
            self._points[name].append(value)
            self.query_one(f"#{name}-label", Label).update(f"{name:4} {size(value)}/s")
            self.query_one(f"#{name}-line", Sparkline).data = list(self._points[name])
