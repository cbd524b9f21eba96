"""The disk of the box is full: nothing is half done, serving goes on, and it recovers by itself."""

from __future__ import annotations

from appliance.demo.commands import until
from tests.netns.faults.pair import Pair

ECHO = {"b1", "b2"}
# More than what is kept now takes: it cannot be kept in the same room.
LIMIT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: limit, namespace: default}
spec:
  host: solo
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 77}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec:
  selector: {matchLabels: {app: a2}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: many, namespace: default}
spec:
  action: DENY
  rules:
  - from:
    - source: {principals: [PRINCIPALS]}
""".replace("PRINCIPALS", ", ".join(f'"c.example/ns/default/sa/{n:060}"' for n in range(500)))


def test_the_daemons_full_disk_refuses_changes_in_one_line(pair: Pair) -> None:
    before = pair.status(pair.a)
    long = pair.client("long", "echo")
    with pair.disk_full(pair.a.paths.daemon_state):
        code, _, told = pair.sluice(pair.a, "apply", "-f", "-", given=LIMIT)
        assert code == 7, told
        assert told.startswith("sluice: the disk that holds ")
        assert told.count("\n") == 1, told
        code, _, told = pair.sluice(pair.a, "host", "add", "late", "--address", "198.18.0.99")
        assert code == 7, told
        now = pair.status(pair.a)
        assert now.revision == before.revision
        assert not pair.ask(pair.a, lambda client: client.documents())
        assert "late" not in {host.name for host in pair.ask(pair.a, lambda c: c.hosts())}
        assert pair.who("solo") == "a2"
        assert pair.who("echo") in ECHO
        long.more()
    pair.apply(pair.a, LIMIT)
    assert pair.who("solo") != "a2"
    pair.apply(pair.a)
    assert pair.who("solo") == "a2"
    assert long.end()["intact"]


def test_an_interface_that_appears_while_the_disk_is_full_ends_no_daemon(pair: Pair) -> None:
    daemon, said = pair.pid(pair.a, "daemon"), pair.a.log.stat().st_size
    with pair.disk_full(pair.a.paths.daemon_state), pair.another_interface(pair.a):
        until("the line", lambda: pair.logged(pair.a, "the interfaces are not noted", said))
        assert pair.who("echo") in ECHO
        assert pair.pid(pair.a, "daemon") == daemon


def test_a_daemon_that_starts_on_a_full_disk_serves_what_it_had(pair: Pair) -> None:
    with pair.disk_full(pair.a.paths.daemon_state):
        pair.wait_serving(pair.a, "daemon", pair.kill(pair.a, "daemon"))
        assert {"a1", "a2"} <= {host.name for host in pair.ask(pair.a, lambda c: c.hosts())}
        assert pair.who("echo") in ECHO
    until("it publishing again", lambda: pair.status(pair.a).applied > 0)


def test_the_data_planes_full_disk_is_counted_and_the_last_good_snapshot_stays(pair: Pair) -> None:
    failed = pair.counter(pair.a, "slots_failed")
    with pair.disk_full(pair.a.paths.dataplane_state):
        pair.apply(pair.a, LIMIT)  # it runs, only it is not kept
        assert pair.who("solo") != "a2"
        until("the count", lambda: pair.counter(pair.a, "slots_failed") > failed)
        until("the warning", lambda: warned(pair))
        pair.crash(pair.a, "from disk")
        assert pair.who("echo") in ECHO
    written = pair.counter(pair.a, "slots_written")
    pair.apply(pair.a)
    until("it being kept", lambda: pair.counter(pair.a, "slots_written") > written)
    until("no warning", lambda: not warned(pair))


def test_a_revert_that_a_full_disk_stops_comes_when_there_is_room(pair: Pair) -> None:
    said = pair.a.log.stat().st_size
    pair.apply(pair.a, LIMIT, confirm_s=15)  # time for the disk to fill
    with pair.disk_full(pair.a.paths.daemon_state):
        until("the try", lambda: pair.logged(pair.a, "does not revert yet", said), 60)
        assert pair.status(pair.a).pending.revision
        assert pair.who("solo") != "a2"
        assert pair.who("echo") in ECHO
    until("the revert", lambda: not pair.ask(pair.a, lambda client: client.documents()))
    until("a2 answering again", lambda: pair.who("solo") == "a2")


def warned(pair: Pair) -> bool:
    return any("keep its snapshot on disk" in text for text in pair.status(pair.a).warnings)
