"""The daemon dies in the middle of a change, or while one waits to be confirmed."""

from __future__ import annotations

import os
import random
import secrets
import signal
import threading
import time

from appliance.demo.commands import until
from appliance.errors import ApplianceError
from tests.netns.faults.pair import Pair

ROUNDS = 6
ECHO = {"b1", "b2"}

# One change: both documents say the same number; the DENY decides whether a1 reaches `solo`.
CHANGE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: numbered, namespace: default}}
spec:
  host: solo
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: {number}}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: numbered, namespace: default}}
spec:
  action: DENY
  rules:
  - from:
    - source: {{principals: ["a.example/ns/default/sa/{who}"]}}
    to:
    - operation: {{ports: ["{number}"]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: solo, namespace: default}}
spec:
  selector: {{matchLabels: {{app: a2}}}}
  action: DENY
  rules:
  - from:
    - source: {{principals: ["a.example/ns/default/sa/{who}"]}}
"""


def change(number: int) -> str:
    """An even number lets a1 through, an odd one does not."""
    return CHANGE.format(number=number, who="a1" if number % 2 else "nobody")


def numbers(pair: Pair) -> list[int]:
    """What the documents in force say, each."""
    documents = pair.ask(pair.a, lambda client: client.documents(name="numbered"))
    return [
        number
        for document in documents
        for number in range(1000, 1000 + ROUNDS + 1)
        if str(number) in document.yaml
    ]


def daemon_is_back(pair: Pair) -> bool:
    try:
        status = pair.status(pair.a)
    except ApplianceError:
        return False
    return bool(status.applied == status.published > 0)


def test_a_daemon_killed_in_the_middle_of_an_apply_leaves_the_old_or_the_new(pair: Pair) -> None:
    seed = int(os.environ.get("SEED", secrets.randbits(32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    pair.apply(pair.a, change(1000))
    began = time.monotonic()
    pair.apply(pair.a, change(1001))
    whole_s = time.monotonic() - began
    pair.apply(pair.a, change(1000))
    now, seen = 1000, {"old": 0, "new": 0}
    for number in range(1001, 1001 + ROUNDS):
        pid = pair.pid(pair.a, "daemon")
        killer = threading.Timer(chance.uniform(0, whole_s * 1.2), os.kill, (pid, signal.SIGKILL))
        killer.start()
        answered, problem = False, "daemon"
        try:
            pair.apply(pair.a, change(number))
            answered = True
        except ApplianceError as error:
            problem = str(error)
        assert "daemon" in problem
        killer.join()
        pair.wait_serving(pair.a, "daemon", pid)
        until("the daemon publishing", lambda: daemon_is_back(pair))
        found = numbers(pair)
        assert found in ([now] * 2, [number] * 2), (found, now, number)
        assert not answered or found == [number] * 2  # what was answered holds
        seen["old" if found[0] == now else "new"] += 1
        now = found[0]
        assert (pair.who("solo") == "a2") == (now % 2 == 0), now
        history = pair.ask(pair.a, lambda client: client.history())
        assert not [each for each in history if each.state == "publishing"]
    print(seen)
    pair.apply(pair.a)


def test_an_unconfirmed_change_reverts_although_the_daemon_is_down_at_its_deadline(
    pair: Pair,
) -> None:
    before = pair.apply(pair.a, change(1000)).revision
    reply = pair.apply(pair.a, change(1001), confirm_s=25)  # time for a daemon to fail to start
    with pair.down(pair.a, "daemon"):
        assert time.time() < reply.confirm_deadline
        until("the deadline", lambda: time.time() > reply.confirm_deadline, 60)
        assert pair.who("solo") != "a2"  # nobody is there to revert it yet
    until("the revert", lambda: daemon_is_back(pair) and pair.status(pair.a).revision == before)
    assert numbers(pair) == [1000, 1000]
    assert pair.who("solo") == "a2"
    states = {each.revision: each.state for each in pair.ask(pair.a, lambda c: c.history())}
    assert states[reply.revision] == "reverted"
    pair.apply(pair.a)


def test_a_change_still_waits_after_the_daemon_was_killed_and_can_be_confirmed(
    pair: Pair,
) -> None:
    pair.apply(pair.a, change(1000))
    reply = pair.apply(pair.a, change(1001), confirm_s=120)
    pair.wait_serving(pair.a, "daemon", pair.kill(pair.a, "daemon"))
    until("the daemon publishing", lambda: daemon_is_back(pair))
    assert pair.status(pair.a).pending.revision == reply.revision
    assert pair.status(pair.a).pending.deadline == reply.confirm_deadline
    code, _, told = pair.sluice(pair.a, "apply", "-f", "-", given=change(1002))
    assert code == 4
    assert "waits to be confirmed" in told
    pair.ask(pair.a, lambda client: client.confirm())
    assert pair.status(pair.a).revision == reply.revision
    assert pair.who("solo") != "a2"
    pair.apply(pair.a)


def test_an_unconfirmed_change_reverts_in_the_data_plane_too(pair: Pair) -> None:
    """With the daemon up, and a data plane that was replaced meanwhile."""
    pair.apply(pair.a, change(1000))
    pair.apply(pair.a, change(1001), confirm_s=25)  # time for a data plane to start
    pair.supervisor(pair.a, "restart-dataplane")
    assert pair.who("solo") != "a2"
    until("the revert", lambda: numbers(pair) == [1000, 1000], 60)
    until("a2 answering again", lambda: pair.who("solo") == "a2")
    assert pair.who("echo") in ECHO
    pair.apply(pair.a)
