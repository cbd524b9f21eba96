"""The documents and how they came about: revisions, and the change that waits to be confirmed.

Owns their tables. A change is three steps, each one transaction: `begin` keeps the new documents
(and, for a change to be confirmed, the deadline and what to go back to) before anything is
published; `finish` makes them the current ones once the data plane runs them; `abandon` forgets
them. Whoever dies in between finds the old revision current, and `recover` clears the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.config.load import Source, load
from appliance.config.model import AnyDocument, Key, Model, changes, plain_document
from appliance.errors import Conflict, NotFound
from appliance.registry.store import Store

REVISIONS_MAX = 200
_CURRENT = "revision"


@dataclass(frozen=True, slots=True)
class Revision:
    id: int
    time: int  # UNIX seconds
    by: str
    summary: str
    state: str  # publishing, applied, pending, reverted, refused
    reason: str


@dataclass(frozen=True, slots=True)
class Pending:
    revision: int
    previous: int
    deadline: int  # UNIX seconds
    by: str


class Revisions:
    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def current(self) -> int:
        """0 = none yet: no documents."""
        return int(self._store.get(_CURRENT, "0"))

    def list(self) -> tuple[Revision, ...]:
        """Newest first."""
        rows = self._store.all(
            "SELECT id, time, by, summary, state, reason FROM revisions ORDER BY id DESC"
        )
        return tuple(Revision(*row) for row in rows)

    def before(self, revision: int) -> int:
        """The one that was current before it; 0 = none."""
        row = self._store.one(
            "SELECT max(id) AS id FROM revisions WHERE id < ? AND state = 'applied'", (revision,)
        )
        return int(row["id"] or 0) if row else 0

    def pending(self) -> Pending | None:
        row = self._store.one("SELECT revision, previous, deadline, by FROM pending")
        return Pending(*row) if row else None

    def model(self, revision: int) -> Model:
        """Raises NotFound."""
        return load(self.sources(revision))

    def sources(self, revision: int) -> Sequence[Source]:
        """Its documents' text. Raises NotFound."""
        if revision == 0:
            return []
        if not self._store.one("SELECT 1 FROM revisions WHERE id = ?", (revision,)):
            raise NotFound(f"there is no revision {revision}: see `sluice history`")
        rows = self._store.all(
            "SELECT kind, namespace, name, text FROM revision_documents JOIN texts USING (hash)"
            " WHERE revision = ?",
            (revision,),
        )
        return [
            Source(f"{row['kind']} {row['namespace']}/{row['name']}", row["text"]) for row in rows
        ]

    def generations(self, revision: int) -> dict[Key, int]:
        return {key: generation for key, (generation, _) in self._kept(revision).items()}

    def _kept(self, revision: int) -> dict[Key, tuple[int, bytes]]:
        """Generation of each document, and the hash of its text."""
        rows = self._store.all(
            "SELECT kind, namespace, name, generation, hash FROM revision_documents"
            " WHERE revision = ?",
            (revision,),
        )
        return {(row[0], row[1], row[2]): (row[3], row[4]) for row in rows}

    def begin(
        self, model: Model, before: Model, *, now: int, by: str, summary: str, deadline: int = 0
    ) -> int:
        """Keeps model as a revision that is not current yet; returns its number.

        before: the current model. Raises Conflict while another change waits for its confirmation.
        """
        what = {
            (each.kind, each.namespace, each.name): each.what for each in changes(before, model)
        }
        store = self._store
        with store.transaction():
            self.refuse_while_pending()
            current = self.current
            older = self._kept(current)
            revision = store.run(
                "INSERT INTO revisions (time, by, summary, state) VALUES (?, ?, ?, 'publishing')",
                (now, by, summary),
            ).lastrowid
            assert revision is not None
            texts: list[tuple[bytes, str]] = []
            rows: list[tuple[int | str | bytes, ...]] = []
            for document in model.documents:
                key = document.key
                generation, digest = older.get(key, (0, b""))
                # The text of what did not change stays as it was kept: equal documents can be
                # written in several ways, and so differ in their hashes.
                if what[key] != "unchanged" or not digest:
                    text = _text(document)
                    generation, digest = generation + 1, hashlib.sha256(text.encode()).digest()
                    texts.append((digest, text))
                rows.append((revision, *key, generation, digest))
            store.run_each("INSERT OR IGNORE INTO texts VALUES (?, ?)", texts)
            store.run_each("INSERT INTO revision_documents VALUES (?, ?, ?, ?, ?, ?)", rows)
            if deadline:
                store.run(
                    "INSERT INTO pending VALUES (1, ?, ?, ?, ?)", (revision, current, deadline, by)
                )
        return revision

    def refuse_while_pending(self) -> None:
        pending = self.pending()
        if pending is not None:
            raise Conflict(
                f"revision {pending.revision} of {pending.by} waits to be confirmed: run "
                "`sluice confirm`, or `sluice confirm --cancel` to go back"
            )

    def finish(self, revision: int) -> None:
        with self._store.transaction():
            pending = self.pending()
            waits = pending is not None and pending.revision == revision
            self._set(revision, "pending" if waits else "applied")
            self._store.put(_CURRENT, str(revision))
            self._prune()

    def abandon(self, revision: int, reason: str) -> None:
        with self._store.transaction():
            self._set(revision, "refused", reason)
            self._store.run("DELETE FROM pending WHERE revision = ?", (revision,))

    def confirm(self) -> Pending:
        """Raises Conflict when nothing waits."""
        with self._store.transaction():
            pending = self._waiting()
            self._set(pending.revision, "applied")
            self._store.run("DELETE FROM pending")
        return pending

    def revert(self, reason: str) -> Pending:
        """Makes the previous revision current again. Raises Conflict when nothing waits."""
        with self._store.transaction():
            pending = self._waiting()
            self._set(pending.revision, "reverted", reason)
            self._store.put(_CURRENT, str(pending.previous))
            self._store.run("DELETE FROM pending")
        return pending

    def recover(self) -> Sequence[int]:
        """At start: forgets what was being published when we died. Returns those revisions."""
        rows = self._store.all("SELECT id FROM revisions WHERE state = 'publishing'")
        for row in rows:
            self.abandon(row["id"], "the daemon ended before the data plane had answered")
        return [row["id"] for row in rows]

    def _waiting(self) -> Pending:
        pending = self.pending()
        if pending is None:
            raise Conflict("nothing waits to be confirmed")
        return pending

    def _set(self, revision: int, state: str, reason: str = "") -> None:
        self._store.run(
            "UPDATE revisions SET state = ?, reason = ? WHERE id = ?", (state, reason, revision)
        )

    def _prune(self) -> None:
        keep = self.current
        pending = self.pending()
        gone = self._store.run(
            "DELETE FROM revisions WHERE id NOT IN"
            " (SELECT id FROM revisions ORDER BY id DESC LIMIT ?) AND id NOT IN (?, ?)",
            (REVISIONS_MAX, keep, pending.previous if pending else keep),
        )
        if gone.rowcount:
            self._store.run(
                "DELETE FROM texts WHERE hash NOT IN (SELECT hash FROM revision_documents)"
            )


def _text(document: AnyDocument) -> str:
    """JSON, which is YAML too: making it takes a fifth of the time."""
    return json.dumps(plain_document(document), ensure_ascii=False)
