"""The site's state on disk: one SQLite file, one writer. Owns the connection and transactions.

Write-ahead log with a sync at each commit: what a transaction did is there after a power cut, or
none of it. What the tables mean is in the modules beside this one; here is only how they are
kept. A full disk raises `LimitReached` with nothing changed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.errors import ApplianceError, Conflict, LimitReached, Unavailable
from appliance.registry.migrations import STEPS

Row = sqlite3.Row


class Store:
    """Open for the daemon's life. Used by one thread; calls return when it is on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # SQLite makes its files with the mode of the first: no other user may read state.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"{path}: cannot open the state: {error}") from error
        self._db.row_factory = sqlite3.Row
        self._depth = 0
        try:
            with self._errors():
                for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    self._db.execute(f"PRAGMA {setting}")
            self._migrate()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def _migrate(self) -> None:
        (done,) = self.one("PRAGMA user_version") or (0,)
        if done > len(STEPS):
            raise Conflict(
                f"{self.path} was written by a newer version (step {done}, known {len(STEPS)}): "
                "install that version, or restore a backup"
            )
        for number, step in enumerate(STEPS[done:], done + 1):
            with self.transaction():
                for statement in _statements(step):
                    self.run(statement)
                self.run(f"PRAGMA user_version = {number}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; may be nested: the outermost commits. LimitReached, Unavailable."""
        if self._depth:
            yield
            return
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            with self._errors():
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    def run(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement; outside a transaction it is one of its own."""
        with self._errors():
            return self._db.execute(statement, values)

    def run_each(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        with self._errors():
            self._db.executemany(statement, values)

    def all(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        return self.run(query, values).fetchall()

    def one(self, query: str, values: Sequence[Any] = ()) -> Row | None:
        row: Row | None = self.run(query, values).fetchone()
        return row

    # -- small facts -----------------------------------------------------------------------------

    def get(self, key: str, default: str = "") -> str:
        row = self.one("SELECT value FROM meta WHERE key = ?", (key,))
        return str(row["value"]) if row else default

    def put(self, key: str, value: str) -> None:
        self.run(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def next_number(self, key: str) -> int:
        """1, 2, …; never the same again, also after a crash."""
        with self.transaction():
            number = int(self.get(key, "0")) + 1
            self.put(key, str(number))
        return number

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise LimitReached(
                    f"the disk that holds {self.path.parent} is full: nothing was changed; "
                    "free some space and try again"
                ) from error
            raise Unavailable(f"{self.path}: {error}: nothing was changed") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise ApplianceError(
                f"{self.path} is damaged ({error}): stop the daemon and restore a backup"
            ) from error


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line.split("--")[0] + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
