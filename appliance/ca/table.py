"""The CA's own table: which identities an admin approved, what was signed, and the audit.

Owns ca.db (SQLite, WAL) in the CA user's directory. Nothing is signed outside it; the daemon
cannot write it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.ca.issue import Approval
from appliance.errors import LimitReached, NotFound
from dataplane.snapshot import Grade

APPROVALS_MAX = 100_000
AUDIT_ROWS_MAX = 100_000
_TRIM_EVERY = 1_000  # rows over the limit before the oldest go

_MIGRATIONS = (
    """
    CREATE TABLE approval (
        spiffe_id TEXT PRIMARY KEY, max_grade INTEGER NOT NULL, by TEXT NOT NULL,
        time INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE issued (
        serial TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, grade INTEGER,
        not_after INTEGER NOT NULL, time INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX issued_not_after ON issued (not_after);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, who TEXT NOT NULL,
        what TEXT NOT NULL, detail TEXT NOT NULL
    ) STRICT;
    """,
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    time: int
    who: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Issued:
    serial: str  # hex
    spiffe_id: str
    not_after: int  # UNIX seconds


class Table:
    """One connection, used from one thread. Every change is on the disk before the call returns,
    but for those inside `together`: a power cut brings back no identity that was withdrawn."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._db.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside commits once, at the outermost's end; or nothing of it, when that
        raises."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def approval(self, spiffe_id: str) -> Approval | None:
        row = self._db.execute(
            "SELECT spiffe_id, max_grade, by, time FROM approval WHERE spiffe_id = ?", (spiffe_id,)
        ).fetchone()
        return None if row is None else Approval(row[0], Grade(row[1]), row[2], row[3])

    def approvals(self) -> tuple[Approval, ...]:
        rows = self._db.execute(
            "SELECT spiffe_id, max_grade, by, time FROM approval ORDER BY spiffe_id"
        )
        return tuple(Approval(row[0], Grade(row[1]), row[2], row[3]) for row in rows)

    def approvals_count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM approval").fetchone()[0])

    def approve(self, approval: Approval) -> None:
        """Adds or replaces. Raises LimitReached."""
        known = self.approval(approval.spiffe_id) is not None
        if not known and self.approvals_count() >= APPROVALS_MAX:
            raise LimitReached(f"{APPROVALS_MAX} identities are approved: withdraw some")
        self._db.execute(
            "INSERT OR REPLACE INTO approval VALUES (?, ?, ?, ?)",
            (approval.spiffe_id, int(approval.max_grade), approval.by, approval.time),
        )

    def withdraw(self, spiffe_id: str) -> None:
        """Raises NotFound."""
        if self._db.execute("DELETE FROM approval WHERE spiffe_id = ?", (spiffe_id,)).rowcount == 0:
            raise NotFound(f"{spiffe_id} is not approved")

    def issued(
        self, serial: str, spiffe_id: str, grade: Grade | None, not_after: int, now_s: int
    ) -> None:
        """Records a leaf; forgets those that ran out."""
        self._db.execute("DELETE FROM issued WHERE not_after < ?", (now_s,))
        self._db.execute(
            "INSERT INTO issued VALUES (?, ?, ?, ?, ?)",
            (serial, spiffe_id, None if grade is None else int(grade), not_after, now_s),
        )

    def leaves(self, spiffe_ids: Collection[str], now_s: int) -> tuple[Issued, ...]:
        """Those of the identities that have not run out."""
        marks = ", ".join("?" for _ in spiffe_ids)
        rows = self._db.execute(
            "SELECT serial, spiffe_id, not_after FROM issued"
            f" WHERE spiffe_id IN ({marks}) AND not_after >= ? ORDER BY time, serial",
            (*spiffe_ids, now_s),
        )
        return tuple(Issued(*row) for row in rows)

    def live(self, now_s: int, but: str) -> int:
        """Leaves that have not run out, but those of one identity."""
        query = "SELECT count(*) FROM issued WHERE not_after >= ? AND spiffe_id <> ?"
        return int(self._db.execute(query, (now_s, but)).fetchone()[0])

    def audit(self, time: int, who: str, what: str, detail: str) -> None:
        row = self._db.execute(
            "INSERT INTO audit (time, who, what, detail) VALUES (?, ?, ?, ?) RETURNING id",
            (time, who, what, detail[:1000]),
        ).fetchone()[0]
        if row % _TRIM_EVERY == 0:
            self._db.execute("DELETE FROM audit WHERE id <= ?", (row - AUDIT_ROWS_MAX,))

    def audit_entries(self, limit: int) -> tuple[AuditEntry, ...]:
        """Newest first."""
        rows = self._db.execute(
            "SELECT time, who, what, detail FROM audit ORDER BY id DESC LIMIT ?", (limit,)
        )
        return tuple(AuditEntry(*row) for row in rows)
