"""What was changed on network devices, and what was there before. Owns the table.

A row is written before the device is touched, so that also a crash in between can be put back.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import LimitReached
from appliance.registry.store import Store

ROWS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Changed:
    interface: str
    device: str  # driver and bus: another device may get the name
    setting: str
    before: int | str
    after: int | str


class NicSettings:
    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, change: Changed) -> None:
        """What was there before our first change stays, however often it is changed again. Raises
        LimitReached."""
        with self._store.transaction():
            (count,) = self._store.one("SELECT count(*) FROM nic_settings") or (0,)
            if count >= ROWS_MAX:
                raise LimitReached(f"{ROWS_MAX} settings are changed: `sluice offload revert`")
            self._store.run(
                "DELETE FROM nic_settings WHERE interface = ? AND setting = ? AND device != ?",
                (change.interface, change.setting, change.device),
            )
            self._store.run(
                "INSERT INTO nic_settings (interface, device, setting, before, after)"
                " VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (interface, setting) DO UPDATE SET after = excluded.after",
                (change.interface, change.device, change.setting, change.before, change.after),
            )

    def forget(self, interface: str, setting: str) -> None:
        self._store.run(
            "DELETE FROM nic_settings WHERE interface = ? AND setting = ?", (interface, setting)
        )

    def changed(self) -> tuple[Changed, ...]:
        """Newest first."""
        rows = self._store.all(
            "SELECT interface, device, setting, before, after FROM nic_settings ORDER BY id DESC"
        )
        return tuple(Changed(*row) for row in rows)
