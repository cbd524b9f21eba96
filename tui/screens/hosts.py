"""The hosts of this site: identity, grade, leaf."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.widgets import DataTable, Footer, Header

from appliance.api.client import pb
from appliance.api.text import short_id, when
from tui.screens.base import SiteScreen, add_columns
from tui.widgets.badge import badge


class HostsScreen(SiteScreen):
    def __init__(self) -> None:
        super().__init__()
        self._hosts: Sequence[pb.Host] = ()

    def compose(self) -> ComposeResult:
        yield Header()
        yield DataTable(id="hosts", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one("#hosts", DataTable)
        table.border_title = "hosts"
        add_columns(
            table,
            name=14,
            state=9,
            identity=34,
            grade=6,
            addresses=24,
            services=20,
            leaf_until=19,
        )
        self._fill()

    def show_hosts(self, hosts: Sequence[pb.Host]) -> None:
        self._hosts = hosts
        if self.is_mounted:
            self._fill()

    def _fill(self) -> None:
        table = self.query_one("#hosts", DataTable)
        table.clear()
        for host in self._hosts:
            table.add_row(
                host.name,
                badge(host.state),
                short_id(host.spiffe_id),
                host.grade,
                " ".join(host.addresses) or "-",
                " ".join(host.services) or "-",
                when(host.not_after),
            )
