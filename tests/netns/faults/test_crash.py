"""Processes are killed while hosts use them, and come back or stay away."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca.issue import issue
from appliance.ca.key import load_or_create
from appliance.compile.hosts import leaf_key
from appliance.demo.commands import until
from appliance.demo.topology import SiteSpace
from appliance.enroll.credentials import make_csr
from dataplane import seal, wire
from dataplane.slots import Slots
from dataplane.snapshot import Grade, Leaf
from tests.netns.faults.pair import DEADLINE_S, Pair

ECHO = {"b1", "b2"}


def test_a_killed_data_plane_refuses_nothing(pair: Pair) -> None:
    """What it carried is gone; what comes waits in the sockets' queues, which outlive it."""
    load = pair.client("load", "echo", "8")
    held = pair.client("hold", "both", "20")
    for site in (pair.a, pair.b):
        restarts = pair.count(site, "dataplane_restarts")
        pid = pair.kill(site, "dataplane")
        pair.wait_serving(site, "dataplane", pid)
        assert pair.count(site, "dataplane_restarts") == restarts + 1
        assert pair.who("echo") in ECHO
    result = load.end()
    counted = result["counted"]
    assert set(counted) <= {*ECHO, "reset", "closed"}, counted
    # At most what each of eight workers had open when either process died.
    assert counted.get("reset", 0) + counted.get("closed", 0) <= 16
    assert counted["b1"] + counted["b2"] > 50
    assert result["resolved"] > 0
    assert result["unresolved"] <= 1  # the one that was read by the dead and never answered
    assert held.end() == {"held": 20, "alive": 0}


def test_everything_is_served_while_the_daemon_is_down(pair: Pair) -> None:
    """Also after the data plane died too: from its last snapshot, at both sites."""
    long = pair.client("long", "both")
    with pair.down(pair.a, "daemon"), pair.down(pair.b, "daemon"):
        assert pair.who("echo") in ECHO
        long.more()
        load = pair.client("load", "echo", "4")
        pair.supervisor(pair.a, "restart-dataplane")
        pair.kill(pair.b, "dataplane")
        assert pair.who("echo") in ECHO
        result = load.end()
        assert set(result["counted"]) <= {*ECHO, "reset", "closed"}, result
        assert result["resolved"] > 0
        code, _, told = pair.sluice(pair.a, "status")
        assert code == 6
        assert told.startswith("sluice: the daemon does not answer")
        assert told.count("\n") == 1
    assert long.end()["intact"]


def test_a_damaged_snapshot_gives_way_to_the_one_before(pair: Pair) -> None:
    """And when none is good, connections wait until the daemon brings one."""
    pair.apply(pair.a, COMMENT.format("first"))
    pair.apply(pair.a)  # two whole ones are kept now
    vip = pair.vip(pair.a, "both")
    with pair.down(pair.a, "daemon"):
        newest, before = versions(pair.a)
        for damage in DAMAGE:
            whole = hurt(pair.a, damage, newest)
            assert versions(pair.a) == [before], damage
            pair.crash(pair.a, f"serving snapshot {before} from disk")
            assert pair.who("echo") in ECHO
            whole()
        for version in (newest, before):
            hurt(pair.a, "changed", version)
        assert versions(pair.a) == []
        pair.crash(pair.a, "serves, snapshot 0")
        answer = pair.begin_who(vip)
        until("the connection waiting in the queue", lambda: pair.waiting(pair.a, 15001) > 0)
    assert answer() in {"a2", "b1"}


