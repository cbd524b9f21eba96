"""appliance.registry.store: all or nothing, also on a full disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, Conflict, LimitReached, Unavailable
from appliance.registry.migrations import STEPS
from appliance.registry.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def test_files_are_the_users_own(store: Store) -> None:
    store.put("key", "value")
    for path in store.path.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_is_there_after_a_restart_and_steps_are_taken_once(store: Store) -> None:
    store.put("key", "value")
    store.close()
    again = Store(store.path)
    assert again.get("key") == "value"
    assert tuple(again.one("PRAGMA user_version") or ()) == (len(STEPS),)


def test_a_newer_versions_state_is_refused(store: Store) -> None:
    store.run(f"PRAGMA user_version = {len(STEPS) + 1}")
    store.close()
    with pytest.raises(Conflict, match="newer version"):
        Store(store.path)


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def half() -> None:
        with store.transaction():
            store.put("a", "1")
            with store.transaction():
                store.put("b", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert (store.get("a"), store.get("b")) == ("", "")
    with store.transaction():
        store.put("a", "2")
    assert store.get("a") == "2"


def test_numbers_never_come_twice(store: Store) -> None:
    assert [store.next_number("n") for _ in range(3)] == [1, 2, 3]
    store.close()
    assert Store(store.path).next_number("n") == 4


def fill(store: Store) -> None:
    """The file cannot grow any more: as on a full disk, SQLite says SQLITE_FULL."""
    (pages,) = store.one("PRAGMA page_count") or (0,)
    store.run(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_is_said_and_changes_nothing(store: Store) -> None:
    store.put("before", "1")
    fill(store)

    def grow() -> None:
        with store.transaction():
            store.put("before", "2")
            store.put("large", "x" * 10_000_000)

    with pytest.raises(LimitReached, match="full: nothing was changed; free some space"):
        grow()
    assert store.get("before") == "1"
    store.run("PRAGMA max_page_count = 1000000")
    store.put("before", "3")
    assert store.get("before") == "3"


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ApplianceError, match="damaged"):
        Store(tmp_path / "state.db")


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot open the state"):
        Store(tmp_path / "none" / "state.db")


def test_another_writer_is_waited_for_and_then_said(store: Store) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.run("PRAGMA busy_timeout = 10")
    with pytest.raises(Unavailable, match="locked"):
        store.put("key", "value")
    other.execute("ROLLBACK")
    other.close()
    store.put("key", "value")
