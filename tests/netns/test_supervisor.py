"""The supervisor for real, as root in a namespace, with small children: descriptors, privileges,
restarts under load, the order of the end, and who may ask for what.

    a1 ── switch ── hosts0 [a: supervisor → small CA, daemon, data plane]
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapReader

from appliance.demo.topology import SiteSpace, Topology
from appliance.errors import InvalidInput
from appliance.supervisor.child import User, privileges
from appliance.system.rooted import SupervisorClient

PROGRAM = ("-m", "tests.netns.small_box")
DEADLINE_S = 60.0
RESTARTS = 10


@pytest.fixture
def box(topology: Topology) -> Iterator[SiteSpace]:
    space = topology.sites["a"]
    space.start(DEADLINE_S, PROGRAM)
    yield space
    space.stop()


def ask(space: SiteSpace, verb: str, **arguments: Any) -> dict[str, Any]:
    return asyncio.run(SupervisorClient(space.paths.supervisor_socket).call(verb, **arguments))


def notes(space: SiteSpace) -> list[tuple[str, str, int]]:
    lines = (space.directory / "notes").read_text().splitlines()
    return [(name, what, int(pid)) for name, what, pid in (line.split() for line in lines)]


def pid_of(space: SiteSpace, name: str) -> int:
    return serving(space)[name]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


class Load:
    """A client on host a1 that connects, asks and closes, over and over."""

    SCRIPT = """
import json, signal, socket, sys
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
count = {"answered": 0, "refused": 0, "cut": 0, "pids": []}
print("ready", flush=True)
while going:
    try:
        with socket.create_connection(("198.18.0.1", 15008), timeout=20) as sock:
            sock.sendall(b"x")
            answer = sock.recv(100)
            count["answered" if answer else "cut"] += 1
            if answer and int(answer) not in count["pids"]:
                count["pids"].append(int(answer))
    except ConnectionRefusedError:
        count["refused"] += 1
    except OSError:
        count["cut"] += 1
