"""`sluice rescue` on a state whose daemon is dead: as root only, and the next start finds it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.api.client import AdminClient
from appliance.cli import rescue as module
from appliance.cli.root import cli
from appliance.config.model import Model
from appliance.errors import Conflict, Denied, NotFound
from appliance.paths import Paths
from appliance.registry.revisions import Revisions
from appliance.registry.store import Store
from tests.unit.appliance.sites import model, policy

ONE = model(policy("{action: DENY, rules: [{}]}", "one"))
TWO = model(policy("{action: ALLOW, rules: [{}]}", "one"))
AS_ROOT = os.geteuid() == 0


def rescue(root: Path, *arguments: str) -> Result:
    where = ("--state", str(root / "state"), "--run", str(root / "run"))
    return CliRunner().invoke(cli, [*where, "rescue", *arguments])


def state(root: Path) -> Paths:
    """One revision that is applied, and one that waits to be confirmed."""
    paths = Paths(state=root / "state", run=root / "run")
    paths.database.parent.mkdir(parents=True)
    store = Store(paths.database)
    revisions = Revisions(store)
    revisions.finish(revisions.begin(ONE, Model(), now=1, by="t", summary="one"))
    revisions.finish(revisions.begin(TWO, ONE, now=2, by="t", summary="two", deadline=99))
    store.close()
    return paths


def test_it_goes_back_from_disk(tmp_path: Path) -> None:
    paths = state(tmp_path)
    done = rescue(tmp_path, "rollback", "1")
    if not AS_ROOT:
        assert isinstance(done.exception, Denied)
        return
    assert done.exit_code == 0, done.output
    store = Store(paths.database)
    revisions = Revisions(store)
    current = revisions.current
    assert (revisions.pending(), revisions.model(current)) == (None, ONE)
    store.close()
    told = json.loads(rescue(tmp_path, "status", "-o", "json").output)
    assert (told["current"], told["daemon_answers"]) == (current, False)
    assert (told["daemon"], told["daemon_pid"]) == ("dead", 0)
    assert "action: DENY" in rescue(tmp_path, "documents").output
    assert rescue(tmp_path, "documents", "0").output == ""  # before the first
    assert isinstance(rescue(tmp_path, "rollback", "9").exception, NotFound)


@pytest.mark.parametrize("backlog", [16, 0])
def test_a_daemon_that_hangs_is_no_daemon_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backlog: int
) -> None:
    """It listens; the kernel takes connections for it, as many as wait there."""
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    paths = state(tmp_path)
    paths.admin_socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(paths.admin_socket))
        daemon.listen(backlog)
        waiting = socket.socket(socket.AF_UNIX)
        with waiting:
            waiting.connect(str(paths.admin_socket))
            error = rescue(tmp_path, "rollback", "1").exception
            assert isinstance(error, Conflict)
            assert "hangs" in str(error)
            assert "sluice rollback" not in str(error)
            if backlog:
                assert f"kill -KILL {os.getpid()}" in str(error)
            if AS_ROOT:
                told = json.loads(rescue(tmp_path, "status", "-o", "json").output)
                assert (told["daemon"], told["daemon_answers"]) == ("hangs", False)


async def _complains(client: AdminClient) -> None:
    raise Denied("no")


def test_it_changes_nothing_under_a_daemon_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdminClient, "status", _complains)  # a complaint is an answer too
    paths = state(tmp_path)
    paths.admin_socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(paths.admin_socket))
        daemon.listen()
        error = rescue(tmp_path, "rollback", "1").exception
    assert isinstance(error, Conflict)
    assert "sluice rollback" in str(error)


def test_without_a_state_it_says_where_it_looked(tmp_path: Path) -> None:
    error = rescue(tmp_path, "status").exception
    assert isinstance(error, NotFound if AS_ROOT else Denied)
