"""What may be asked of root: a fixed table of verbs, each with a fixed table of arguments.

Owns checking and doing them. Nothing here builds a command from text that was not matched whole
against its pattern, and no verb takes a path or a command.

The daemon may ask for what it must be able to take back by itself (NIC settings, time) and for
what keeps the box going. It may not ask for what would let a daemon that was taken over read
users' bytes or wipe the CA: those are the admin group's and root's.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import InvalidInput
from appliance.supervisor import capture
from appliance.supervisor.tree import Tree
from appliance.system.offload_settings import FEATURES, SETTINGS, VALUE_MAX

if TYPE_CHECKING:
    from appliance.system.offload_device import Put

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
IRQ = re.compile(r"[!-~][ -~]{0,79}")  # a name to compare with, never a path
CPUS = re.compile(r"[0-9]{1,4}([,-][0-9]{1,4}){0,255}")
YEAR_2024_MS = 1_704_067_200_000
YEAR_2100_MS = 4_102_444_800_000

Arguments = Mapping[str, Any]
Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Verb:
    do: Callable[[Tree, Arguments], Awaitable[dict[str, Any]]]
    required: Mapping[str, Check]
    optional: Mapping[str, Check]
    daemon_may: bool


def check(verb: Verb, name: str, arguments: Arguments) -> None:
    """Raises InvalidInput with the first argument that is not in the table."""
    known = {**verb.required, **verb.optional}
    for key, value in arguments.items():
        if key not in known:
            raise InvalidInput(f"{name}: there is no argument {key[:40]!r}")
        if not known[key](value):
            raise InvalidInput(f"{name}: {key} is not allowed to be {str(value)[:40]!r}")
    for key in verb.required:
        if key not in arguments:
            raise InvalidInput(f"{name}: {key} is missing")


def _whole(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _between(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _one_of(*values: Any) -> Check:
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def _interface(value: Any) -> bool:
    return (
        isinstance(value, str)
        and INTERFACE.fullmatch(value) is not None
        and value != "lo"
        and Path("/sys/class/net", value).exists()
    )


async def _status(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    services = tree.services()
    return {
        "processes": [process for service in services for process in service.processes()],
        "counts": {
            f"{service.name}_{what}": getattr(service.counts, what)
            for service in services
            for what in ("restarts", "hung", "failed_starts", "replacements", "cut_short")
        }
        | {"ticket_rotations": tree.tickets.rotations, **tree.counters},
        "generation": tree.dataplane.generation,
        "pid": os.getpid(),
    }


async def _restart_dataplane(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    return {"generation": await tree.dataplane.replace()}


async def _rotate_tickets(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    tree.rotate_tickets()
    return {"rotations": tree.tickets.rotations}


async def _set_time(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    before = time.time()
    time.clock_settime_ns(time.CLOCK_REALTIME, arguments["unix_ms"] * 1_000_000)
    return {"moved_ms": round(arguments["unix_ms"] - before * 1000)}


async def _set_hostname(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    before = socket.gethostname()
    _write_hostname(arguments["name"])
    socket.sethostname(arguments["name"])
    return {"before": before}


def _write_hostname(name: str) -> None:
    # In place: the unit may write this one file in /etc and no other.
    Path("/etc/hostname").write_text(name + "\n", encoding="ascii")


async def _nic_set(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    setting, value = arguments["setting"], arguments["value"]
    if setting in FEATURES and value not in (0, 1):
        raise InvalidInput(f"nic-set: {setting} is a feature: 0 or 1")
    done = await asyncio.to_thread(_put, arguments["interface"], setting, value)
    return {"before": done.before, "after": done.after, "refused": done.refused}


def _put(interface: str, setting: str, value: int) -> Put:
    # Here: a supervisor that sets no device does without pyroute2.
    from appliance.system import offload_device

    return offload_device.put(interface, setting, value)


async def _irq_set(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    done = await asyncio.to_thread(
        _put_irq, arguments["interface"], arguments["irq"], arguments["cpus"]
    )
    return {"before": done.before, "after": done.after, "refused": done.refused}


def _put_irq(interface: str, irq: str, cpus: str) -> Put:
    from appliance.system import offload_device

    return offload_device.put_irq(interface, irq, cpus)


async def _factory_reset(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    if arguments["site"] != tree.site.name:
        raise InvalidInput(f"factory-reset: this is site {tree.site.name}: name it to confirm")
    tree.reset()
    return {}


async def _capture(tree: Tree, arguments: Arguments) -> dict[str, Any]:
    path = tree.paths.supervisor_socket.parent / "capture.pcap"
    packets = await capture.capture(
        arguments["interface"],
        path,
        seconds=arguments["seconds"],
        bytes_max=arguments.get("bytes_max", capture.BYTES_MAX),
        group=tree.site.spec.users.admin_group,
    )
    return {"path": str(path), "packets": packets}


VERBS: Mapping[str, Verb] = {
    "status": Verb(_status, {}, {}, daemon_may=True),
    "restart-dataplane": Verb(_restart_dataplane, {}, {}, daemon_may=True),
    "rotate-tickets": Verb(_rotate_tickets, {}, {}, daemon_may=True),
    "set-time": Verb(
        _set_time, {"unix_ms": _between(YEAR_2024_MS, YEAR_2100_MS)}, {}, daemon_may=True
    ),
    "set-hostname": Verb(_set_hostname, {"name": _whole(NAME)}, {}, daemon_may=True),
    "nic-set": Verb(
        _nic_set,
        {
            "interface": _interface,
            "setting": _one_of(*SETTINGS),
            "value": _between(0, VALUE_MAX),
        },
        {},
        daemon_may=True,
    ),
    "irq-set": Verb(
        _irq_set,
        {"interface": _interface, "irq": _whole(IRQ), "cpus": _whole(CPUS)},
        {},
        daemon_may=True,
    ),
    "factory-reset": Verb(_factory_reset, {"site": _whole(NAME)}, {}, daemon_may=False),
    "capture": Verb(
        _capture,
        {"interface": _interface, "seconds": _between(1, 60)},
        {"bytes_max": _between(4096, capture.BYTES_MAX)},
        daemon_may=False,
    ),
}
