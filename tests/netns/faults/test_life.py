"""The whole box starts, ends, and is killed; and what its processes may, hold and show."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from appliance.demo.commands import until
from appliance.demo.topology import SiteSpace
from appliance.errors import ApplianceError
from tests.netns.faults.pair import Pair, kernel_state
from tests.netns.helpers import each_file

NET_ADMIN, NET_RAW = 1 << 12, 1 << 13
USERS = {  # uid, gid, capabilities, seccomp mode: the table in ARCHITECTURE.md
    "ca": (6411, 6411, 0, 0),
    "daemon": (6410, 6410, NET_ADMIN, 0),
    "dataplane": (6412, 6410, NET_RAW, 2),
}
FULL = 60
WATCHDOG_US = 1_000_000


def pids(pair: Pair, site: SiteSpace) -> dict[str, int]:
    return {name: pair.pid(site, name) for name in USERS}


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


# -- what they may, hold and show ------------------------------------------------------------------


def test_each_process_has_its_user_its_capability_and_its_sandbox(pair: Pair) -> None:
    for site in (pair.a, pair.b):
        for name, pid in pids(pair, site).items():
            uid, gid, capabilities, seccomp = USERS[name]
            text = Path(f"/proc/{pid}/status").read_text()
            shown = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            assert shown["Uid"].split() == [str(uid)] * 4, name
            assert shown["Gid"].split() == [str(gid)] * 4, name
            assert shown["Groups"].split() == [], name
            assert shown["NoNewPrivs"] == "1", name
            assert int(shown["Seccomp"]) == seccomp, name
            for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(shown[which], 16) == capabilities, (name, which)
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
                    mode = re.search(r"Seccomp:\t(\d)", (thread / "status").read_text())
                    assert mode, thread
                    assert int(mode[1]) == seccomp, (name, thread)


def test_the_ca_has_no_network_socket(pair: Pair) -> None:
    pid = pids(pair, pair.a)["ca"]
    own = sockets(pid)
    assert own  # its Unix socket, at least
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"):
        lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
        assert not own & {word for line in lines for word in line.split()}, protocol


def sockets(pid: int) -> set[str]:
    """Inodes."""
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed since
            links.append(os.readlink(file))
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_files_belong_to_their_process_and_nobody_else_reads_them(pair: Pair) -> None:
    paths = pair.a.paths
    for directory, uid, gid, mode in (
        (paths.supervisor_state, 0, 0, 0o700),
        (paths.daemon_state, 6410, 6410, 0o700),
        (paths.ca_state, 6411, 6411, 0o700),
        (paths.dataplane_state, 6412, 6412, 0o700),
        (paths.dataplane_run, 6412, 6410, 0o750),
    ):
        found = directory.stat()
        assert (found.st_uid, found.st_gid) == (uid, gid), directory
        assert stat.S_IMODE(found.st_mode) == mode, directory
    for directory, uid in (
        (paths.supervisor_state, 0),
        (paths.daemon_state, 6410),
        (paths.ca_state, 6411),
        (paths.dataplane_state, 6412),
    ):
        files = each_file(directory, Path.stat)
        assert files, directory
        for file, found in files.items():
            assert found.st_uid == uid, file
            assert not found.st_mode & 0o077, file


def test_no_secret_is_in_a_log_an_argument_or_the_environment(pair: Pair) -> None:
    """Nor a code or a key in the daemon's state; the CA's key is in the CA's alone."""
    code = pair.code(pair.a, "secretive")
    secrets = [b"PRIVATE KEY", code.encode(), code.replace("-", "").encode()]
    secrets.append((pair.a.paths.supervisor_state / "publish.key").read_bytes())
    secrets.append((pair.a.paths.supervisor_state / "publish.key").read_bytes().hex().encode())
    assert pair.a.process is not None
    for pid in (pair.a.process.pid, *pids(pair, pair.a).values()):
        for file in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{file}").read_bytes()
            assert text
            assert not any(secret in text for secret in secrets), (pid, file)
    log = pair.a.log.read_bytes()
    assert b"serving site" in log
    assert not any(secret in log for secret in secrets)
    for directory in (pair.a.paths.daemon_state, pair.a.paths.run):
        for path, text in each_file(directory, Path.read_bytes).items():
            assert not any(secret in text for secret in secrets), path
    held = each_file(pair.a.paths.ca_state, Path.read_bytes)
    assert len([path for path, text in held.items() if secrets[0] in text]) == 1
    pair.ask(pair.a, lambda client: client.remove_host("secretive"))


# -- start and end ---------------------------------------------------------------------------------


