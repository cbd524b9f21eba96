"""The two sites' namespaces: who reaches whom, a real site's life in one, and what is left."""

from __future__ import annotations

import asyncio
import os
import pty
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.demo.clean import ETC_NETNS, cleanup
from appliance.demo.topology import APPLIANCE, CHECKOUT, Host, Topology
from appliance.system.rooted import SupervisorClient

ASK = """
import errno, socket, sys
try:
    with socket.create_connection((sys.argv[1], 9), timeout=3):
        print("connected")
except OSError as error:
    print(errno.errorcode.get(error.errno, "timeout"))
"""


def left(prefix: str) -> list[str]:
    """Everything on this machine that bears the prefix."""
    links = subprocess.run(("ip", "-o", "link"), capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/mounts").read_text()
    return [
        *(str(path) for path in Path("/run/netns").glob(f"{prefix}*")),
        *(str(path) for path in ETC_NETNS.glob(f"{prefix}*")),
        *(str(path) for path in Path("/run").glob(f"{prefix}*")),
        *(line for line in (links + mounts).splitlines() if prefix in line),
        *(pid for pid in os.listdir("/proc") if pid.isdigit() and prefix in _command(pid)),
    ]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def reach(host: Host, address: object) -> str:
    """ECONNREFUSED: a packet went there and an answer came back."""
    return subprocess.run(
        host.command(sys.executable, "-c", ASK, str(address)),
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout.strip()  # fmt: skip


def test_hosts_reach_their_own_appliance_and_segment_only(topology: Topology) -> None:
    a, b = topology.sites["a"], topology.sites["b"]
    assert [h.ipv4 for h in a.hosts.values()] == [h.ipv4 for h in b.hosts.values()]
    for site in (a, b):
        for host in site.hosts.values():
            for address in APPLIANCE:
                assert reach(host, address) == "ECONNREFUSED", (host.name, address)
    assert reach(a.hosts["a1"], a.hosts["a2"].ipv4) == "ECONNREFUSED"
    assert reach(a.hosts["a1"], b.mesh[0]) == "ENETUNREACH"
    # The same address is another host at the other site: its MAC tells.
    shown = subprocess.run(
        a.hosts["a1"].command("ip", "neigh", "show", str(a.hosts["a2"].ipv4)),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert a.hosts["a2"].mac in shown
    assert a.hosts["a2"].mac != b.hosts["b2"].mac


def test_nothing_is_left_after_the_end() -> None:
    with Topology() as built:
        prefix = built.prefix
        assert len(left(prefix)) > 10
    assert left(prefix) == []


def test_cleanup_finds_what_a_crash_left() -> None:
    script = (
        "import sys, signal\n"
        "from appliance.demo.topology import Topology\n"
        "built = Topology(); built.build()\n"
        "import subprocess\n"
        "subprocess.Popen(built.sites['a'].command('sleep', '600'))\n"
        "print(built.prefix, flush=True)\n"
        "signal.pause()\n"
    )
    crashed = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert crashed.stdout is not None
    prefix = crashed.stdout.readline().strip()
    crashed.send_signal(signal.SIGKILL)
    crashed.wait()
    crashed.stdout.close()
    assert prefix
    assert left(prefix)
    cleanup(prefix)
    assert left(prefix) == []


# The demo with a prefix that the test knows.
DEMO = """
import sys
from appliance.demo import __main__ as demo
from appliance.demo.topology import Topology
prefix = sys.argv.pop()
demo.Topology = lambda: Topology(prefix)
sys.exit(demo.main())
"""
DEMO_S, EACH_S = 120.0, 0.5


def test_impatience_with_the_clean_up_leaves_nothing() -> None:
    """Ctrl-C again and again, on a terminal: to the whole foreground group."""
    prefix = f"sluice-{secrets.token_hex(3)}"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(CHECKOUT)
        os.execv(sys.executable, (sys.executable, "-c", DEMO, prefix))
    shown = b""
    again, deadline = 0.0, time.monotonic() + DEMO_S
    try:
        with suppress(OSError):  # EIO: all have closed it
            while time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 4096)
                # Not faster: each one throws away what was printed and not yet read.
                if b"enrol" in shown and b"left behind" not in shown and time.monotonic() > again:
                    os.write(terminal, b"\x03")
                    again = time.monotonic() + EACH_S
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert left(prefix) == [], shown.decode()
    finally:
        os.close(terminal)
        cleanup(prefix)
    assert code == 130, shown.decode()
    assert shown.count(b"cleaning up") == 1, shown.decode()
    assert b"interrupted; nothing is left behind" in shown


def test_a_failed_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = Topology()
    monkeypatch.setattr(built, "_build_link", lambda: (_ for _ in ()).throw(RuntimeError("x")))
    with pytest.raises(RuntimeError):
        built.build()
    assert left(built.prefix) == []


def test_a_real_site_lives_and_leaves_the_kernel_as_it_was(topology: Topology) -> None:
    """CA, daemon and data plane with their real users, capabilities and sandbox."""
    site = topology.sites["a"]

    def shown() -> list[str]:
        return [
            subprocess.run(
                site.command(*line.split()), capture_output=True, text=True, check=True
            ).stdout
            for line in ("nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all")
        ]

    before = shown()
    site.start()
    assert "table inet sluice" in shown()[0]
    status = asyncio.run(SupervisorClient(site.paths.supervisor_socket).call("status"))
    by_name = {process["name"]: process["pid"] for process in status["processes"]}
    text = Path(f"/proc/{by_name['dataplane']}/status").read_text()
    assert "Seccomp:\t2\n" in text
    restarted = asyncio.run(
        SupervisorClient(site.paths.supervisor_socket).call("restart-dataplane")
    )
    assert restarted == {"generation": 2}
    assert site.stop() == 0
    assert shown() == before
