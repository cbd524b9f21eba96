"""What is no longer believed: leaves by serial, identities with all their leaves.

Owns the table. Ours are told to peers in order; a peer's hold for its own trust domain only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.registry.store import Store

SERIAL_KEPT_S = 2 * 86_400  # the CA signs for a day at most (ca.issue.TTL_MAX_S)


_SERIAL = re.compile(r"[0-9a-f]{1,40}")


def is_serial(text: str) -> bool:
    return _SERIAL.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Revocation:
    id: int  # rises
    trust_domain: str
    serial: str | None  # hex; or
    spiffe_id: str | None
    host: str  # whose it was, for people


class Revocations:
    def __init__(self, store: Store, trust_domain: str) -> None:
        self._store, self._own = store, trust_domain

    def all(self) -> tuple[Revocation, ...]:
        rows = self._store.all(
            "SELECT id, trust_domain, serial, spiffe_id, host FROM revocations ORDER BY id"
        )
        return tuple(Revocation(*row) for row in rows)

    def own(self) -> tuple[Revocation, ...]:
        return tuple(each for each in self.all() if each.trust_domain == self._own)

    def last(self) -> int:
        return max((each.id for each in self.own()), default=0)

    def add(self, *, serial: str | None, spiffe_id: str | None, host: str, now: int) -> None:
        """Of our own trust domain. Leaves that have run out since are denied no longer: no peer
        takes an endless list."""
        self._store.run(
            "DELETE FROM revocations WHERE trust_domain = ? AND serial IS NOT NULL AND time < ?",
            (self._own, now - SERIAL_KEPT_S),
        )
        self._insert(self._own, serial, spiffe_id, host, now)

    def lift(self, spiffe_id: str) -> bool:
        """The identity is approved anew; leaves that were denied by serial stay so."""
        gone = self._store.run(
            "DELETE FROM revocations WHERE trust_domain = ? AND spiffe_id = ?",
            (self._own, spiffe_id),
        )
        return gone.rowcount > 0

    def replace(
        self,
        trust_domain: str,
        wanted: Sequence[tuple[str | None, str | None]],
        host: str,
        now: int,
    ) -> bool:
        """All that a peer denies of its own: (serial, SPIFFE ID). Returns whether it changed."""
        assert trust_domain != self._own
        known = {
            (each.serial, each.spiffe_id)
            for each in self.all()
            if each.trust_domain == trust_domain
        }
        if known == set(wanted):
            return False
        with self._store.transaction():
            self._store.run("DELETE FROM revocations WHERE trust_domain = ?", (trust_domain,))
            for serial, spiffe_id in wanted:
                self._insert(trust_domain, serial, spiffe_id, host, now)
        return True

    def _insert(
        self, trust_domain: str, serial: str | None, spiffe_id: str | None, host: str, now: int
    ) -> None:
        # The table's UNIQUE does not hold for what is NULL.
        self._store.run(
            "INSERT INTO revocations (time, trust_domain, serial, spiffe_id, host)"
            " SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (SELECT 1 FROM revocations"
            " WHERE trust_domain = ?2 AND serial IS ?3 AND spiffe_id IS ?4)",
            (now, trust_domain, serial, spiffe_id, host),
        )
