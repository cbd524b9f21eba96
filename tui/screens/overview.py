"""The site at a glance: processes, numbers, live throughput, what was refused last."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Header, Static

from appliance.api.client import pb
from appliance.api.text import short_id, shown, when
from tui.screens.base import SiteScreen, add_columns
from tui.widgets.badge import badge
from tui.widgets.throughput import Throughput

REFUSED_MAX = 50


class OverviewScreen(SiteScreen):
    def __init__(self) -> None:
        super().__init__()
        self._refused: deque[pb.Flow] = deque(maxlen=REFUSED_MAX)

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="overview"):
            with Horizontal(id="top"):
                yield Static("waiting for the daemon …", id="facts", classes="panel")
                yield DataTable(id="processes", classes="panel", cursor_type="none")
            yield Throughput()
            yield DataTable(id="refused", classes="panel", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#facts").border_title = "site"
        self.query_one(Throughput).border_title = "throughput"
        processes = self.query_one("#processes", DataTable)
        processes.border_title = "processes"
        add_columns(processes, process=12, state=10, detail=22)
        refused = self.query_one("#refused", DataTable)
        refused.border_title = "refused"
        add_columns(refused, source=30, service=20, reason=12, rule=44)

    def show_status(self, status: pb.Status) -> None:
        if not self.is_mounted:
            return
        pending = ""
        if status.HasField("pending"):
            pending = f"\nrevision {status.pending.revision} reverts at " + when(
                status.pending.deadline
            )
        self.query_one("#facts", Static).update(
            Text(
                f"{status.hosts} hosts   {status.services} services   "
                f"{status.peers_connected} of {status.peers} peers\n"
                f"{status.streams} streams now\n"
                f"revision {status.revision}, snapshot {status.applied} of {status.published}\n"
                f"CA good until {when(status.ca_not_after)}{pending}\n"
                f"TLS legs by {_counts(status.layers)}{_elsewhere(status.reasons)}"
                + "".join(f"\n! {shown(warning)}" for warning in status.warnings)
            )
        )
        self.query_one(Throughput).add(status.throughput.bytes_up, status.throughput.bytes_down)
        table = self.query_one("#processes", DataTable)
        table.clear()
        for process in status.processes:
            table.add_row(process.name, badge(process.state), Text(shown(process.detail)))

    def show_flows(self, flows: Sequence[pb.Flow], dropped: int) -> None:
        fresh = [flow for flow in flows if flow.state == "refused"]
        if not fresh:
            return
        self._refused.extendleft(reversed(fresh))
        if not self.is_mounted:
            return
        table = self.query_one("#refused", DataTable)
        table.clear()
        for flow in self._refused:
            table.add_row(
                short_id(flow.source) if flow.source else flow.source_address,
                flow.service or flow.target_address,
                Text(flow.reason, style="bold red"),
                Text(shown(flow.detail or "-")),
            )


def _counts(counts: Iterable[pb.LegCount]) -> str:
    return ", ".join(f"{each.name} {each.legs}" for each in counts if each.legs) or "none yet"


def _elsewhere(reasons: Iterable[pb.LegCount]) -> str:
    """Those that are not where the profile would have them, and why."""
    why = [each for each in reasons if each.name != "none" and each.legs]
    return f"\nnot as the profile would: {_counts(why)}" if why else ""
