"""One table of everything a key can do: the footer, the help and the palette all read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from textual.binding import Binding, BindingType
from textual.command import DiscoveryHit, Hit, Hits, Provider

if TYPE_CHECKING:
    from tui.app import SluiceApp


@dataclass(frozen=True, slots=True)
class Action:
    id: str  # stable: users remap keys by it
    key: str
    label: str
    tooltip: str
    action: str  # Textual's action string


ACTIONS = (
    Action("overview", "1", "Overview", "The site at a glance", "app.show('overview')"),
    Action("hosts", "2", "Hosts", "Who is enrolled, and how sure we are", "app.show('hosts')"),
    Action(
        "flows", "3", "Flows", "Who talks to whom, and how it is protected", "app.show('flows')"
    ),
    Action("enrol", "e", "Enrol", "Add a host and get the line to paste", "app.enrol"),
    Action("theme", "t", "Theme", "Next colour theme", "app.next_theme"),
    Action("quit", "q", "Quit", "Leave the console; the site goes on", "app.quit"),
)


def bindings() -> list[BindingType]:
    return [
        Binding(entry.key, entry.action, entry.label, tooltip=entry.tooltip, id=entry.id)
        for entry in ACTIONS
    ]


class ActionProvider(Provider):
    """The palette (Ctrl-P): every action by its label."""

    def _entries(self) -> Iterator[Action]:
        yield from ACTIONS

    async def discover(self) -> Hits:
        for entry in self._entries():
            yield DiscoveryHit(entry.label, self._runner(entry), help=entry.tooltip)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for entry in self._entries():
            score = matcher.match(f"{entry.label} {entry.tooltip}")
            if score:
                label = matcher.highlight(entry.label)
                yield Hit(score, label, self._runner(entry), help=entry.tooltip)

    def _runner(self, entry: Action) -> Callable[[], Awaitable[None]]:
        app = cast("SluiceApp", self.app)

        async def run() -> None:
            await app.run_action(entry.action)

        return run
