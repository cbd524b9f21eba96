"""The console by its keys: what a person presses, and what is on the screen then."""

from __future__ import annotations

from typing import Any, cast

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from appliance.api.client import AdminClient
from tests.tui.fake_client import FakeClient
from tui.actions import ACTIONS
from tui.app import SluiceApp

SIZE = (120, 36)


def app_with(client: FakeClient) -> SluiceApp:
    return SluiceApp(lambda: cast(AdminClient, client))


def cells(app: SluiceApp, table: str) -> list[str]:
    """Every cell of the table on the screen, as text."""
    shown = app.screen.query_one(f"#{table}", DataTable)
    return [str(cell) for row in shown.rows for cell in shown.get_row(row)]


async def test_overview_shows_the_site() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
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
        await pilot.pause()
        assert "AuthorizationPolicy default/payments rule 0" in cells(app, "refused")
        assert "a.example/default/batch" in cells(app, "refused")


async def test_what_a_peer_wrote_is_no_markup() -> None:
    app = app_with(FakeClient(rule="[/x] \x1b[2J"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert "[/x] \N{REPLACEMENT CHARACTER}[2J" in cells(app, "refused")
        await pilot.press("3")
        await pilot.pause()
        assert any("[/x]" in cell for cell in cells(app, "flows"))


async def test_hosts_show_identity_and_grade() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("2")
        await pilot.pause()
        assert {"web1", "a.example/default/web", "l2", "198.18.0.11"} <= set(cells(app, "hosts"))


async def test_flows_show_record_layer_and_identities() -> None:
    app = app_with(FakeClient())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("3")
        await pilot.pause()
        shown = cells(app, "flows")
        assert {"splice>ktls", "TLSv1.3", "b.example/default/payments", "64.0 MiB"} <= set(shown)
        assert "records: link_changed" in shown
        assert "denied AuthorizationPolicy default/payments rule 0" in shown


async def test_enrol_wizard_shows_the_line_and_the_code() -> None:
    client = FakeClient()
    app = app_with(client)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e", *"db1", "tab", "space", "tab", "tab", "tab")
        await pilot.press(*"postgres:5432, metrics:9187", "enter")
        await pilot.pause()
        answer = str(app.screen.query_one("#answer", Static).content)
        assert "curl -fsSk https://198.18.0.1:15012/agent" in answer
        assert "ABCD-EFGH-JKLM" in answer
        assert list(client.asked[0].services) == ["postgres:5432", "metrics:9187"]
        await pilot.press("enter")
        await pilot.pause()
        assert len(client.asked) == 1, "a second press must not add the host again"


async def test_enrol_wizard_shows_what_was_wrong() -> None:
    app = app_with(FakeClient(refuse="host db1[/x] exists: choose another name"))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e", *"db1", "enter")
        await pilot.pause()
        answer = str(app.screen.query_one("#answer", Static).content)
        assert answer == "host db1[/x] exists: choose another name"


async def test_enrol_wizard_wants_a_name() -> None:
    client = FakeClient()
    app = app_with(client)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("e", "enter")
        await pilot.pause()
        assert client.asked == []


async def test_lost_daemon_is_said() -> None:
    app = app_with(FakeClient(lost=True))
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert app.sub_title == "no answer"


async def test_every_action_has_a_key_and_a_tooltip() -> None:
    keys = [entry.key for entry in ACTIONS]
    assert len(keys) == len(set(keys))
    assert all(entry.tooltip and entry.label for entry in ACTIONS)


@pytest.mark.parametrize(
    "keys", [("1",), ("2",), ("3",), ("e",)], ids=["overview", "hosts", "flows", "enrol"]
)
def test_looks(keys: tuple[str, ...], snap_compare: Any) -> None:
    """Taken with the Textual that pyproject.toml pins; another one may draw otherwise."""
    app = app_with(FakeClient())

    async def settle(pilot: Pilot[None]) -> None:
        Input.cursor_blink = False
        await pilot.pause()
        await pilot.press(*keys)
        await pilot.pause()

    assert snap_compare(app, run_before=settle, terminal_size=SIZE)
