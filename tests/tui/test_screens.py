"""The console by its keys: what a person presses, and what is on the screen then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar, cast

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from appliance.api.client import AdminClient
from tests.tui.fake_client import FakeClient
from tui.actions import ACTIONS
from tui.app import SluiceApp

SIZE = (120, 36)
LIMIT_S = 60.0
T = TypeVar("T")


def app_with(client: FakeClient) -> SluiceApp:
    return SluiceApp(lambda: cast(AdminClient, client))


def cells(app: SluiceApp, table: str) -> list[str]:
    """Every cell of the table on the screen, as text; none while the screen is another one."""
    found = app.screen.query(f"#{table}").results(DataTable)
    return [str(cell) for shown in found for row in shown.rows for cell in shown.get_row(row)]


def answer(app: SluiceApp) -> str:
    """Empty while the screen is another one."""
    return "".join(str(shown.content) for shown in app.screen.query("#answer").results(Static))


async def until(pilot: Pilot[None], look: Callable[[], T]) -> T:
    """The first true thing that look returns: a busy machine looks idle before all is drawn."""
    async with asyncio.timeout(LIMIT_S):
        while not (found := look()):
            await pilot.pause()
    return found


async def open_wizard(app: SluiceApp, pilot: Pilot[None]) -> None:
    """Until it takes keys."""
    await pilot.press("e")
    await until(pilot, lambda: isinstance(app.focused, Input))


async def test_overview_shows_the_site() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: cells(app, "processes"))
        facts = str(app.screen.query_one("#facts", Static).content)
        assert "2 hosts   3 services   1 of 1 peers" in facts
        assert "snapshot 12 of 12" in facts
        assert "TLS legs by user 5, ktls 2, nic 1" in facts
        assert "not as the profile would: small 3, link_changed 1" in facts
        assert "dataplane" in cells(app, "processes")
        assert app.sub_title == "site-a · a.example"


async def test_overview_shows_the_rule_that_denied() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        refused = await until(pilot, lambda: cells(app, "refused"))
        assert {"AuthorizationPolicy default/payments rule 0", "a.example/default/batch"} <= {
            *refused
        }


async def test_what_a_peer_wrote_is_no_markup() -> None:
    app = app_with(FakeClient(rule="[/x] \x1b[2J"))
    async with app.run_test(size=SIZE) as pilot:
        refused = await until(pilot, lambda: cells(app, "refused"))
        assert "[/x] \N{REPLACEMENT CHARACTER}[2J" in refused
        await pilot.press("3")
        flows = await until(pilot, lambda: cells(app, "flows"))
        assert any("[/x]" in cell for cell in flows)


async def test_hosts_show_identity_and_grade() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2")
        hosts = await until(pilot, lambda: cells(app, "hosts"))
        assert {"web1", "a.example/default/web", "l2", "198.18.0.11"} <= set(hosts)


async def test_flows_show_record_layer_and_identities() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("3")
        shown = await until(pilot, lambda: cells(app, "flows"))
        assert {"splice>ktls", "TLSv1.3", "b.example/default/payments", "64.0 MiB"} <= set(shown)
        assert "records: link_changed" in shown
        assert "denied AuthorizationPolicy default/payments rule 0" in shown


async def test_enrol_wizard_shows_the_line_and_the_code() -> None:
    client = FakeClient()
    app = app_with(client)
    async with app.run_test(size=SIZE) as pilot:
        await open_wizard(app, pilot)
        await pilot.press(*"db1", "tab", "space", "tab", "tab", "tab")
        await pilot.press(*"postgres:5432, metrics:9187", "enter")
        said = await until(pilot, lambda: answer(app))
        assert "curl -fsSk https://198.18.0.1:15012/agent" in said
        assert "ABCD-EFGH-JKLM" in said
        assert list(client.asked[0].services) == ["postgres:5432", "metrics:9187"]
        await pilot.press("enter")
        await pilot.pause()
        assert len(client.asked) == 1, "a second press must not add the host again"


async def test_enrol_wizard_shows_what_was_wrong() -> None:
    app = app_with(FakeClient(refuse="host db1[/x] exists: choose another name"))
    async with app.run_test(size=SIZE) as pilot:
        await open_wizard(app, pilot)
        await pilot.press(*"db1", "enter")
        said = await until(pilot, lambda: answer(app))
        assert said == "host db1[/x] exists: choose another name"


async def test_enrol_wizard_wants_a_name() -> None:
    client = FakeClient()
    app = app_with(client)
    async with app.run_test(size=SIZE) as pilot:
        await open_wizard(app, pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert client.asked == []


async def test_lost_daemon_is_said() -> None:
    app = app_with(FakeClient(lost=True))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.sub_title == "no answer")


async def test_every_action_has_a_key_and_a_tooltip() -> None:
    keys = [entry.key for entry in ACTIONS]
    assert len(keys) == len(set(keys))
    assert all(entry.tooltip and entry.label for entry in ACTIONS)


@pytest.mark.parametrize(
    ("key", "table"),
    [("1", "refused"), ("2", "hosts"), ("3", "flows"), ("", "")],
    ids=["overview", "hosts", "flows", "enrol"],
)
def test_looks(key: str, table: str, snap_compare: Any) -> None:
    """Taken with the Textual that pyproject.toml pins; another one may draw otherwise."""
    app = app_with(FakeClient())

    async def settle(pilot: Pilot[None]) -> None:
        Input.cursor_blink = False
        await until(pilot, lambda: cells(app, "processes") and cells(app, "refused"))
        if table:
            await pilot.press(key)
            await until(pilot, lambda: cells(app, table))
        else:
            await open_wizard(app, pilot)
        await pilot.pause()

    assert snap_compare(app, run_before=settle, terminal_size=SIZE)
