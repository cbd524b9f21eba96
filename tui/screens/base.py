"""What every full screen has: head, foot, and the calls by which the app shows news."""

from __future__ import annotations

from collections.abc import Sequence

from textual.screen import Screen
from textual.widgets import DataTable

from appliance.api.client import pb


class SiteScreen(Screen[None]):
    """A screen overrides what it shows; the rest passes by."""

    def show_status(self, status: pb.Status) -> None:
        """News of the site as a whole."""

    def show_flows(self, flows: Sequence[pb.Flow], dropped: int) -> None:
        """Flows that began, moved or ended. dropped: events lost so far."""

    def show_hosts(self, hosts: Sequence[pb.Host]) -> None:
        """All hosts."""


def add_columns(table: DataTable[object], **widths: int) -> None:
    """Columns of fixed width, in cells: a table that is filled each second does not jump."""
    for label, width in widths.items():
        table.add_column(label.replace("_", " "), width=width)