def test_an_expired_leaf_is_not_used(pair: Pair) -> None:
    """A snapshot kept on disk for long, and a box that comes back without its daemon."""
    a1 = pair.hosts["a1"]
    spiffe_id = "spiffe://a.example/ns/default/sa/a1"
    with pair.down(pair.a, "daemon"), slots(pair.a) as kept:
        newest = next(iter(kept.load()))
        snapshot = wire.decode_snapshot(newest.body)
        (host,) = (each for each in snapshot.hosts if each.address == a1.ipv4)
        assert host.leaf == leaf_key(spiffe_id, Grade.L2)
        old = expired_leaf(pair.a, host.leaf, spiffe_id)
        body = wire.encode_snapshot(
            replace(
                snapshot,
                version=newest.version + 1,
                leaves=tuple(old if each.key == old.key else each for each in snapshot.leaves),
            )
        )
        assert kept.write(newest.version + 1, body, seal.mac(kept._key, "snapshot", body))
        pair.crash(pair.a, f"serving snapshot {newest.version + 1} from disk")
        assert pair.who("echo") not in ECHO
    until("a1 having an identity again", lambda: pair.who("echo") in ECHO)


def test_without_the_ca_all_goes_on_but_enrolment(pair: Pair) -> None:
    long = pair.client("long", "echo")
    with pair.down(pair.a, "ca"):
        began = time.monotonic()
        code, _, told = pair.sluice(pair.a, "host", "add", "late", "--address", "198.18.0.99")
        assert code == 6, told
        assert told.startswith("sluice: the CA does not answer")
        assert told.count("\n") == 1
        assert time.monotonic() - began < DEADLINE_S
        assert "late" not in {host.name for host in pair.ask(pair.a, lambda c: c.hosts())}
        pair.supervisor(pair.a, "restart-dataplane")
        assert pair.who("echo") in ECHO
        pair.apply(pair.a, COMMENT.format("no-new-identity"))
        pair.apply(pair.a)
        long.more()
    code, _, told = pair.sluice(pair.a, "host", "add", "late", "--address", "198.18.0.99")
    assert code == 0, told
    pair.ask(pair.a, lambda client: client.remove_host("late"))
    assert long.end()["intact"]


# -- slots ---------------------------------------------------------------------------------------


def slots(site: SiteSpace) -> Closing:
    key = (site.paths.supervisor_state / "publish.key").read_bytes()
    return Closing(site.paths.dataplane_state, key)


class Closing(Slots):
    def __enter__(self) -> Closing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def versions(site: SiteSpace) -> list[int]:
    """Of the whole snapshots that are kept, newest first."""
    with slots(site) as kept:
        return [each.version for each in kept.load()]


def hurt(site: SiteSpace, damage: str, version: int) -> Callable[[], object]:
    """The slot that has this version; call what is returned to make it whole again."""
    for path in site.paths.dataplane_state.glob("snapshot.*"):
        data = path.read_bytes()
        if int.from_bytes(data[8:16], "little") == version:
            path.write_bytes(DAMAGE[damage](data))
            return lambda: path.write_bytes(data)
    raise AssertionError(f"no slot has version {version}")


def _resealed(data: bytes) -> bytes:
    """Whole, but sealed by somebody who does not have the box's key."""
    head, body = data[:56], data[56 + seal.MAC_BYTES :]
    other = secrets.token_bytes(32)
    head = head[:24] + seal.mac(other, "snapshot", body)
    return head + seal.mac(other, "slot", head) + body


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "changed": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "another's key": _resealed,
}


def expired_leaf(site: SiteSpace, key: str, spiffe_id: str) -> Leaf:
    """Signed by the site's own CA, at the first moment of its life and for the shortest time: its
    certificate is backdated by more."""
    authority = load_or_create(Path(site.paths.ca_state), site.site.trust_domain, int(time.time()))
    then = int(authority.certificate.not_valid_before_utc.timestamp())
    private = ec.generate_private_key(ec.SECP256R1())
    csr = x509.load_der_x509_csr(make_csr(private))
    signed = issue(authority, csr, spiffe_id, Grade.L2, 1, then, secrets.randbits(100))
    assert signed.not_after < time.time()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Leaf(key, spiffe_id, signed.chain_pem, pem.decode())


COMMENT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: note-{}, namespace: default}}
spec:
  host: solo
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 1000}}}}
"""
