"""`sluice offload` on virtual Ethernet devices: through the real daemon, root helper and kernel."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance.system.rooted import SupervisorClient
from tests.netns.helpers import sh, unprivileged, until
from tests.netns.mesh import Mesh

NOBODY = unprivileged(65534)
TSO = "tx-tcp-segmentation"
NIC = "hosts0"
PROFILE = """\
apiVersion: sluice.dev/v1
kind: OffloadProfile
metadata: {name: default}
spec: {prefer: %s, tls: {minVersion: %s}}
"""


def steps(mesh: Mesh, verb: str, code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
    done = mesh.cli(mesh.a, "offload", verb, "-o", "json")
    assert done.returncode == code, done
    return {(each["interface"], each["setting"]): each for each in json.loads(done.stdout)}


def status(mesh: Mesh) -> Any:
    done = mesh.cli(mesh.a, "offload", "status", "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(mesh: Mesh) -> str:
    """What ethtool says."""
    lines = [each.strip() for each in sh(*mesh.a.command("ethtool", "-k", NIC)).splitlines()]
    (line,) = (each for each in lines if each.startswith(f"{TSO}:"))
    return line.removeprefix(f"{TSO}: ")


def kernel_has_tls() -> bool:
    return "tls" in Path("/proc/sys/net/ipv4/tcp_available_ulp").read_text().split()


def switch(mesh: Mesh, on: bool) -> None:
    sh(*mesh.a.command("ethtool", "-K", NIC, TSO, "on" if on else "off"))


@pytest.fixture
def off(mesh: Mesh) -> Iterator[None]:
    """Segmentation is off, as an admin may have left it; put back at the end."""
    switch(mesh, False)
    yield
    mesh.cli(mesh.a, "offload", "revert")
    switch(mesh, True)


def test_status_tells_cards_and_a_ledger_that_adds_up(mesh: Mesh) -> None:
    assert mesh.ask("a1", "payments", 8080).startswith("payments")

    def balanced() -> Any:
        found = status(mesh)
        sums = [sum(each["legs"] for each in found[what]) for what in ("layers", "reasons")]
        return found if sums[0] == sums[1] > 0 else None

    shown = until("as many legs by layer as by reason", balanced)
    nics = {nic["name"]: nic for nic in shown["nics"]}
    assert nics[NIC]["serves"] == ["hosts"]
    assert nics["mesh0"]["serves"] == ["mesh"]
    assert {nic["driver"] for nic in nics.values()} == {"veth"}
    assert {nic["profile"] for nic in nics.values()} == {"veth"}
    assert all(fact["source"] for nic in nics.values() for fact in nic["facts"])
    assert all("devlink" in nic["devlink"]["remarks"][0] for nic in nics.values())
    assert len(shown["worker_cpus"]) == 2
    text = mesh.cli(mesh.a, "offload", "status", run_as=NOBODY).stdout
    assert "TLS legs: " in text
    assert "virtual Ethernet pair" in text


def test_apply_changes_reads_back_and_revert_puts_back(mesh: Mesh, off: None) -> None:
    assert (steps(mesh, "plan")[NIC, TSO]["old"], held(mesh)) == ("off", "off")
    applied = steps(mesh, "apply")[NIC, TSO]
    assert (applied["old"], applied["new"], applied["outcome"]) == ("off", "on", "changed")
    assert held(mesh) == "on"
    assert steps(mesh, "plan")[NIC, TSO]["outcome"] == "good"
    assert steps(mesh, "apply")[NIC, TSO]["outcome"] == "good"
    done = steps(mesh, "revert")
    assert done[NIC, TSO]["outcome"] == "changed"
    assert held(mesh) == "off"
    assert steps(mesh, "revert") == {}
    said = [(entry.what, entry.detail) for entry in mesh.call(mesh.a, lambda c: c.audit())]
    assert ("apply offload", f"{NIC} {TSO} off to on") in said
    assert ("revert offload", f"{NIC} {TSO} on to off") in said


def test_revert_knows_after_the_daemon_was_started_anew(mesh: Mesh, off: None) -> None:
    steps(mesh, "apply")
    assert held(mesh) == "on"
    start_anew(mesh)
    assert steps(mesh, "revert")[NIC, TSO]["outcome"] == "changed"
    assert held(mesh) == "off"


def test_after_a_reboot_it_is_set_again(mesh: Mesh, off: None) -> None:
    steps(mesh, "apply")
    switch(mesh, False)
    start_anew(mesh)
    assert held(mesh) == "off"  # somebody's wish, so far
    with closing(sqlite3.connect(mesh.a.paths.database, timeout=20)) as store, store:
        store.execute("UPDATE meta SET value = '{}' WHERE key = 'interfaces'")  # of another boot
    start_anew(mesh)
    until("the setting to be made again", lambda: held(mesh) == "on")
    said = [(e.who, e.what, e.detail) for e in mesh.call(mesh.a, lambda c: c.audit())]
    assert ("daemon", "restore offload", f"{NIC} {TSO} off to on") in said
    assert status(mesh)["drifted"] == []


def start_anew(mesh: Mesh) -> None:
    """The daemon."""
    before = mesh.status(mesh.a)
    pid = next(process.pid for process in before.processes if process.name == "daemon")
    os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        done = mesh.cli(mesh.a, "status", "-o", "json")
        if done.returncode:
            return False
        found = json.loads(done.stdout)
        here = [each["pid"] for each in found["processes"] if each["name"] == "daemon"]
        return here not in ([pid], []) and found["applied"] > 0

    until("a new daemon publishes", answers)
    until("the peer is back", lambda: mesh.status(mesh.a).peers_connected == 1)


def test_what_somebody_changed_back_is_told(mesh: Mesh, off: None) -> None:
    steps(mesh, "apply")
    switch(mesh, False)
    assert status(mesh)["drifted"] == [f"{NIC} {TSO} is off, was set to on"]
    assert steps(mesh, "revert")[NIC, TSO]["text"] == "it was so already"
    assert status(mesh)["drifted"] == []


def test_others_may_look_and_not_touch(mesh: Mesh, off: None) -> None:
    assert mesh.cli(mesh.a, "offload", "plan", run_as=NOBODY).returncode == 0
    for verb in ("apply", "revert"):
        done = mesh.cli(mesh.a, "offload", verb, run_as=NOBODY)
        assert done.returncode == 5, done
        assert "root" in done.stderr
    assert held(mesh) == "off"


@pytest.mark.parametrize(
    ("setting", "value", "refused"),
    [
        ("rings.rx", 512, "the device does not have it"),
        ("queues.rx", 60_000, "invalid argument"),
        ("tls-hw-tx-offload", 1, "the driver cannot set it now"),
    ],
)
async def test_what_a_device_refuses_is_said(
    mesh: Mesh, setting: str, value: int, refused: str
) -> None:
    helper = SupervisorClient(mesh.a.paths.supervisor_socket)
    # The helper looks for the interface where it runs: in the site's namespace.
    answer = await helper.call("nic-set", interface=NIC, setting=setting, value=value)
    assert answer["refused"] == refused
    assert answer["before"] == answer["after"] != value


def test_the_plan_says_what_a_profile_asks_for_and_the_card_cannot(mesh: Mesh) -> None:
    """No card here seals TLS: prefer: nic is accepted, and each leg says why it is elsewhere."""
    done = mesh.cli(mesh.a, "apply", "-f", "-", given=PROFILE % ("nic", "1.3"))
    assert done.returncode == 2
    assert "-:4: spec.tls.minVersion: no NIC seals TLS 1.3" in done.stderr
    done = mesh.cli(mesh.a, "apply", "-f", "-", given=PROFILE % ("nic", "1.2"))
    assert done.returncode == 0, done.stderr
    assert "shows both certificates on the wire" in done.stdout
    assert status(mesh)["prefer"] == "nic"
    since = time.time()
    assert mesh.ask("a1", "payments", 8080).startswith("payments")
    flow = mesh.flow(mesh.a, since)
    assert flow.up_layer == "user"
    assert flow.fallback == "peer"  # which has no profile, so speaks TLS 1.3 only
    assert flow.tls_version == "TLSv1.3"
    mesh.apply(mesh.b, PROFILE % ("user", "1.2"))
    since = time.time()
    assert mesh.ask("a1", "payments", 8080).startswith("payments")
    flow = mesh.flow(mesh.a, since)
    assert (flow.tls_version, flow.up_layer) == ("TLSv1.2", "user")
    assert flow.fallback == "no_kernel_tls" or kernel_has_tls()


def test_an_auditors_profile_takes_the_records_back(mesh: Mesh) -> None:
    mesh.apply(mesh.a, PROFILE % ("openssl", "1.3"))
    since = time.time()
    assert mesh.ask("a1", "payments", 8080).startswith("payments")
    flow = mesh.flow(mesh.a, since)
    assert (flow.up_layer, flow.fallback) == ("openssl", "")
