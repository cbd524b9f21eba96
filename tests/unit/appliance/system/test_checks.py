"""Findings about a machine laid out in a directory, and about links and counters as values."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.system.checks import machine, network, traffic
from appliance.system.finding import Finding
from appliance.system.links import Link
from appliance.system.nft import Count
from tests.unit.appliance.system.test_nft import SITE

GOOD = {
    "proc/modules": "nft_tproxy 16384 0 - Live 0x0\n",
    "proc/sys/fs/pipe-max-size": "1048576\n",
    "proc/sys/fs/nr_open": "1073741816\n",
    "proc/sys/net/core/somaxconn": "4096\n",
    "proc/sys/net/ipv4/ip_forward": "0\n",
    "proc/sys/net/ipv6/conf/x": "",
    "lib/modules/6.12/modules.dep": "kernel/net/netfilter/nft_tproxy.ko: \n",
}


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_good_machine_has_no_warning(tmp_path: Path) -> None:
    assert {f.level for f in machine(SITE, lay_out(tmp_path, GOOD))} == {"ok"}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("proc/modules", "", "nft_tproxy is not loaded"),
        ("proc/sys/fs/pipe-max-size", "65536\n", "at most 65536 bytes"),
        ("proc/sys/fs/nr_open", "1024\n", "may have 1024"),
        ("proc/sys/net/core/somaxconn", "128\n", "only 128 connections"),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    found = [f for f in machine(SITE, lay_out(tmp_path, {**GOOD, name: text})) if f.level != "ok"]
    assert len(found) == 1
    assert told in found[0].what
    assert found[0].fix


def link(name: str, *addresses: str, up: bool = True, mtu: int = 1500, kind: str = "") -> Link:
    return Link(
        name, 2, "02:00:00:00:00:01", mtu, up, kind, None, tuple(map(ip_address, addresses))
    )


GOOD_LINKS = (
    link("hosts0", "198.18.0.1"),
    link("vlan7", kind="vlan"),
    link("mesh0", "198.18.255.1"),
)


def test_good_links_have_no_warning() -> None:
    assert {finding.level for finding in network(SITE, GOOD_LINKS)} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "level", "told"),
    [
        ((link("hosts0", "198.18.0.1"), link("mesh0", "198.18.255.1")), "error", "no interface v"),
        ((link("hosts0"), *GOOD_LINKS[1:]), "error", "hosts: no interface has 198.18.0.1"),
        ((*GOOD_LINKS[:2], link("mesh0")), "error", "mesh: no interface has 198.18.255.1"),
        ((link("hosts0", "198.18.0.1", up=False), *GOOD_LINKS[1:]), "warning", "no carrier"),
        ((link("hosts0", "198.18.0.1", mtu=576), *GOOD_LINKS[1:]), "warning", "MTU 576"),
        ((link("hosts0", "198.18.0.1", kind="bridge"), *GOOD_LINKS[1:]), "warning", "is a bridge"),
        ((*GOOD_LINKS, link("x", "198.19.0.5")), "error", "range of virtual addresses"),
    ],
)
def test_a_link_that_is_wrong_is_told(changed: tuple[Link, ...], level: str, told: str) -> None:
    (found,) = [finding for finding in network(SITE, changed) if finding.level != "ok"]
    assert found.level == level
    assert told in found.what


def test_counted_refusals_are_told_and_steered_packets_are_not() -> None:
    counted = {"spoofed": Count(3, 180), "intercepted": Count(9, 900), "udp_refused": Count(0, 0)}
    (found,) = traffic(counted)
    assert isinstance(found, Finding)
    assert found.what == "3 packets spoofed"