@contextmanager
def restarted_with(pair: Pair, site: SiteSpace, **settings: int) -> Iterator[None]:
    """The site ends; whoever enters starts it, with these in spec.dataplane."""
    text = site.site_file.read_text()
    changed = text
    for name, value in settings.items():
        changed, count = re.subn(rf"{name}: \d+", f"{name}: {value}", changed)
        assert count == 1
    assert site.stop() == 0
    site.site_file.write_text(changed)
    try:
        yield
    finally:
        site.stop()
        site.site_file.write_text(text)
        site.start()


def test_it_ends_in_order_and_leaves_the_kernel_as_it_was(pair: Pair) -> None:
    site = pair.b
    before = pids(pair, site)
    assert "table inet sluice" in kernel_state(site)[0]
    process = site.process
    assert process is not None
    said = site.log.stat().st_size
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert all(map(gone, before.values()))
    text = site.log.read_bytes()[said:].decode()
    order = [
        text.index(f"{name}: process {before[name]}") for name in ("daemon", "dataplane", "ca")
    ]
    assert order == sorted(order)
    assert kernel_state(site) == pair.clean[site.name]
    assert list(site.paths.dataplane_run.iterdir()) == []
    site.start()


def test_a_full_pool_refuses_and_counts_and_recovers(pair: Pair) -> None:
    """And while it started, nobody who came too early was misled; and the watchdog is fed."""
    vip = pair.vip(pair.b, "both")
    with restarted_with(pair, pair.b, streamsMax=16):
        words, answers = start_watched(pair, vip)
        assert words[-1] == "READY=1"
        served = answers.index("b1")
        assert set(answers[served:]) == {"b1"}, answers
        pair.wait_whole()
        held = pair.helper("b2", "hold", vip, "7000", str(FULL))
        (count,) = (int(line.split()[1]) for line in held.lines() if line.startswith("held"))
        assert 16 <= count <= 32  # two workers of 16
        until(
            "the count",
            lambda: pair.counter(pair.b, "reason_pool_full") == FULL - count,
        )
        assert held.end() == {"held": count, "alive": count}
        until("the pool having room", lambda: pair.who("both", host="b2") == "b1")


def start_watched(pair: Pair, vip: str) -> tuple[list[str], list[str]]:
    """Starts site b as systemd does, with a watchdog; what it notified until it was ready and
    twice fed, and who answered at vip meanwhile, over and over."""
    site = pair.b
    notify = site.directory / "notify"
    notify.unlink(missing_ok=True)
    answers: list[str] = []
    ready = False

    def ask() -> None:
        while not ready or "b1" not in answers:
            answers.append(pair.begin_who(vip, "b2")())

    asking = Thread(target=ask)
    words: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, site.log.open("ab") as log:
        sock.bind(str(notify))
        sock.settimeout(60)
        asking.start()
        site.process = subprocess.Popen(
            site.python(
                "-m", "appliance.supervisor", "--site", str(site.site_file),
                *("--state", str(site.paths.state), "--run", str(site.paths.run)),
            ),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={
                **site.environment(),
                "NOTIFY_SOCKET": str(notify),
                "WATCHDOG_USEC": str(WATCHDOG_US),
            },
        )  # fmt: skip
        try:
            while "READY=1" not in words:
                words += sock.recv(4096).decode().splitlines()[:1]
            fed = 0
            while fed < 3:
                fed += b"WATCHDOG=1" in sock.recv(4096)
        finally:
            ready = True
            asking.join()
    assert "WATCHDOG=1" in words
    return words, answers


def test_after_a_killed_supervisor_all_ends_and_the_next_start_clears_up(pair: Pair) -> None:
    site = pair.b
    before = pids(pair, site)
    process, site.process = site.process, None
    assert process is not None
    process.kill()
    process.wait()
    for name, pid in before.items():
        until(f"{name} ending", lambda pid=pid: gone(pid))  # type: ignore[misc]
    site.start()
    assert all(pid != before[name] for name, pid in pids(pair, site).items())
    pair.wait_whole()
    assert pair.who("both", host="b2") == "b1"
    assert site.stop() == 0
    assert kernel_state(site) == pair.clean[site.name]
    site.start()


@pytest.mark.parametrize("name", sorted(USERS))
def test_a_process_that_is_killed_is_counted_and_started_again(pair: Pair, name: str) -> None:
    before = pair.count(pair.b, f"{name}_restarts")
    pair.wait_serving(pair.b, name, pair.kill(pair.b, name))
    assert pair.count(pair.b, f"{name}_restarts") == before + 1
    until("it being shown", lambda: shown(pair, name) == ["serving"])


def shown(pair: Pair, name: str) -> list[str]:
    """States of this process, as `sluice status` shows them."""
    try:
        return [each.state for each in pair.status(pair.b).processes if each.name == name]
    except ApplianceError:  # the daemon itself may be the one
        return []
