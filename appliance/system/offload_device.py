"""One network device's offloads, rings and queues: reading them and setting one at a time.

Owns the ethtool calls and the sysfs paths; decides nothing. Reading needs no privilege, setting
CAP_NET_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError

from appliance.errors import NotFound
from appliance.system.offload_settings import (
    FEATURES,
    QUEUES,
    RINGS,
    Device,
    Irq,
    Setting,
    Value,
    cpu_list,
)

ROOT = Path("/")
IRQS_MAX = 1024
_PCI_FILES = ("vendor", "device")


@dataclass(frozen=True, slots=True)
class Put:
    """What became of one setting; None = the device does not have it."""

    before: Value | None
    after: Value | None
    refused: str  # why after is not what was asked for; "" = it is


def read(name: str, root: Path = ROOT) -> Device:
    """Raises NotFound. What the device does not have is left out."""
    with _ethtool(name) as tool:
        driver, firmware, bus = _driver(tool)
        settings = _settings(tool)
    return Device(name, driver, firmware, bus, pci_id(name, root), settings, irqs(name, root))


def put(name: str, setting: str, value: int) -> Put:
    """Sets and reads back. Raises NotFound."""
    refused = "the device has its own mind"
    with _ethtool(name) as tool:
        before = _settings(tool).get(setting)
        if before is None:
            return Put(None, None, "the device does not have it")
        try:
            _put(tool, setting, value)
        except NotSupportedError:  # also when the kernel took the wish and the driver did not
            refused = "the driver cannot set it now"
        except OSError as error:
            refused = (error.strerror or str(error)).lower()
        after = _settings(tool).get(setting)
    got = after.value if after is not None else None
    return Put(before.value, got, "" if got == value else refused)


def put_irq(name: str, irq: str, cpus: str, root: Path = ROOT) -> Put:
    """Where the device's interrupt of that name is served; sets and reads back."""
    numbers = [each.number for each in irqs(name, root) if each.name == irq]
    if not numbers:
        return Put(None, None, "the device does not have it")
    path = root / "proc/irq" / str(numbers[0]) / "smp_affinity_list"
    before, refused = _text(path), "the kernel serves it elsewhere"
    try:
        path.write_text(cpus)
    except OSError as error:  # EIO: the driver's own to place
        refused = (error.strerror or str(error)).lower()
    after = _text(path)
    good = after != "" and cpu_list(after) == cpu_list(cpus)
    return Put(before or None, after or None, "" if good else refused)


def pci_id(name: str, root: Path = ROOT) -> str:
    """Of the PCI device that the interface belongs to, also behind virtio or a sub-function."""
    for folder in _ancestors(name, root):
        if (folder / "subsystem").resolve().name == "pci":
            vendor, device = (_text(folder / part).removeprefix("0x") for part in _PCI_FILES)
            return f"{vendor}:{device}".lower()
    return ""


def irqs(name: str, root: Path = ROOT) -> tuple[Irq, ...]:
    """The device's interrupts, and which processors serve them; not those that say by their name
    that they are another port's of the same card."""
    for folder in _ancestors(name, root):
        numbers = sorted(int(each) for each in _list(folder / "msi_irqs") if each.isdigit())
        if numbers:
            others = [each for each in _list(folder / "net") if each != name]
            found = (_irq(number, root) for number in numbers[:IRQS_MAX])
            return tuple(irq for irq in found if not any(_of(irq, other) for other in others))
        if (folder / "subsystem").resolve().name != "virtio":
            break  # what is above serves others too: a USB controller, a card of sub-functions
    return ()


def _of(irq: Irq, interface: str) -> bool:
    rest = irq.name.removeprefix(interface)
    return rest != irq.name and not rest[:1].isalnum()


def _ancestors(name: str, root: Path) -> Iterator[Path]:
    device = root / "sys/class/net" / name / "device"
    if device.exists():
        folder = device.resolve()
        top = (root / "sys/devices").resolve()
        while folder != top and top in folder.parents:
            yield folder
            folder = folder.parent


def _irq(number: int, root: Path) -> Irq:
    folder = root / "proc/irq" / str(number)
    actions = [each for each in _list(folder) if (folder / each).is_dir()]
    return Irq(number, " ".join(sorted(actions)), _text(folder / "smp_affinity_list"))


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class _DriverInfo(ctypes.Structure):
    """struct ethtool_drvinfo of linux/ethtool.h."""

    _fields_ = (
        ("cmd", ctypes.c_uint32),
        ("driver", ctypes.c_char * 32),
        ("version", ctypes.c_char * 32),
        ("firmware", ctypes.c_char * 32),
        ("bus", ctypes.c_char * 32),
        ("rest", ctypes.c_char * 64),
    )


_GET_DRIVER_INFO = 3  # ETHTOOL_GDRVINFO


@contextmanager
def _ethtool(name: str) -> Iterator[Any]:
    tool = IoctlEthtool()
    try:
        tool.change_ifname(name)
        yield tool
    except NoSuchDevice as error:
        raise NotFound(f"there is no interface {name}") from error
    finally:
        tool.close()


def _driver(tool: Any) -> tuple[str, str, str]:
    """Driver, firmware version, bus; empty where the device has none."""
    info = _DriverInfo(cmd=_GET_DRIVER_INFO)
    tool.ifreq.gstrings = ctypes.cast(ctypes.byref(info), ctypes.c_void_p)
    try:
        tool.ioctl()
    except NotSupportedError:
        return "", "", ""
    driver, firmware, bus = (
        text.decode("ascii", "replace").strip() for text in (info.driver, info.firmware, info.bus)
    )
    return driver, firmware, "" if bus in ("N/A", "tap") else bus


def _settings(tool: Any) -> dict[str, Setting]:
    return {**_features(tool), **_rings(tool), **_queues(tool)}


def _features(tool: Any) -> dict[str, Setting]:
    held = tool.get_features()
    return {
        name: Setting(
            int(held.is_active(name)),
            1,
            fixed=not held.is_available(name) or held.is_never_changed(name),
        )
        for name in FEATURES
        if name in held
    }


def _rings(tool: Any) -> dict[str, Setting]:
    try:
        held = tool.get_rings()
    except NotSupportedError:
        return {}
    return {
        name: Setting(held[field], held[f"{field}_max"])
        for name, field in RINGS.items()
        if held[f"{field}_max"]
    }


def _queues(tool: Any) -> dict[str, Setting]:
    try:
        held = tool.get_channels()
    except NotSupportedError:
        return {}
    return {
        name: Setting(held[now], held[most]) for name, (now, most) in QUEUES.items() if held[most]
    }


def _put(tool: Any, setting: str, value: int) -> None:
    if setting in RINGS:
        rings = tool.get_rings()
        rings[RINGS[setting]] = value
        tool.set_rings(rings)
    elif setting in QUEUES:
        channels = tool.get_channels()
        channels[QUEUES[setting][0]] = value
        tool.set_channels(channels)
    else:
        features = tool.get_features()
        features[setting] = bool(value)
        tool.set_features(features)
