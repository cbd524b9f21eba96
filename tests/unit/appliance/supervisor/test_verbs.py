"""What root may be asked: the tables are strict, and so is the packet."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import InvalidInput
from appliance.supervisor.control import REQUEST_BYTES_MAX, parse
from appliance.supervisor.verbs import VERBS, check
from appliance.system import offload_device
from appliance.system.offload_device import Put
from appliance.system.offload_settings import SETTINGS

NIC = next(name for _, name in socket.if_nameindex() if name != "lo")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("status", {"path": "/etc/shadow"}),
        ("set-time", {}),
        ("set-time", {"unix_ms": 0}),
        ("set-time", {"unix_ms": True}),
        ("set-time", {"unix_ms": 1.8e12}),
        ("set-time", {"unix_ms": "1800000000000"}),
        ("set-hostname", {"name": "a b"}),
        ("set-hostname", {"name": "x\n"}),
        ("set-hostname", {"name": "-x"}),
        ("set-hostname", {"name": "x" * 64}),
        ("nic-set", {"interface": "lo", "setting": "rx-gro", "value": 1}),
        ("nic-set", {"interface": "../lo", "setting": "rx-gro", "value": 1}),
        ("nic-set", {"interface": "--help", "setting": "rx-gro", "value": 1}),
        ("nic-set", {"interface": "nosuch0", "setting": "rx-gro", "value": 1}),
        ("nic-set", {"setting": "rx-gro", "value": 1}),
        *(("nic-set", {"interface": NIC, "setting": "rx-gro", "value": value})
          for value in (-1, 65_537, True, "1", 1.0, None)),
        *(("nic-set", {"interface": NIC, "setting": setting, "value": 1})
          for setting in ("mtu", "loopback", "rx-all", "RX-GRO", "", None, 1, ["rx-gro"])),
        ("nic-set", {"interface": NIC, "setting": "rx-gro", "value": 1, "path": "/etc/passwd"}),
        ("nic-set", {"interface": NIC, "setting": "rx-gro"}),
        ("irq-set", {"interface": "../lo", "irq": "x-rx-0", "cpus": "0"}),
        *(("irq-set", {"interface": NIC, "irq": irq, "cpus": "0"})
          for irq in ("", " x", "x\n", "x\0", "x" * 81, 7)),
        *(("irq-set", {"interface": NIC, "irq": "x-rx-0", "cpus": cpus})
          for cpus in ("", "0,", "-1", "all", "0-1-", "1\n", 1, "0" * 5, ",".join("9" * 300))),
        ("factory-reset", {}),
        ("factory-reset", {"site": None}),
        ("capture", {"interface": "lo", "seconds": 5}),
        ("capture", {"interface": "nosuch0", "seconds": 5}),
    ],
)  # fmt: skip
def test_arguments_outside_the_table_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        check(VERBS[name], name, arguments)


def test_arguments_inside_the_table_pass() -> None:
    check(VERBS["status"], "status", {})
    check(VERBS["set-time"], "set-time", {"unix_ms": 1_800_000_000_000})
    check(VERBS["set-hostname"], "set-hostname", {"name": "edge-1"})
    check(VERBS["factory-reset"], "factory-reset", {"site": "a"})
    irq = "mlx5_comp0@pci:0000:3b:00.0"
    check(VERBS["irq-set"], "irq-set", {"interface": NIC, "irq": irq, "cpus": "0-3,7"})
    for setting in SETTINGS:
        check(VERBS["nic-set"], "nic-set", {"interface": NIC, "setting": setting, "value": 1})


async def test_a_feature_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    def put(*arguments: Any) -> Put:
        asked.append(arguments)
        return Put(0, 1, "")

    monkeypatch.setattr(offload_device, "put", put)
    arguments = {"interface": NIC, "setting": "rx-gro", "value": 2}
    check(VERBS["nic-set"], "nic-set", arguments)
    tree: Any = None
    with pytest.raises(InvalidInput, match="0 or 1"):
        await VERBS["nic-set"].do(tree, arguments)
    done = await VERBS["nic-set"].do(tree, {**arguments, "value": 1})
    assert done == {"before": 0, "after": 1, "refused": ""}
    await VERBS["nic-set"].do(tree, {"interface": NIC, "setting": "rings.rx", "value": 512})
    assert asked == [(NIC, "rx-gro", 1), (NIC, "rings.rx", 512)]


def test_the_daemon_may_neither_capture_nor_reset() -> None:
    assert {name for name, verb in VERBS.items() if not verb.daemon_may} == {
        "capture",
        "factory-reset",
    }


def test_a_request_is_one_object_with_a_verb() -> None:
    assert parse(b'{"verb": "status", "x": 1}') == ("status", {"x": 1})


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"{",
        b"[]",
        b'"status"',
        b"{}",
        b'{"verb": 1}',
        b"\xff",
        b"[" * 4000,
        json.dumps({"verb": "status", "x": "y" * REQUEST_BYTES_MAX}).encode(),
    ],
)
def test_other_packets_are_refused(packet: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(packet)


@given(st.binary(max_size=200))
def test_no_packet_gets_past_the_parser_but_a_request(packet: bytes) -> None:
    try:
        verb, arguments = parse(packet)
    except InvalidInput:
        return
    assert isinstance(verb, str)
    assert "verb" not in arguments
