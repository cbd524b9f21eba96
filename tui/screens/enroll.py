"""The enrol wizard: what the host is, then the line to paste and its single-use code."""

from __future__ import annotations

from collections.abc import Callable

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Label, Static

from appliance.api.client import AdminClient, ApplianceError, pb
from appliance.api.text import when


class EnrollScreen(ModalScreen[pb.Host | None]):
    """Dismisses with the host that was added, or None. The code lives only on this screen."""

    BINDINGS = [("escape", "leave", "Close")]  # noqa: RUF012 - Textual reads a plain list

    def __init__(self, connect: Callable[[], AdminClient]) -> None:
        super().__init__()
        self._connect = connect
        self._added: pb.Host | None = None

    def compose(self) -> ComposeResult:
        with Vertical(id="enroll"):
            yield Label("Name")
            yield Input(placeholder="db1", id="name", max_length=63)
            yield Checkbox("It will hold a key of its own (needs the agent)", id="agent")
            yield Label("Address (a host without an agent is known by it)")
            yield Input(placeholder="192.0.2.11", id="address", max_length=64)
            yield Label("MAC address (makes the grade l2)")
            yield Input(placeholder="optional", id="mac", max_length=17)
            yield Label("Services, with commas")
            yield Input(placeholder="postgres:5432", id="services", max_length=512)
            yield Static("", id="answer", markup=False)
            with Horizontal(id="buttons"):
                yield Button("Add", variant="primary", id="add")
                yield Button("Close", id="close")

    def on_mount(self) -> None:
        self.query_one("#enroll").border_title = "enrol a host"
        self.query_one("#name", Input).focus()

    def _text(self, field: str) -> str:
        return self.query_one(f"#{field}", Input).value.strip()

    @on(Input.Submitted)
    @on(Button.Pressed, "#add")
    def _add(self) -> None:
        if self._added is not None:
            return
        if not self._text("name"):
            self.query_one("#answer", Static).update("Give the host a name.")
            return
        address = self._text("address")
        self._ask(
            pb.AddHostRequest(
                name=self._text("name"),
                agent=self.query_one("#agent", Checkbox).value,
                addresses=[address] if address else [],
                mac=self._text("mac"),
                services=[
                    part.strip() for part in self._text("services").split(",") if part.strip()
                ],
            )
        )

    @work(exclusive=True)
    async def _ask(self, request: pb.AddHostRequest) -> None:
        answer = self.query_one("#answer", Static)
        try:
            async with self._connect() as client:
                reply = await client.add_host(request)
        except ApplianceError as error:
            answer.update(str(error))
            return
        self._added = reply.host
        self.query_one("#add", Button).disabled = True
        answer.update(_lines(reply))

    @on(Button.Pressed, "#close")
    def action_leave(self) -> None:
        self.dismiss(self._added)


def _lines(reply: pb.AddHostReply) -> str:
    if reply.join_line:
        return (
            f"Paste on the host:\n{reply.join_line}\n\n"
            f"It asks for this code, good once, until {when(reply.code_expires)}:\n{reply.code}"
        )
    named = (
        ("Linux", reply.route_linux),
        ("Windows", reply.route_windows),
        ("DHCP", reply.route_dhcp),
        ("DNS", reply.dns),
    )
    return "On the host, one of:\n" + "\n".join(f"{name}: {line}" for name, line in named if line)
