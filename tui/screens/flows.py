"""Flows, newest first: identities, record layers, why one was refused or has not the records that
the profile would give it, grade and bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import DataTable, Footer, Header, Static

from appliance.api.client import pb
from appliance.api.text import short_id, shown, size
from tui.screens.base import SiteScreen, add_columns
from tui.widgets.badge import badge

FLOWS_MAX = 500


class FlowsScreen(SiteScreen):
    def __init__(self) -> None:
        super().__init__()
        self._flows: OrderedDict[tuple[str, str], pb.Flow] = OrderedDict()
        self._dropped = 0

    def compose(self) -> ComposeResult:
        yield Header()
        yield DataTable(id="flows", cursor_type="row")
        yield Static("", id="dropped")
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one("#flows", DataTable)
        table.border_title = "flows"
        add_columns(
            table,
            state=8,
            source=27,
            destination=27,
            layers=14,
            why=44,
            grade=6,
            tls=8,
            up=10,
            down=10,
        )
        self._fill()

    def show_flows(self, flows: Sequence[pb.Flow], dropped: int) -> None:
        for flow in flows:
            key = (flow.flow_id, flow.kind)
            self._flows[key] = flow
            self._flows.move_to_end(key)
        while len(self._flows) > FLOWS_MAX:
            self._flows.popitem(last=False)
        self._dropped = dropped
        if self.is_mounted:
            self._fill()

    def _fill(self) -> None:
        table = self.query_one("#flows", DataTable)
        row = table.cursor_row
        table.clear()
        for flow in reversed(self._flows.values()):
            table.add_row(
                badge(flow.state),
                short_id(flow.source),
                short_id(flow.destination) if flow.destination else flow.service,
                f"{flow.down_layer}>{flow.up_layer}",
                Text(shown(_why(flow))),
                flow.grade,
                flow.tls_version or "-",
                size(flow.bytes_up),
                size(flow.bytes_down),
            )
        table.move_cursor(row=min(row, max(0, len(self._flows) - 1)))
        self.query_one("#dropped", Static).update(
            f"{self._dropped} events were dropped: the list is not complete"
            if self._dropped
            else ""
        )


def _why(flow: pb.Flow) -> str:
    records = f"records: {flow.fallback}" if flow.fallback else ""
    return " ".join(part for part in (flow.reason, flow.detail, records) if part) or "-"
