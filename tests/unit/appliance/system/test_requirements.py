"""A machine laid out in a directory against the files of firmware-config, and cards as values."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.paths import shipped
from appliance.system.checks import cards
from appliance.system.offload import Nic
from appliance.system.offload_profile import known
from appliance.system.offload_settings import Device, Setting
from appliance.system.requirements import findings
from tests.unit.appliance.system.test_checks import lay_out

MODULES = ("nf_tables", "nft_tproxy", "nft_socket", "nf_tproxy_ipv4", "nf_tproxy_ipv6")
SYSCTLS = {
    f"proc/sys/{name.strip().replace('.', '/')}": value.strip().replace(" ", "\t") + "\n"
    for line in (shipped("sysctl.d") / "60-sluice.conf").read_text().splitlines()
    if "=" in line and not line.startswith("#")
    for name, _, value in [line.partition("=")]
}
GOOD = {
    "proc/sys/kernel/osrelease": "6.12.1\n",
    "proc/sys/net/ipv4/tcp_available_ulp": "mptcp tls\n",
    "proc/net/tls_stat": "TlsCurrTxSw 0\n",
    "proc/modules": "nf_tables 1 0 - Live 0x0\n",
    "lib/modules/6.12.1/modules.dep": "".join(f"kernel/net/{name}.ko.xz:\n" for name in MODULES),
    "boot/config-6.12.1": "CONFIG_TLS=m\nCONFIG_TLS_DEVICE=y\n",
    **SYSCTLS,
}
PREFERS = ("auto", "user", "openssl", "ktls", "nic")
NO_TLS = {**GOOD, "proc/sys/net/ipv4/tcp_available_ulp": "mptcp\n"}


def warnings(root: Path, prefer: str) -> list[tuple[str, str]]:
    found = findings(prefer, root)
    assert {each.level for each in found} <= {"ok", "warning"}
    return [(each.what, each.fix) for each in found if each.level == "warning"]


@pytest.mark.parametrize("prefer", PREFERS)
def test_a_good_machine_has_no_warning(tmp_path: Path, prefer: str) -> None:
    assert warnings(lay_out(tmp_path, GOOD), prefer) == []


@pytest.mark.parametrize("prefer", PREFERS)
def test_kernel_tls_is_missed_only_by_who_asks_for_it(tmp_path: Path, prefer: str) -> None:
    found = warnings(lay_out(tmp_path, NO_TLS), prefer)
    asks = prefer in ("ktls", "nic")
    assert [(f"prefer: {prefer}" in what, fix) for what, fix in found] == (
        [(True, "modprobe tls")] if asks else []
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("config", "prefer", "told"),
    [
        ("CONFIG_NET=y\n", "ktls", "without CONFIG_TLS:"),
        ("CONFIG_TLS=y\n# CONFIG_TLS_DEVICE is not set\n", "nic", "without CONFIG_TLS_DEVICE:"),
        ("CONFIG_NET=y\n", "nic", "without CONFIG_TLS and CONFIG_TLS_DEVICE:"),
        ("CONFIG_TLS=y\n# CONFIG_TLS_DEVICE is not set\n", "ktls", ""),
    ],
)
def test_what_the_kernel_was_built_without(
    tmp_path: Path, config: str, prefer: str, told: str, packed: bool
) -> None:
    root = lay_out(tmp_path, {**GOOD, "boot/config-6.12.1": "" if packed else config})
    if packed:
        (root / "proc/config.gz").write_bytes(gzip.compress(config.encode()))
    found = warnings(root, prefer)
    assert len(found) == (told != "")
    assert all(told in what and "linux-image" in fix for what, fix in found)


@pytest.mark.parametrize(
    "config", [b"", b"\x1f\x8b garbage", gzip.compress(b"\xff\xfe", mtime=0)[:20]]
)
def test_a_configuration_that_cannot_be_read_is_no_reason_to_complain(
    tmp_path: Path, config: bytes
) -> None:
    root = lay_out(tmp_path, {**GOOD, "boot/config-6.12.1": ""})
    (root / "proc/config.gz").write_bytes(config)
    assert warnings(root, "nic") == []


def test_modules_that_are_nowhere_are_named(tmp_path: Path) -> None:
    dep = "kernel/net/nf_tables.ko:\nkernel/net/nft_tproxy.ko:\nkernel/net/nft_socket.ko:\n"
    root = lay_out(tmp_path, {**GOOD, "lib/modules/6.12.1/modules.dep": dep})
    ((what, _),) = warnings(root, "user")
    assert what.startswith("this kernel has no module nf_tproxy_ipv4, nf_tproxy_ipv6:")
    lay_out(root, {"lib/modules/6.12.1/modules.dep": ""})  # cannot be known
    assert warnings(root, "user") == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("proc/sys/net/core/somaxconn", "128\n", "net.core.somaxconn is 128, not 16384"),
        ("proc/sys/net/core/somaxconn", "65535\n", ""),  # more is as good
        (
            "proc/sys/net/ipv4/tcp_rmem",
            "4096\t131072\t6291456\n",
            "tcp_rmem is 4096 131072 6291456",
        ),
        ("proc/sys/net/ipv4/tcp_rmem", "4096 131072 33554432\n", ""),
        ("proc/sys/net/ipv4/tcp_keepalive_time", "7200\n", "tcp_keepalive_time is 7200, not 300"),
        ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n", "ip_local_port_range is 1024 6"),
        ("proc/sys/fs/pipe-user-pages-soft", "0\n", ""),  # no limit
        ("proc/sys/fs/nr_open", "many\n", "fs.nr_open is many, not 2097152"),
    ],
)
def test_sysctls_are_held_against_the_file(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    found = warnings(lay_out(tmp_path, {**GOOD, name: value}), "user")
    assert len(found) == (told != "")
    assert all(told in what and "60-sluice.conf" in fix for what, fix in found)


def test_the_installed_file_is_the_one_that_counts(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {**GOOD, "etc/sysctl.d/60-sluice.conf": "fs.nr_open = 3000000\n"})
    ((what, fix),) = warnings(root, "user")
    assert what == "fs.nr_open is 2097152, not 3000000"
    assert fix == f"sysctl -p {root}/etc/sysctl.d/60-sluice.conf"


@pytest.mark.parametrize(
    ("held", "level", "told"),
    [
        (Setting(1, 1), "ok", "seals TLS 1.2 in hardware"),
        (Setting(1, 1, fixed=True), "ok", "seals TLS 1.2 in hardware"),
        (Setting(0, 1), "warning", "has its TLS offload off"),
        (Setting(0, 1, fixed=True), "warning", "has no TLS offload"),
        (None, "warning", "has no TLS offload"),
    ],
)
def test_a_mesh_card_is_looked_at_by_who_prefers_it(
    held: Setting | None, level: str, told: str
) -> None:
    device = Device("mesh0", settings={"tls-hw-tx-offload": held} if held else {})
    nic = Nic(device, ("mesh",), "a card", known()[0], ())
    (found,) = cards([nic, replace(nic, serves=("hosts",))], (), "nic")
    assert found.level == level
    assert told in found.what
    assert bool(found.fix) == (level == "warning")
    assert cards([nic], (), "ktls") == ()


def test_what_drifted_is_told_whatever_is_preferred() -> None:
    (found,) = cards((), ["nic0 rx-gro is off, was set to on"], "user")
    assert (found.level, found.fix) == ("warning", "sluice offload apply, or revert")
