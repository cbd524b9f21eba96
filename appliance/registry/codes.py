"""Single-use codes as they are kept: hash, purpose, subject, expiry, who used it. Owns the table.

What a code is and whether it may be used is decided in enroll/. Old ones are forgotten a day
after they ran out, so that "used already" can be told from "wrong" for a while.
"""

from __future__ import annotations

from appliance.enroll.admit import CodeRecord
from appliance.errors import LimitReached
from appliance.registry.store import Store

CODES_MAX = 10_000
_KEEP_S = 86_400


class Codes:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, record: CodeRecord, now: int) -> None:
        """A subject has one code that can be used: the newest. Raises LimitReached."""
        with self._store.transaction():
            self._store.run("DELETE FROM codes WHERE expires < ?", (now - _KEEP_S,))
            self.drop(record.purpose, record.subject)
            (count,) = self._store.one("SELECT count(*) FROM codes") or (0,)
            if count >= CODES_MAX:
                raise LimitReached(f"{CODES_MAX} codes were made within a day: try again later")
            self._store.run(
                "INSERT INTO codes VALUES (?, ?, ?, ?, NULL)",
                (record.hash, record.purpose, record.subject, record.expires),
            )

    def drop(self, purpose: str, subject: str) -> None:
        """Its codes are good no longer, not even for the key that used one: who was revoked and
        added anew joins with the new code alone."""
        of_it = "WHERE purpose = ? AND subject = ?"
        self._store.run(f"DELETE FROM codes {of_it} AND used_by IS NULL", (purpose, subject))
        self._store.run(f"UPDATE codes SET expires = 0 {of_it}", (purpose, subject))

    def get(self, hash: str) -> CodeRecord | None:
        row = self._store.one(
            "SELECT hash, purpose, subject, expires, used_by FROM codes WHERE hash = ?", (hash,)
        )
        return CodeRecord(*row) if row else None

    def consume(self, hash: str, used_by: str) -> bool:
        with self._store.transaction():
            self._store.run(
                "UPDATE codes SET used_by = ? WHERE hash = ? AND used_by IS NULL", (used_by, hash)
            )
            record = self.get(hash)
        return record is not None and record.used_by == used_by
