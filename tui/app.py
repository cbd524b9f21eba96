"""The app: screens, theme, client, and routing the feed's messages to whoever shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import App
from textual.screen import Screen

from appliance.api.client import AdminClient, pb
from tui.actions import ActionProvider, bindings
from tui.feed import run_feed
from tui.messages import FeedLost, FlowsArrived, HostsArrived, StatusArrived
from tui.screens.enroll import EnrollScreen
from tui.screens.flows import FlowsScreen
from tui.screens.hosts import HostsScreen
from tui.screens.overview import OverviewScreen
from tui.themes import THEMES


class SluiceApp(App[None]):
    """connect makes a client each time it is called; tests give a fake."""

    TITLE = "Sluice"
    CSS_PATH = "tui.tcss"
    BINDINGS = bindings()
    COMMANDS: ClassVar = {ActionProvider}
    SCREENS: ClassVar[dict[str, Callable[[], Screen[None]]]] = {
        "overview": OverviewScreen,
        "hosts": HostsScreen,
        "flows": FlowsScreen,
    }

    def __init__(self, connect: Callable[[], AdminClient], interval_ms: int = 1000) -> None:
        super().__init__()
        self.connect = connect
        self._interval_ms = interval_ms
        for theme in THEMES:
            self.register_theme(theme)

    def on_mount(self) -> None:
        self.theme = THEMES[0].name
        for name in self.SCREENS:
            self.install_screen(self.SCREENS[name](), f"{name}-screen")
        self.push_screen("overview-screen")
        self._feed()

    @work(exclusive=True)
    async def _feed(self) -> None:
        await run_feed(self.connect, self.post_message, self._interval_ms)

    def _screens(self) -> list[OverviewScreen | HostsScreen | FlowsScreen]:
        return [self.get_screen(f"{name}-screen") for name in self.SCREENS]  # type: ignore[misc]

    @on(StatusArrived)
    def _on_status(self, message: StatusArrived) -> None:
        self.sub_title = f"{message.status.site} · {message.status.trust_domain}"
        for screen in self._screens():
            screen.show_status(message.status)

    @on(FlowsArrived)
    def _on_flows(self, message: FlowsArrived) -> None:
        for screen in self._screens():
            screen.show_flows(message.flows, message.dropped)

    @on(HostsArrived)
    def _on_hosts(self, message: HostsArrived) -> None:
        for screen in self._screens():
            screen.show_hosts(message.hosts)

    @on(FeedLost)
    def _on_lost(self, message: FeedLost) -> None:
        self.sub_title = "no answer"
        self.notify(
            message.reason, title="The daemon does not answer", severity="error", markup=False
        )

    def action_show(self, name: str) -> None:
        """Goes to a screen by its name in SCREENS."""
        self.switch_screen(f"{name}-screen")

    def action_enrol(self) -> None:
        self.push_screen(EnrollScreen(self.connect), self._enrolled)

    def _enrolled(self, host: pb.Host | None) -> None:
        if host is not None:
            self.notify(f"{host.name} is added, {host.state}")

    def action_next_theme(self) -> None:
        names = [theme.name for theme in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