print(json.dumps(count))
"""

    def __init__(self, space: SiteSpace) -> None:
        command = space.hosts["a1"].command(sys.executable, "-c", self.SCRIPT)
        self._processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def end(self) -> dict[str, int]:
        total = {"answered": 0, "refused": 0, "cut": 0}
        seen: set[int] = set()
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=DEADLINE_S)
            count = json.loads(output)
            seen |= set(count.pop("pids"))
            total = {name: total[name] + count[name] for name in total}
        return {**total, "processes": len(seen)}


def test_hot_restarts_under_load_refuse_and_cut_nothing(box: SiteSpace) -> None:
    load = Load(box)
    for expected in range(2, RESTARTS + 2):
        assert ask(box, "restart-dataplane") == {"generation": expected}
    result = load.end()
    assert result["refused"] == result["cut"] == 0
    assert result["answered"] > RESTARTS
    assert result["processes"] > 1
    assert ask(box, "status")["counts"]["dataplane_replacements"] == RESTARTS


def test_a_killed_data_plane_refuses_nothing(box: SiteSpace) -> None:
    load = Load(box)
    for count in range(1, 4):
        os.kill(pid_of(box, "dataplane"), signal.SIGKILL)
        until(lambda: ask(box, "status")["counts"]["dataplane_restarts"] == count)  # noqa: B023
        until(lambda: any(p["name"] == "dataplane" and p["pid"]
                          for p in ask(box, "status")["processes"]))  # fmt: skip
    result = load.end()
    assert result["refused"] == 0
    assert result["cut"] <= 3 * 3  # what each of three clients had open when it died
    assert result["answered"] > 0


def test_the_other_two_are_started_again(box: SiteSpace) -> None:
    for name in ("ca", "daemon"):
        before = pid_of(box, name)
        os.kill(before, signal.SIGKILL)
        until(lambda: ask(box, "status")["counts"][f"{name}_restarts"] == 1)  # noqa: B023
        until(lambda: [n for n, what, _ in notes(box) if what == "started"].count(name) == 2)  # noqa: B023
    assert ask(box, "status")["counts"]["dataplane_restarts"] == 0


# `sluice up` with the real daemon, but less patience with its silence.
IMPATIENT = """
import sys
from appliance.supervisor import __main__ as supervisor, tree
tree.SILENCE_MAX_S = 45.0
sys.exit(supervisor.main())
"""


def rescue(space: SiteSpace, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ("--run", str(space.paths.run), "--state", str(space.paths.state))
    return subprocess.run(
        space.python("-m", "appliance.cli", *where, "rescue", *arguments),
        capture_output=True, text=True, check=False, timeout=60, env=space.environment(),
    )  # fmt: skip


def test_a_daemon_that_hangs_is_told_from_a_dead_one_and_started_again(topology: Topology) -> None:
    space = topology.sites["a"]
    space.start(program=("-c", IMPATIENT))

    def state() -> Any:
        return json.loads(rescue(space, "status", "-o", "json").stdout)

    assert state()["daemon"] == "answers"
    hung = pid_of(space, "daemon")
    os.kill(hung, signal.SIGSTOP)
    told = state()
    assert (told["daemon"], told["daemon_pid"]) == ("hangs", hung)
    refused = rescue(space, "rollback", "1")
    assert refused.returncode == 4
    assert f"kill -KILL {hung}" in refused.stderr
    until(lambda: ask(space, "status")["counts"]["daemon_hung"] == 1)
    until(lambda: serving(space).get("daemon", hung) != hung)  # it is killed after it is counted
    assert state()["daemon"] == "answers"


def test_the_interception_can_be_taken_away_and_had_back(topology: Topology) -> None:
    space = topology.sites["a"]
    enter = ("ip", "netns", "exec", space.namespace)

    def intercepts() -> tuple[bool, bool]:
        tables, rules = (
            subprocess.run([*enter, *what], capture_output=True, text=True, check=True).stdout
            for what in (("nft", "list", "tables"), ("ip", "rule"))
        )
        return "inet sluice" in tables, "fwmark" in rules

    space.start()
    until(lambda: intercepts() == (True, True))
    released = rescue(space, "release", "--yes")
    assert released.returncode == 0, released.stderr
    assert "systemctl restart sluice" in released.stdout
    assert intercepts() == (False, False)
    space.stop()
    assert "systemctl start sluice" in rescue(space, "release", "--yes").stdout
    space.start()
    until(lambda: intercepts() == (True, True))


def serving(space: SiteSpace) -> dict[str, int]:
    processes = ask(space, "status")["processes"]
    return {p["name"]: p["pid"] for p in processes if p["state"] == "serving"}


def test_the_end_is_in_order(box: SiteSpace) -> None:
    started = [name for name, what, _ in notes(box) if what == "started"]
    assert sorted(started) == ["ca", "daemon", "dataplane"]
    assert started.index("ca") < started.index("daemon")
    process = box.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    ended = [name for name, what, _ in notes(box) if what in ("ended", "done")]
    assert ended == ["daemon", "dataplane", "ca", "remove"]
    assert not box.paths.supervisor_socket.exists()


def test_a_second_signal_does_not_wait_for_the_drain(box: SiteSpace) -> None:
    hold = subprocess.Popen(
        box.hosts["a1"].command(
            sys.executable, "-c",
            "import socket; s = socket.create_connection(('198.18.0.1', 15008)); s.send(b'x');"
            "print(s.recv(9), flush=True); s.recv(1)",
        ),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert hold.stdout is not None
    hold.stdout.readline()
    process = box.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    until(lambda: ("dataplane", "stopping") in [n[:2] for n in notes(box)])
    assert process.poll() is None  # it drains
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    assert ("dataplane", "hurried") in [n[:2] for n in notes(box)]
    hold.wait(DEADLINE_S)
    hold.stdout.close()


def test_children_have_their_users_and_one_capability(box: SiteSpace) -> None:
    net_admin, net_raw = 1 << 12, 1 << 13
    for name, uid, gid, capability in (
        ("ca", 6411, 6411, 0),
        ("daemon", 6410, 6410, net_admin),
        ("dataplane", 6412, 6410, net_raw),
    ):
        text = Path(f"/proc/{pid_of(box, name)}/status").read_text()
        shown = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        assert shown["Uid"].split() == [str(uid)] * 4
        assert shown["Gid"].split() == [str(gid)] * 4
        assert shown["Groups"].split() == []
        assert shown["NoNewPrivs"] == "1"
        for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(shown[which], 16) == capability, (name, which)


def test_only_the_data_plane_has_sockets_and_only_it_and_the_daemon_the_key(box: SiteSpace) -> None:
    def links(name: str) -> str:
        directory = Path(f"/proc/{pid_of(box, name)}/fd")
        return " ".join(os.readlink(file) for file in directory.iterdir())

    assert links("dataplane").count("pipe:") >= 2 * 2 * 64
    assert "publish-key" in links("dataplane")
    assert "tickets" in links("dataplane")
    assert "publish-key" in links("daemon")
    assert "tickets" not in links("daemon")
    assert "memfd" not in links("ca")


def test_rotated_tickets_reach_the_process_that_serves(box: SiteSpace) -> None:
    def keys() -> set[str]:
        return {what for _, what, _ in notes(box) if what.startswith("tickets:")}

    until(lambda: len(keys()) == 1)  # told once at its start
    assert ask(box, "rotate-tickets") == {"rotations": 1}
    until(lambda: len(keys()) == 2)


def test_a_second_supervisor_is_refused(box: SiteSpace, topology: Topology) -> None:
    for run, told in ((box.paths.run, "runs already"), (box.directory / "run2", "is in use")):
        done = subprocess.run(
            box.python(*PROGRAM, "--site", str(box.site_file), "--state",
                       str(box.paths.state), "--run", str(run)),
            capture_output=True, text=True, env=box.environment(), timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 4
        assert told in done.stderr.splitlines()[-1]
    assert ask(box, "status")["pid"]  # the first one still answers


def test_factory_reset_wipes_and_begins_anew(box: SiteSpace) -> None:
    (box.paths.ca_state / "authority.pem").write_text("x")
    (box.paths.daemon_state / "sub").mkdir()
    before = (box.paths.supervisor_state / "publish.key").read_bytes()
    with pytest.raises(InvalidInput, match="site-a"):
        ask(box, "factory-reset", site="site-b")
    ask(box, "factory-reset", site="site-a")
    until(lambda: [what for _, what, _ in notes(box)].count("started") == 6)
    assert list(box.paths.ca_state.iterdir()) == []
    assert list(box.paths.daemon_state.iterdir()) == []
    assert (box.paths.supervisor_state / "publish.key").read_bytes() != before


def test_a_capture_is_bounded_and_for_the_admin_group(box: SiteSpace) -> None:
    """In the namespace, where the interface is: the answer names the file."""
    load = Load(box)
    done = subprocess.run(
        box.python("-c", CAPTURING, str(box.paths.supervisor_socket)),
        capture_output=True, text=True, env=box.environment(), timeout=60, check=True,
    )  # fmt: skip
    load.end()
    answer = json.loads(done.stdout)
    path = Path(answer["path"])
    assert answer["packets"] > 0
    assert 24 < path.stat().st_size <= 8192
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.stat().st_gid == 6413
    with RawPcapReader(str(path)) as reader:
        frames = list(reader)
    assert len(frames) == answer["packets"]


CAPTURING = """
import asyncio, json, sys
from pathlib import Path
from appliance.system.rooted import SupervisorClient
call = SupervisorClient(Path(sys.argv[1])).call
print(json.dumps(asyncio.run(call("capture", interface="hosts0", seconds=30, bytes_max=8192))))
"""

ASKING = """
import asyncio, sys
from pathlib import Path
from appliance.system.rooted import SupervisorClient
from appliance.errors import ApplianceError
try:
    print(asyncio.run(SupervisorClient(Path(sys.argv[1])).call(sys.argv[2])))
except ApplianceError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("uid", "gid", "verb", "answer"),
    [
        (6410, 6410, "status", "{"),
        (6410, 6410, "rotate-tickets", "{"),
        (6410, 6410, "nic-set", "InvalidInput"),  # it may, but has to say what
        (6412, 6410, "nic-set", "Denied"),
        (6410, 6410, "capture", "Denied"),  # a daemon that was taken over reads no bytes …
        (6410, 6410, "factory-reset", "Denied"),  # … and wipes no CA
        (6412, 6410, "status", "Denied"),  # the data plane is in the daemon's group only
        (65534, 65534, "status", "Denied"),
        (65534, 6413, "status", "{"),  # the admin group
        (65534, 6413, "capture", "InvalidInput"),
    ],
)
def test_who_may_ask(box: SiteSpace, uid: int, gid: int, verb: str, answer: str) -> None:
    done = subprocess.run(
        box.python("-c", ASKING, str(box.paths.supervisor_socket), verb,
                   run_as=privileges(User(uid, gid))),
        capture_output=True, text=True, env=box.environment(), timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(answer)
