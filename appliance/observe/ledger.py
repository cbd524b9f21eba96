"""Who has the records of TLS legs, and why not another: sums of the data plane's counters. Pure.

Each leg is counted under one layer and under one reason, `none` when it is where it should be, so
that both sums are the number of TLS legs; `seals_only` is a NIC's that leaves opening to the
kernel. A leg is counted once it is decided: one that waits for its stream to grow is counted when
that moves or ends. One that a NIC has lost with its link, which the data plane counts beside, is
told where it is now; so these numbers may fall, the counters not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.events import Fallback

LAYERS = ("openssl", "user", "ktls", "nic")
LAYER, FALLBACK = "records_", "fallback_"
SEALS_ONLY_LOST = "seals_only_lost"
REASONS = tuple(fallback.name.lower() for fallback in Fallback)


@dataclass(frozen=True, slots=True)
class Ledger:
    layers: Mapping[str, int]  # by name, in LAYERS' order
    reasons: Mapping[str, int]  # by name, in REASONS' order

    @property
    def legs(self) -> int:
        return sum(self.layers.values())


def ledger(counters: Mapping[str, int]) -> Ledger:
    layers = {name: counters.get(LAYER + name, 0) for name in LAYERS}
    reasons = {name: counters.get(FALLBACK + name, 0) for name in REASONS}
    began = reasons["none"] + reasons["seals_only"]
    lost = min(reasons["link_changed"], layers["nic"], began)  # read one after the other
    sealed_only = min(counters.get(SEALS_ONLY_LOST, 0), reasons["seals_only"], lost)
    sealed_only = max(sealed_only, lost - reasons["none"])
    layers["nic"] -= lost
    layers["ktls"] += lost
    reasons["none"] -= lost - sealed_only
    reasons["seals_only"] -= sealed_only
    reasons["link_changed"] = lost
    return Ledger(layers, reasons)


COUNTERS = frozenset({*(LAYER + name for name in LAYERS), *(FALLBACK + name for name in REASONS)})
"""Names of the counters that the ledger is made of."""
