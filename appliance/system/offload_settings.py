"""What of a network device may be set, and a device as it was found. Names and values only.

`SETTINGS` is the whole list: profiles name nothing else, and the root helper sets nothing else; but
for where each interrupt is served, which a profile wishes for all of a device's queues at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

VALUE_MAX = 65_536
# As the kernel names them (net/ethtool/common.c), and as `ethtool -k` shows them.
FEATURES = (
    "tls-hw-tx-offload",
    "tls-hw-rx-offload",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-generic-segmentation",
    "tx-scatter-gather",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "rx-checksum",
    "rx-gro",
    "rx-gro-hw",
    "rx-lro",
    "rx-hashing",
    "rx-ntuple-filter",
    "hw-tc-offload",
)
RINGS = {"rings.rx": "rx", "rings.tx": "tx"}
QUEUES = {
    "queues.combined": ("combined_count", "max_combined"),
    "queues.rx": ("rx_count", "max_rx"),
    "queues.tx": ("tx_count", "max_tx"),
}
SETTINGS = (*FEATURES, *RINGS, *QUEUES)
INTERRUPTS = "interrupts"  # the wish: each queue's where its worker is
IRQ = "irq "  # and then its name: one interrupt, as it is planned, set and noted
Value = int | str  # a number; for an interrupt the processors: "0-3"
_QUEUE = re.compile(r"(?<![a-z])(?:comp|txrx|rxtx|rx|tx|input|output|queue|q)[-._]?([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Setting:
    value: int  # of a feature: 1 = on
    most: int  # that the device takes; of a feature: 1
    fixed: bool = False  # cannot be changed


@dataclass(frozen=True, slots=True)
class Irq:
    number: int
    name: str
    cpus: str  # "0-3": where it may be served

    @property
    def queue(self) -> int | None:
        """As its name says; None = it is of no queue."""
        found = _QUEUE.search(self.name.lower())
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    driver: str = ""
    firmware: str = ""
    bus: str = ""  # "0000:3b:00.0"; "" = not on a bus
    pci_id: str = ""  # "15b3:101d"; "" = no PCI device
    settings: Mapping[str, Setting] = field(default_factory=dict)  # what it has, by SETTINGS
    irqs: tuple[Irq, ...] = ()

    def value(self, setting: str) -> Value | None:
        """None = it does not have that."""
        if setting.startswith(IRQ):
            named = (irq.cpus for irq in self.irqs if irq.name == setting.removeprefix(IRQ))
            return next(named, None) or None
        held = self.settings.get(setting)
        return held.value if held is not None else None


def shown(setting: str, value: Value | None) -> str:
    """As people read it."""
    if value is None:
        return "none"
    return ("off", "on")[int(value)] if setting in FEATURES and value in (0, 1) else str(value)


def cpu_list(text: str) -> frozenset[int]:
    """ "0-2,5" -> {0, 1, 2, 5}; what is malformed names no processor."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            low, high = int(first), int(last or first)
            if high - low < 8192:
                found.update(range(low, high + 1))
    return frozenset(found)
