"""Who did what, kept on disk. Owns the table and telling those who watch; never holds a secret."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance.errors import ApplianceError
from appliance.registry.store import Store

log = logging.getLogger(__name__)

ENTRIES_MAX = 10_000
TEXT_MAX = 500


@dataclass(frozen=True, slots=True)
class Entry:
    time: int  # UNIX seconds
    who: str  # "uid 0", "spiffe://…", a peer's name, "daemon"
    what: str
    detail: str


class Audit:
    """The newest ENTRIES_MAX entries; older ones go."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._watchers: list[Callable[[Entry], None]] = []
        self.lost = 0  # could not be written

    def watch(self, watcher: Callable[[Entry], None]) -> Callable[[], None]:
        """watcher gets each new entry; returns how to stop that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def record(self, who: str, what: str, detail: str = "") -> None:
        """Never raises: what happened has happened. What the disk does not take is in the log."""
        entry = Entry(int(self._clock()), who, what[:TEXT_MAX], detail[:TEXT_MAX])
        try:
            with self._store.transaction():
                row = self._store.run(
                    "INSERT INTO audit (time, who, what, detail) VALUES (?, ?, ?, ?)",
                    (entry.time, entry.who, entry.what, entry.detail),
                )
                self._store.run(
                    "DELETE FROM audit WHERE id <= ?", ((row.lastrowid or 0) - ENTRIES_MAX,)
                )
        except ApplianceError as error:
            self.lost += 1
            log.error("audit not written (%s): %s: %s %s", error, who, what, detail)
        for watcher in list(self._watchers):
            watcher(entry)

    def entries(self, limit: int = 1000) -> tuple[Entry, ...]:
        """Newest first."""
        rows = self._store.all(
            "SELECT time, who, what, detail FROM audit ORDER BY id DESC LIMIT ?", (limit,)
        )
        return tuple(Entry(*row) for row in rows)
