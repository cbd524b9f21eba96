"""devlink: the kernel's answers, as linux/devlink.h lays them out, to what people read."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from appliance.api import offload_messages
from appliance.observe.ledger import ledger
from appliance.system import offload_devlink
from appliance.system.offload import Nic
from appliance.system.offload_devlink import Cards, Devlink, Message, Parameter, Version
from appliance.system.offload_profile import Match, Profile
from appliance.system.offload_settings import Device

BUS = "0000:3b:00.0"


def attribute(kind: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def answer(command: int, *attributes: bytes, device: str = BUS) -> Any:
    where = text(1, "pci") + text(2, device)
    body = struct.pack("=BBH", command, 1, 0) + where + b"".join(attributes)
    message = Message(struct.pack("=IHHII", 16 + len(body), 30, 2, 0, 0) + body)
    message.decode()
    return message


def version(kind: int, name: str, value: str) -> bytes:
    return attribute(kind, text(103, name), text(104, value))


def parameter(name: str, kind: int, *values: tuple[int, bytes | None]) -> Any:
    """values: configuration mode, data or None."""
    listed = [
        attribute(
            85, attribute(86, data) if data is not None else b"", attribute(87, bytes([mode]))
        )
        for mode, data in values
    ]
    told = (text(81, name), attribute(82), attribute(83, bytes([kind])), attribute(84, *listed))
    return answer(38, attribute(80, *told))


PORT = answer(5, struct.pack("=HHI", 8, 3, 65535), text(7, "eth2"))
INFO = answer(
    51,
    text(98, "mlx5_core"),
    text(99, "a serial number"),
    version(100, "fw.psid", "MT_0000000436"),
    version(101, "fw.version", "22.39.2048"),
    version(102, "fw.version", "22.41.1000"),
)


def test_versions_and_parameters_of_a_card() -> None:
    params = [
        parameter("enable_roce", 6, (1, b""), (2, None)),
        parameter("max_macs", 3, (0, struct.pack("=I", 128))),
        parameter("flow_steering_mode", 5, (0, b"smfs\0")),
    ]
    cards = Cards([PORT], [INFO], params)
    told = cards.of("eth2", "")
    assert told == Devlink(
        f"pci/{BUS}",
        (
            Version("fixed", "fw.psid", "MT_0000000436"),
            Version("running", "fw.version", "22.39.2048"),
            Version("stored", "fw.version", "22.41.1000"),
        ),
        (
            Parameter("enable_roce", "driverinit", "on"),
            Parameter("enable_roce", "permanent", "off"),
            Parameter("max_macs", "runtime", "128"),
            Parameter("flow_steering_mode", "runtime", "smfs"),
        ),
    )
    assert cards.of("eth9", BUS) == told  # without a port, by its place
    assert cards.of("eth9", "").handle == cards.of("eth9", "00.0").handle == ""


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [(1, b"\x07", "7"), (2, struct.pack("=H", 700), "700"), (3, b"\1\2", "0102"),
     (3, None, "not told"), (5, b"\xff\xfe", "\ufffd\ufffd"), (99, bytes(64), "00" * 32)],
)  # fmt: skip
def test_a_value_by_its_type(kind: int, data: bytes | None, shown: str) -> None:
    (told,) = Cards([], [], [parameter("x", kind, (7, data))]).of("", BUS).parameters
    assert (told.mode, told.value) == ("unknown", shown)


def test_the_admin_is_told_of_it() -> None:
    told = Cards([PORT], [INFO], [parameter("max_macs", 1, (0, b"\2"))]).of("eth2", "")
    profile = Profile(name="x", match=(Match(model="x", driver="*"),))
    nic = Nic(Device("eth2"), ("mesh",), "x", profile, (), told)
    (shown,) = offload_messages.status(None, ledger({}), [nic], [], []).nics
    assert shown.devlink.handle == told.handle
    assert [each.value for each in shown.devlink.versions][1:] == ["22.39.2048", "22.41.1000"]
    (one,) = shown.devlink.parameters
    assert (one.name, one.mode, one.value) == ("max_macs", "runtime", "2")


def test_what_is_not_there_is_said() -> None:
    assert Cards([], [], []).of("eth0", BUS).remarks == ("its driver tells nothing by devlink",)
    assert Cards([PORT], [INFO], []).of("eth2", "").remarks == (
        "its driver tells no parameters by devlink",
    )
    assert Cards([PORT], [], []).of("eth2", "").remarks == (
        "its driver tells no versions by devlink",
        "its driver tells no parameters by devlink",
    )
    assert Cards([], [], [answer(38)]).of("", BUS).parameters == ()


def test_this_kernels_devlink_is_asked() -> None:
    cards = Cards.read()
    if cards.problem:
        assert cards.problem.startswith(("this kernel has no devlink", "devlink: "))
    assert cards.of("lo", "").remarks


def test_no_more_than_a_few_are_kept() -> None:
    many = [parameter(f"p{number}", 1, (0, b"\1")) for number in range(200)]
    assert len(Cards([], [], many).of("", BUS).parameters) == offload_devlink.ENTRIES_MAX
