"""What devlink tells of network cards: versions of their firmware and the driver's parameters.

Owns the netlink family's messages (linux/devlink.h); changes nothing. devlink knows a card by its
place on a bus.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

ENTRIES_MAX = 128  # of each kind, a card
_PORTS, _PARAMS, _INFO = 5, 38, 51  # DEVLINK_CMD_PORT_GET, _PARAM_GET, _INFO_GET
_MODES = {0: "runtime", 1: "driverinit", 2: "permanent"}
_NUMBERS = {1: 1, 2: 2, 3: 4}  # NLA_U8, _U16, _U32: bytes
_STRING, _FLAG = 5, 6  # NLA_STRING, NLA_FLAG


@dataclass(frozen=True, slots=True)
class Version:
    kind: str  # "fixed", "running", "stored": what the next start will run
    name: str  # "fw.version"
    value: str


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    mode: str  # when it counts: "runtime", "driverinit" (from a reload on), "permanent" (a reboot)
    value: str


@dataclass(frozen=True, slots=True)
class Devlink:
    handle: str = ""  # "pci/0000:3b:00.0"; "" = there is none
    versions: tuple[Version, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    remarks: tuple[str, ...] = ()  # what is not there, and why


NOTHING = Devlink()


class _Version(nla):  # type: ignore[misc]
    nla_map = ((103, "NAME", "asciiz"), (104, "VALUE", "asciiz"))


class _Value(nla):  # type: ignore[misc]
    nla_map = ((86, "DATA", "cdata"), (87, "MODE", "uint8"))


class _Values(nla):  # type: ignore[misc]
    nla_map = ((85, "VALUE", "one"),)
    one = _Value


class _Parameter(nla):  # type: ignore[misc]
    nla_map = ((81, "NAME", "asciiz"), (83, "TYPE", "uint8"), (84, "VALUES", "listed"))
    listed = _Values


class Message(genlmsg):  # type: ignore[misc]
    nla_map = (
        (1, "BUS", "asciiz"),
        (2, "DEVICE", "asciiz"),
        (7, "INTERFACE", "asciiz"),
        (80, "PARAMETER", "parameter"),
        (100, "FIXED", "version_"),
        (101, "RUNNING", "version_"),
        (102, "STORED", "version_"),
    )
    parameter, version_ = _Parameter, _Version


class Cards:
    """All that devlink tells just now. Make it anew for each look."""

    def __init__(self, ports: Iterable[Any], info: Iterable[Any], params: Iterable[Any]) -> None:
        """Decoded answers to the three questions."""
        self._ports = {str(each.get("INTERFACE")): _handle(each) for each in ports}
        self._versions = _versions(info)
        self._parameters = _parameters(params)
        self.problem = ""  # why nothing is told; "" = it is

    @classmethod
    def read(cls) -> Cards:
        """Of this network namespace. Never raises: `problem` says what was wrong."""
        try:
            with GenericNetlinkSocket() as sock:
                sock.bind("devlink", Message)
                return cls(*(_dump(sock, command) for command in (_PORTS, _INFO, _PARAMS)))
        except (NetlinkError, OSError) as error:
            none = cls((), (), ())
            code = getattr(error, "code", None) or getattr(error, "errno", None)
            missing = code == errno.ENOENT
            none.problem = "this kernel has no devlink" if missing else f"devlink: {error}"
            return none

    def of(self, interface: str, bus: str) -> Devlink:
        """bus: the interface's place on its bus, by which a card is known that has no port."""
        if self.problem:
            return Devlink(remarks=(self.problem,))
        handle = self._ports.get(interface, "")
        known = {*self._versions, *self._parameters}
        handle = handle or next((h for h in sorted(known) if bus and h.endswith(f"/{bus}")), "")
        if not handle:
            return Devlink(remarks=("its driver tells nothing by devlink",))
        versions = self._versions.get(handle, ())
        parameters = self._parameters.get(handle, ())
        told = {"versions": versions, "parameters": parameters}
        missing = tuple(f"its driver tells no {what} by devlink" for what in told if not told[what])
        return Devlink(handle, versions[:ENTRIES_MAX], parameters[:ENTRIES_MAX], missing)


def _dump(sock: Any, command: int) -> list[Any]:
    message = Message()
    message["cmd"], message["version"] = command, 1
    return list(sock.nlm_request(message, sock.prid, NLM_F_REQUEST | NLM_F_DUMP))


def _handle(message: Any) -> str:
    return f"{message.get('BUS')}/{message.get('DEVICE')}"


def _versions(info: Iterable[Any]) -> Mapping[str, tuple[Version, ...]]:
    return {
        _handle(message): tuple(
            Version(kind, str(each.get("NAME")), str(each.get("VALUE")))
            for kind in ("fixed", "running", "stored")
            for each in message.get_attrs(kind.upper())
        )
        for message in info
    }


def _parameters(params: Iterable[Any]) -> Mapping[str, tuple[Parameter, ...]]:
    found: dict[str, tuple[Parameter, ...]] = {}
    for message in params:
        parameter = message.get("PARAMETER")
        values = parameter.get("VALUES") if parameter is not None else None
        told = tuple(
            Parameter(
                str(parameter.get("NAME")),
                _MODES.get(each.get("MODE"), "unknown"),
                _shown(parameter.get("TYPE"), each.get("DATA")),
            )
            for each in (values.get_attrs("VALUE") if values is not None else ())
        )
        handle = _handle(message)
        found[handle] = found.get(handle, ()) + told
    return found


def _shown(kind: int | None, data: bytes | None) -> str:
    if kind == _FLAG:
        return "off" if data is None else "on"
    if data is None:
        return "not told"
    if kind == _STRING:
        return data.split(b"\0")[0].decode("utf-8", "replace")
    if len(data) == _NUMBERS.get(kind or 0):
        return str(int.from_bytes(data, sys.byteorder))
    return data[:32].hex()
