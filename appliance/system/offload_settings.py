"""What of a network device may be set, and a device as it was found. Names and values only.

`SETTINGS` is the whole list: profiles name nothing else, and the root helper sets nothing else.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    driver: str = ""
    firmware: str = ""
    bus: str = ""  # "0000:3b:00.0"; "" = not on a bus
    pci_id: str = ""  # "15b3:101d"; "" = no PCI device
    settings: Mapping[str, Setting] = field(default_factory=dict)  # what it has, by SETTINGS
    irqs: tuple[Irq, ...] = ()


def shown(setting: str, value: int | None) -> str:
    """As people read it."""
    if value is None:
        return "none"
    return ("off", "on")[value] if setting in FEATURES and value in (0, 1) else str(value)
