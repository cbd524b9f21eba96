"""appliance.observe.audit: what happened stays, bounded, and is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.observe import audit as module
from appliance.observe.audit import Audit, Entry
from appliance.registry.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def test_entries_outlive_a_restart_newest_first(store: Store) -> None:
    audit, seen = Audit(store, lambda: 5.5), list[Entry]()
    audit.watch(seen.append)
    audit.record("uid 0", "host add", "web1")
    audit.record("uid 0", "host remove", "x" * 9000)
    assert [entry.what for entry in Audit(store).entries()] == ["host remove", "host add"]
    assert len(seen[1].detail) == module.TEXT_MAX
    assert seen[0] == Entry(5, "uid 0", "host add", "web1")


def test_old_entries_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 3)
    audit = Audit(store)
    for number in range(6):
        audit.record("t", str(number))
    assert [entry.what for entry in audit.entries()] == ["5", "4", "3"]


def test_a_full_disk_loses_no_act(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    audit, seen = Audit(store), list[Entry]()
    audit.watch(seen.append)
    (pages,) = store.one("PRAGMA page_count") or (0,)
    store.run(f"PRAGMA max_page_count = {pages}")
    while not audit.lost and len(seen) < 10_000:
        audit.record("t", "act", "x" * 500)
    assert audit.lost == 1
    assert len(audit.entries(20_000)) == len(seen) - 1
    assert "audit not written" in caplog.text
