"""Many leaves and many approvals in one call: each judged, counted, limited; or all or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca import key
from appliance.ca.client import CaClient
from appliance.ca.issue import APPROVE_TOGETHER_MAX, SIGN_TOGETHER_MAX, Asked, Signed
from appliance.ca.server import SIGN_RATE, Ca, Roles, serve
from appliance.ca.table import Table
from appliance.enroll.credentials import make_csr
from appliance.errors import Denied, InvalidInput, LimitReached
from appliance.rate import Rate
from appliance.system.credentials import Peer
from dataplane.snapshot import Grade

NOW = 1_800_000_000
DAEMON = Peer(6410, 6410, 1, frozenset({6410}))
ROOT = Peer(0, 0, 2, frozenset({0}))
STRANGER = Peer(1001, 1001, 4, frozenset({1001}))
WEB = "spiffe://a.example/ns/default/sa/web"
CSR = make_csr(ec.generate_private_key(ec.SECP256R1()))
ROLES = Roles(daemon_uid=6410, admin_gid=6413)
ASKED = Asked(CSR, WEB, Grade.L2, 3600)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    opened = Table(tmp_path / "ca.db")
    yield opened
    opened.close()


def ca_of(path: Path, table: Table, roles: Roles = ROLES, rate: Rate = SIGN_RATE) -> Ca:
    authority = key.load_or_create(path, "a.example", NOW)
    return Ca(path, authority, table, roles, "gw", lambda: NOW, rate)


def test_each_is_signed_or_refused_by_itself(tmp_path: Path, table: Table) -> None:
    ca = ca_of(tmp_path, table)
    ca.approve(ROOT, WEB, Grade.L2)
    asked = [ASKED, replace(ASKED, grade=Grade.KEY), replace(ASKED, csr_der=b"x"), ASKED]
    first, above, garbage, last = ca.sign_each(DAEMON, asked)
    assert isinstance(above, Denied)
    assert isinstance(garbage, InvalidInput)
    assert isinstance(first, Signed)
    assert isinstance(last, Signed)
    assert first.serial != last.serial
    assert (ca.counters["signed"], ca.counters["refused_sign"]) == (2, 2)
    said = [entry.what for entry in table.audit_entries(5)]
    assert said == ["sign", "refused sign", "refused sign", "sign", "approve"]
    assert table.live(NOW, but="") == 2


@pytest.mark.parametrize("peer", [ROOT, STRANGER])
def test_nobody_else_has_many_signed(tmp_path: Path, table: Table, peer: Peer) -> None:
    ca = ca_of(tmp_path, table)
    ca.approve(ROOT, WEB, Grade.L2)
    with pytest.raises(Denied, match="the daemon does that"):
        ca.sign_each(peer, [ASKED])
    assert table.live(NOW, but="") == 0


def test_each_counts_against_the_limit(tmp_path: Path, table: Table) -> None:
    ca = ca_of(tmp_path, table, rate=Rate(burst=3, per_second=0))
    ca.approve(ROOT, WEB, Grade.L2)
    answers = ca.sign_each(DAEMON, [ASKED] * 5)
    assert [isinstance(answer, LimitReached) for answer in answers] == [False] * 3 + [True] * 2
    with pytest.raises(InvalidInput, match="at once"):
        ca.sign_each(DAEMON, [ASKED] * (SIGN_TOGETHER_MAX + 1))


def test_approvals_are_all_or_none(tmp_path: Path, table: Table) -> None:
    ca = ca_of(tmp_path, table)
    with pytest.raises(InvalidInput):
        ca.approve_each(ROOT, [(WEB, Grade.L2), ("spiffe://b.example/ns/a/sa/b", Grade.L2)])
    assert table.approvals() == ()
    assert (ca.counters["approved"], table.audit_entries(9)) == (0, ())
    with pytest.raises(Denied, match="may not approve"):
        ca.approve_each(DAEMON, [(WEB, Grade.L2)])
    with pytest.raises(InvalidInput, match="at once"):
        ca.approve_each(ROOT, [(WEB, Grade.L2)] * (APPROVE_TOGETHER_MAX + 1))
    ca.approve_each(ROOT, [(WEB, Grade.L2), (WEB + "2", Grade.L2)])
    assert [each.spiffe_id for each in table.approvals()] == [WEB, WEB + "2"]
    assert ca.counters["approved"] == 2


def test_each_change_is_on_the_disk_and_many_are_one_write(tmp_path: Path, table: Table) -> None:
    """FULL: a commit is synced. So there is one for a whole batch, and one with its audit."""
    assert table._db.execute("PRAGMA synchronous").fetchone() == (2,)
    ca = ca_of(tmp_path, table)
    done: list[str] = []
    table._db.set_trace_callback(done.append)

    def writes() -> int:
        begun = done.count("BEGIN IMMEDIATE")
        assert begun == done.count("COMMIT")
        inside = False
        for statement in done:
            inside = statement == "BEGIN IMMEDIATE" or (inside and statement != "COMMIT")
            assert inside or statement.startswith(("COMMIT", "SELECT")), statement
        done.clear()
        return begun

    ca.approve_each(ROOT, [(f"{WEB}{n}", Grade.L2) for n in range(APPROVE_TOGETHER_MAX)])
    assert writes() == 1
    ca.approve(ROOT, WEB, Grade.L2)
    assert writes() == 1
    ca.sign_each(DAEMON, [ASKED] * 3)
    assert writes() == 1
    ca.sign(DAEMON, CSR, WEB, Grade.L2, 60)
    assert writes() == 1
    ca.withdraw(ROOT, WEB)
    assert writes() == 1


async def test_more_than_one_call_takes(tmp_path: Path, table: Table) -> None:
    """Through the socket, as the daemon and as an admin."""
    table.close()
    path = tmp_path / "run"
    path.mkdir()
    here = Table(tmp_path / "served.db")
    ids = [f"{WEB}{number}" for number in range(APPROVE_TOGETHER_MAX + 1)]
    me = os.getuid()
    admin = Roles(daemon_uid=me + 1, admin_gid=os.getgid())
    async with serve(ca_of(tmp_path, here, admin), path / "ca.sock"):
        async with CaClient(path / "ca.sock") as client:
            await client.approve_each(ids, Grade.L2)
            assert len(await client.approvals()) == len(ids)
            with pytest.raises(Denied):
                await client.sign_each([ASKED])
    daemon = Roles(daemon_uid=me, admin_gid=2**31)
    async with serve(ca_of(tmp_path, here, daemon), path / "ca.sock"):
        async with CaClient(path / "ca.sock") as client:
            asked = [replace(ASKED, spiffe_id=each) for each in (*ids[:SIGN_TOGETHER_MAX], WEB)]
            *good, bad = await client.sign_each(asked)
            assert len({each.serial for each in good if isinstance(each, Signed)}) == len(good)
            assert isinstance(bad, Denied)
            assert "not approved" in str(bad)
            with pytest.raises(Denied, match="may not approve"):
                await client.approve_each(ids, Grade.L2)
    here.close()
