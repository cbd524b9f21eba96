"""Hosts that pretend to be others, on a running site: dropped in nftables and counted there.

a1 is bound to its MAC (l2), a3 has an own port, a2 is not enrolled; all frames are made by hand.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from appliance.demo.topology import APPLIANCE, CHECKOUT, Host
from tests.netns.helpers import ask, connect, nft_counters, sh, until
from tests.netns.mesh import Mesh


def mac_of_appliance(mesh: Mesh, interface: str = "hosts0") -> str:
    shown = sh("ip", "-n", mesh.a.namespace, "-o", "link", "show", "dev", interface)
    return shown.split("link/ether ")[1].split()[0]


def forge(mesh: Mesh, host: Host, mac: str, source: str, target: str, port: int = 8080) -> None:
    """One SYN with that MAC and that source address, from the host's wire."""
    hop = mac_of_appliance(mesh, host.interface)
    subprocess.run(
        host.command(sys.executable, "-m", "tests.netns.actors", "syn", "eth0", mac, source, hop,
                     target, str(port)),
        check=True, capture_output=True, timeout=60, cwd=CHECKOUT,
    )  # fmt: skip


def spoofed(mesh: Mesh) -> int:
    return nft_counters(mesh.a.namespace)["spoofed"]


@pytest.mark.parametrize("version", [4, 6])
def test_anothers_address_with_the_own_mac_is_dropped_and_counted(mesh: Mesh, version: int) -> None:
    a1, a2 = mesh.a.hosts["a1"], mesh.a.hosts["a2"]
    victim = str(a1.ipv4 if version == 4 else a1.ipv6)
    vip = mesh.vip(mesh.a, "payments", version)
    before = nft_counters(mesh.a.namespace)
    forge(mesh, a2, a2.mac, victim, vip)
    until("the frame being dropped", lambda: spoofed(mesh) > before["spoofed"])
    assert nft_counters(mesh.a.namespace)["intercepted"] == before["intercepted"]
    assert mesh.ask("a1", "payments", 8080, version).startswith("payments")


def test_a_bound_host_that_changes_its_mac_is_dropped_until_it_changes_back(mesh: Mesh) -> None:
    a1 = mesh.a.hosts["a1"]
    link = ("ip", "-n", a1.namespace, "link", "set", "dev", "eth0", "address")
    before = spoofed(mesh)
    vip = mesh.vip(mesh.a, "payments")
    sh(*link, "02:53:00:00:00:99")
    try:
        forge(mesh, a1, "02:53:00:00:00:99", str(a1.ipv4), vip)
        until("the frame being dropped", lambda: spoofed(mesh) > before)
    finally:
        sh(*link, a1.mac)
    assert mesh.ask("a1", "payments", 8080).startswith("payments")


def test_a_bound_mac_may_not_use_anothers_bound_address(mesh: Mesh) -> None:
    a1 = mesh.a.hosts["a1"]
    with mesh.guest("198.18.0.73", "victim"):
        before = spoofed(mesh)
        forge(mesh, a1, a1.mac, "198.18.0.73", mesh.vip(mesh.a, "payments"))
        until("the frame being dropped", lambda: spoofed(mesh) > before)


def test_a_virtual_address_as_source_is_dropped(mesh: Mesh) -> None:
    a2 = mesh.a.hosts["a2"]
    before = spoofed(mesh)
    forge(mesh, a2, a2.mac, mesh.vip(mesh.a, "payments"), mesh.vip(mesh.a, "web"))
    until("the frame being dropped", lambda: spoofed(mesh) > before)


def test_spoofed_packets_to_the_appliance_itself_are_dropped_too(mesh: Mesh) -> None:
    """The mesh listener would believe an agent's address."""
    a2, a1 = mesh.a.hosts["a2"], mesh.a.hosts["a1"]
    before = spoofed(mesh)
    forge(mesh, a2, a2.mac, str(a1.ipv4), str(APPLIANCE[0]), mesh.a.site.spec.ports.mesh)
    until("the frame being dropped", lambda: spoofed(mesh) > before)


def test_the_mesh_link_is_no_way_in_to_virtual_addresses(mesh: Mesh) -> None:
    """Not even with a bound host's address: packets are taken on the hosts' interfaces alone."""
    vip, hop = mesh.vip(mesh.a, "web"), mac_of_appliance(mesh, "mesh0")
    before = nft_counters(mesh.a.namespace)
    for source in (mesh.a.hosts["a1"].ipv4, mesh.b.mesh[0]):
        command = mesh.b.command(
            sys.executable, "-m", "tests.netns.actors", "syn", "mesh0", "02:53:00:00:00:77",
            str(source), hop, vip, "8080",
        )  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=CHECKOUT)
    with connect(mesh.b.namespace, mesh.a.mesh[0], mesh.a.site.spec.ports.mesh):
        pass  # what came before it on that link has been looked at
    assert nft_counters(mesh.a.namespace) == before


def test_what_an_interface_took_with_it_is_put_back(mesh: Mesh) -> None:
    a1, ip = mesh.a.hosts["a1"], ("ip", "-n", mesh.a.namespace)

    def pinned() -> bool:
        return str(a1.ipv4) in sh(*ip, "neigh", "show", "nud", "permanent", "dev", "hosts0")

    until("the host being pinned", pinned)
    sh(*ip, "neigh", "flush", "nud", "permanent", "dev", "hosts0")
    assert not pinned()
    sh(*ip, "address", "add", "198.18.7.7/32", "dev", "hosts0")
    try:
        until("the host being pinned again", pinned)
    finally:
        sh(*ip, "address", "del", "198.18.7.7/32", "dev", "hosts0")


def test_an_unbound_neighbour_is_not_touched(mesh: Mesh) -> None:
    a2 = mesh.a.hosts["a2"]
    before = spoofed(mesh)
    ask(a2.namespace, mesh.vip(mesh.a, "payments"), 8080)
    assert spoofed(mesh) == before


def test_status_and_metrics_show_what_was_dropped(mesh: Mesh) -> None:
    a1, a2 = mesh.a.hosts["a1"], mesh.a.hosts["a2"]
    forge(mesh, a2, a2.mac, str(a1.ipv4), mesh.vip(mesh.a, "payments"))
    counted = until(
        "the drop being in the status's counters", lambda: mesh.counter(mesh.a, "nft_spoofed")
    )
    port = mesh.a.site.spec.ports.metrics
    shown = sh("ip", "netns", "exec", mesh.a.namespace, "curl", "-sS",
               f"http://127.0.0.1:{port}/metrics")  # fmt: skip
    lines = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line[:1] not in "#")
    assert float(lines["sluice_nft_spoofed_total"]) >= counted
