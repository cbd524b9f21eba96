"""The table under real traffic: what is steered, what is refused, whose spoofing is dropped.

Site a of the topology, with a transparent listener instead of a data plane. The table is
installed as the daemon does it: by an unprivileged user with CAP_NET_ADMIN alone.

    a1 (bound by MAC), a2 (bound by address) ── switch ── hosts0 [a] port-a3 ── a3 (bound by port)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from appliance.demo.topology import CHECKOUT, Host, SiteSpace, Topology
from appliance.supervisor.child import User, privileges
from tests.netns.helpers import until

VIP, VIP6 = "198.19.3.7", "fd53:6c75:6963:6500::7"
PORT = "15001"
DAEMON = User(6410, 6410, "net_admin")


class Site:
    """Site a with its listener, and what tests ask of it."""

    def __init__(self, space: SiteSpace) -> None:
        self.space = space
        self.hosts = space.hosts
        self.before = self.shown()
        self.bindings: list[list[str | None]] = []
        for name, mac, port in (("a1", True, False), ("a2", False, False), ("a3", False, True)):
            host = space.hosts[name]
            for address in (host.ipv4, host.ipv6):
                self.bindings.append(
                    [str(address), host.mac if mac else None, host.interface if port else None]
                )

    def as_daemon(self, *arguments: str) -> str:
        return run(
            self.space.python("-m", "tests.netns.actors", *arguments, run_as=privileges(DAEMON)),
            env=self.space.environment(),
        )

    def install(self, verb: str = "install", bindings: Sequence[Any] | None = None) -> None:
        chosen = self.bindings if bindings is None else bindings
        self.as_daemon(verb, str(self.space.site_file), json.dumps(chosen))

    def counters(self) -> dict[str, int]:
        counted: dict[str, int] = json.loads(self.as_daemon("counters"))
        return counted

    def counted(self, before: dict[str, int]) -> dict[str, int]:
        """The counters when one has changed: a frame is taken when the kernel comes to it."""
        return until(
            "a frame being counted", lambda: now if (now := self.counters()) != before else {}
        )

    def shown(self) -> str:
        """Everything that we could have changed, as the tools print it."""
        return "\n".join(
            run(self.space.command(*line.split()))
            for line in (
                "nft list ruleset",
                "ip rule",
                "ip -6 rule",
                "ip route show table all",
                "ip -6 route show table all",
                "ip neigh show nud permanent",
                "ip -6 neigh show nud permanent",
            )
        )


def run(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, cwd=CHECKOUT, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def act(host: Host, *arguments: str) -> str:
    return run(host.command(sys.executable, "-m", "tests.netns.actors", *arguments))


@pytest.fixture
def site(topology: Topology) -> Iterator[Site]:
    space = topology.sites["a"]
    listener = subprocess.Popen(
        space.command(sys.executable, "-m", "tests.netns.actors", "listen", PORT),
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert listener.stdout is not None
    try:
        assert listener.stdout.readline() == "ready\n"
        yield Site(space)
    finally:
        listener.kill()
        listener.wait()
        listener.stdout.close()


def test_tcp_to_a_virtual_address_is_steered_with_its_target(site: Site) -> None:
    site.install()
    for name, host in site.hosts.items():
        assert act(host, "ask", VIP, "5432") == f"{host.ipv4} {VIP}:5432", name
        assert act(host, "ask", VIP6, "80") == f"{host.ipv6} {VIP6}:80", name
    assert site.counters()["intercepted"] > 0
    assert site.counters()["spoofed"] == 0


def test_a_strict_reverse_path_filter_does_not_matter(site: Site) -> None:
    names = ("all", "hosts0", "port-a3")
    run(site.space.command("sysctl", "-qw", *(f"net.ipv4.conf.{n}.rp_filter=1" for n in names)))
    site.install()
    for host in site.hosts.values():
        assert act(host, "ask", VIP, "22") == f"{host.ipv4} {VIP}:22"


def test_without_the_table_a_virtual_address_is_unreachable(site: Site) -> None:
    run(site.space.command("sysctl", "-qw", "net.ipv4.ip_forward=1"))
    run(site.space.command("ip", "route", "add", "default", "via", "198.18.255.2"))
    site.install()
    run(site.space.command("nft", "delete", "table", "inet", "sluice"))
    assert act(site.hosts["a1"], "ask", VIP, "80") == "EHOSTUNREACH"


def test_udp_and_other_protocols_are_refused_and_counted(site: Site) -> None:
    site.install()
    assert act(site.hosts["a1"], "udp", VIP, "53") == "ECONNREFUSED"
    assert act(site.hosts["a1"], "udp", VIP6, "53") == "ECONNREFUSED"
    assert site.counters()["udp_refused"] == 2


def test_tcp_is_reset_and_counted_when_nothing_listens(site: Site) -> None:
    site.install()
    document = site.space.site_file
    document.write_text(document.read_text() + "  ports: {transparent: 15999}\n")
    site.install("bind")
    assert act(site.hosts["a1"], "ask", VIP, "80") == "ECONNREFUSED"
    assert site.counters()["not_listening"] == 1


def test_the_appliance_itself_is_never_intercepted(site: Site) -> None:
    ssh = subprocess.Popen(
        site.space.command(
            sys.executable, "-m", "tests.netns.actors", "listen", "22"
        ),
        stdout=subprocess.PIPE, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert ssh.stdout is not None
    try:
        assert ssh.stdout.readline() == "ready\n"
        # Even with a binding that no packet can meet.
        a1 = site.hosts["a1"]
        wrong = [[str(a), "02:00:00:00:00:99", None] for a in (a1.ipv4,)]
        site.install(bindings=wrong)
        # The pinned neighbour entry points at the wrong MAC, too: only the way in is ours.
        run(site.space.command("ip", "neigh", "flush", "nud", "permanent"))
        assert act(a1, "ask", "198.18.0.1", "22") == f"{a1.ipv4} 198.18.0.1:22"
        assert act(a1, "ask", VIP, "22") == "timeout"
    finally:
        ssh.kill()
        ssh.wait()
        ssh.stdout.close()


def box_mac(site: Site, interface: str) -> str:
    path = f"/sys/class/net/{interface}/address"
    return run(site.space.command("cat", path))


# Who sends, with whose MAC, with whose address, and whether that is spoofing.
FRAMES = (
    ("a1", "a1", "a1", False),
    ("a2", "a2", "a1", True),  # a bound address from another MAC
    ("a1", "a1", "a2", True),  # a bound MAC with another bound address
    ("a1", "a1", "a3", True),  # an address bound to a port, from the segment
    ("a3", "a3", "a1", True),  # a port with an address bound by MAC
    ("a3", "a1", "a1", True),  # … even with the right MAC
    ("a3", "a3", "a2", True),  # a bound port with another bound address
    ("a3", "a3", "a3", False),
)


@pytest.mark.parametrize("version", [4, 6])
def test_spoofing_of_a_bound_address_is_dropped(site: Site, version: int) -> None:
    site.install()
    before = site.counters()
    for liar, mac_of, address_of, spoofed in FRAMES:
        sender, source = site.hosts[liar], site.hosts[address_of]
        act(
            sender, "syn", "eth0", site.hosts[mac_of].mac,
            str(source.ipv4 if version == 4 else source.ipv6),
            box_mac(site, sender.interface), VIP if version == 4 else VIP6, "80",
        )  # fmt: skip
        after = site.counted(before)
        case = f"{liar} as {address_of} with the MAC of {mac_of}"
        assert after["spoofed"] - before["spoofed"] == spoofed, case
        assert (after["intercepted"] > before["intercepted"]) is not spoofed, case
        before = after


def test_nobody_may_use_a_virtual_address(site: Site) -> None:
    site.install()
    a2 = site.hosts["a2"]
    for source, target in (("198.19.0.9", VIP), ("fd53:6c75:6963:6500::9", VIP6)):
        act(a2, "syn", "eth0", a2.mac, source, box_mac(site, "hosts0"), target, "80")
    until("both being dropped", lambda: site.counters()["spoofed"] == 2)


def test_an_answer_in_arp_cannot_move_a_bound_host(site: Site) -> None:
    site.install()
    a1 = site.hosts["a1"]
    shown = run(site.space.command("ip", "neigh", "show", str(a1.ipv4)))
    assert f"lladdr {a1.mac} PERMANENT" in shown
    site.install("bind", bindings=[])
    shown = run(site.space.command("ip", "neigh", "show", "nud", "permanent"))
    assert shown == ""


def test_changed_bindings_keep_the_counters(site: Site) -> None:
    site.install()
    act(site.hosts["a1"], "udp", VIP, "53")
    site.install("bind", bindings=site.bindings[:2])
    assert site.counters()["udp_refused"] == 1
    assert str(site.hosts["a3"].ipv4) not in site.shown().split("chain")[0]


def test_removal_leaves_everything_byte_for_byte_as_before(site: Site) -> None:
    run(site.space.command("nft", "add", "table", "inet", "others"))
    run(site.space.command("ip", "rule", "add", "pref", "77", "from", "198.18.0.99", "table", "77"))
    before = site.shown()
    assert before != site.before
    site.install()
    assert site.shown() != before
    site.as_daemon("remove")
    assert site.shown() == before
    site.as_daemon("remove")  # twice is no error
    assert site.shown() == before


def test_a_table_of_another_shape_is_replaced(site: Site) -> None:
    run(site.space.command("nft", "add", "table", "inet", "sluice"))
    run(site.space.command(
        "nft", "add", "set", "inet", "sluice", "bound4", "{ type inet_service ; }"
    ))  # fmt: skip
    site.install()
    assert act(site.hosts["a1"], "ask", VIP, "80").endswith(f"{VIP}:80")
