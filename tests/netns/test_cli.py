"""`sluice` as people and programs run it: formats, exit codes, and who may do what."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.netns.helpers import each_file, unprivileged
from tests.netns.mesh import GOOD_POLICY, Mesh

NOBODY = unprivileged(65534)
ADMIN = unprivileged(65534, 65534, 6413)
LISTS = (
    ("host", "list"), ("service", "list"), ("peer", "list"), ("flows",), ("get",), ("history",),
    ("audit",), ("doctor",), ("rescue", "status"), ("status",), ("diff",),
)  # fmt: skip
DENIED = 5


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_every_list_is_the_same_in_every_format(mesh: Mesh, command: tuple[str, ...]) -> None:
    since = time.time()
    assert mesh.ask("a1", "web", 8080).startswith("web")
    mesh.flow(mesh.a, since)
    as_json = mesh.cli(mesh.a, *command, "-o", "json")
    as_yaml = mesh.cli(mesh.a, *command, "-o", "yaml")
    assert (as_json.returncode, as_yaml.returncode) == (0, 0)
    data = json.loads(as_json.stdout)
    assert data
    documents = list(yaml.safe_load_all(as_yaml.stdout))
    if command == ("get",):
        assert [each["metadata"]["name"] for each in documents] == [d["name"] for d in data]
    else:
        assert type(documents[0]) is type(data)
        if isinstance(data, list):
            assert set(data[0]) == set(documents[0][0])


@pytest.mark.parametrize("command", [each for each in LISTS if each[0] != "rescue"], ids=" ".join)
def test_what_others_may_read(mesh: Mesh, command: tuple[str, ...]) -> None:
    done = mesh.cli(mesh.a, *command, run_as=NOBODY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or command == ("diff",)


WRITES = (
    ("host", "add", "x", "--address", "198.18.0.99"),
    ("host", "revoke", "a1"),
    ("host", "remove", "a1"),
    ("peer", "invite", "site-z"),
    ("peer", "remove", "site-b"),
    ("rollback", "1"),
    ("delete", "peerauthentication", "default"),
    ("confirm",),
    ("restart",),
    ("rescue", "status"),
)


@pytest.mark.parametrize("command", WRITES, ids=" ".join)
def test_what_others_may_not_change(mesh: Mesh, command: tuple[str, ...]) -> None:
    before = mesh.status(mesh.a)
    done = mesh.cli(mesh.a, *command, run_as=NOBODY)
    assert done.returncode == DENIED, done
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sluice: ")
    assert "root" in done.stderr
    after = mesh.status(mesh.a)
    assert (after.revision, after.hosts, after.peers) == (before.revision, before.hosts, 1)


def test_others_may_dry_run_but_not_apply(mesh: Mesh) -> None:
    apply = ("apply", "-f", "-")
    dry = mesh.cli(mesh.a, *apply, "--dry-run", given=GOOD_POLICY, run_as=NOBODY)
    assert dry.returncode == 0, dry.stderr
    now = mesh.status(mesh.a).revision
    assert dry.stdout.endswith(f"nothing is changed: still revision {now}\n")
    done = mesh.cli(mesh.a, *apply, given=GOOD_POLICY, run_as=NOBODY)
    assert done.returncode == DENIED
    assert "may only read" in done.stderr


def test_the_admin_group_may_change(mesh: Mesh) -> None:
    done = mesh.cli(mesh.a, "apply", "-f", "-", given=GOOD_POLICY, run_as=ADMIN)
    assert done.returncode == 0, done.stderr
    added = mesh.cli(
        mesh.a, "host", "add", "byadmin", "--address", "198.18.0.98", "-o", "json", run_as=ADMIN
    )
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["host"]["state"] == "active"
    revoked = mesh.cli(mesh.a, "host", "revoke", "byadmin", run_as=ADMIN)
    assert revoked.returncode == 0, revoked.stderr
    assert "site-b" in revoked.stdout
    assert mesh.cli(mesh.a, "host", "remove", "byadmin", run_as=ADMIN).returncode == 0
    assert "uid 65534" in {entry.who for entry in mesh.call(mesh.a, lambda c: c.audit())}


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ("host", "add", "BAD NAME", "--address", "198.18.0.97"), "service account 'BAD NAME'"),
        (2, ("host", "add", "x", "--address", "nonsense"), "is no address: write"),
        (2, ("host", "add", "x", "--address", "224.0.0.1"), "is no machine's address"),
        (2, ("host", "add", "x", "--mac", "02:53:00:00:00:98"), "--address"),
        (2, ("host", "add", "x", "--address", "198.18.0.97", "--mac", "zz"), "is no MAC address"),
        (2, ("host", "add", "x", "--address", "198.18.0.97", "--service", "a:b:c"), ""),
        (2, ("host", "add", "x", "--address", "198.18.0.97", "--label", "novalue"), "key=value"),
        (4, ("host", "add", "a1", "--address", "198.18.0.97"), "there already"),
        (4, ("host", "add", "y", "--address", "198.18.0.11"), "is host a1's address"),
        (3, ("host", "revoke", "nobody"), "there is no host"),
        (3, ("host", "remove", "nobody"), "there is no host"),
        (3, ("peer", "remove", "nobody"), "nobody"),
        (2, ("peer", "invite", "Not_A_Name"), "cannot be a peer's name"),
        (2, ("apply", "-f", "-", "--confirm", "soon"), "write a time like"),
        (2, ("flows", "--state", "happy"), "happy"),
        (2, ("nonsense",), "No such command"),
        (2, ("host", "list", "--nonsense"), "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_end_with_one_line_and_their_code(
    mesh: Mesh, code: int, arguments: tuple[str, ...], says: str
) -> None:
    before = mesh.status(mesh.a)
    done = mesh.cli(mesh.a, *arguments, given=GOOD_POLICY)
    assert done.returncode == code, done
    assert says in done.stderr
    assert done.stderr.startswith("sluice: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    after = mesh.status(mesh.a)
    assert (after.revision, after.hosts) == (before.revision, before.hosts)


def test_codes_are_not_shown_again_nor_kept(mesh: Mesh) -> None:
    invited = json.loads(mesh.cli(mesh.a, "host", "add", "once2", "--agent", "-o", "json").stdout)
    try:
        code = invited["code"]
        assert code not in mesh.cli(mesh.a, "audit", "-o", "json").stdout
        assert code not in mesh.a.log.read_text()
        for path, text in each_file(mesh.a.paths.state, Path.read_bytes).items():
            assert code.encode() not in text, path
        assert code not in invited["join_line"]
    finally:
        assert mesh.cli(mesh.a, "host", "remove", "once2").returncode == 0


def test_no_daemon_is_said_in_one_line(mesh: Mesh, tmp_path: Path) -> None:
    done = subprocess.run(
        mesh.a.python("-m", "appliance.cli", "--run", str(tmp_path), "status"),
        capture_output=True, text=True, check=False, timeout=60, env=mesh.a.environment(), cwd="/",
    )  # fmt: skip
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert "is `sluice up` running?" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mesh: Mesh, shell: str) -> None:
    done = mesh.cli(mesh.a, "completion", shell)
    assert done.returncode == 0
    assert "_SLUICE_COMPLETE" in done.stdout
