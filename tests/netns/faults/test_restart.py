"""The data plane is replaced, on purpose, while hosts use it: nobody notices."""

from __future__ import annotations

from appliance.demo.commands import until
from tests.netns.faults.pair import Pair

RESTARTS = 20
HELD = 100


def test_twenty_hot_restarts_refuse_reset_and_lose_nothing(pair: Pair) -> None:
    """Of thousands of connections and hundreds of names asked for; both sites in turn."""
    replaced = {site.name: pair.count(site, "dataplane_replacements") for site in (pair.a, pair.b)}
    load = pair.client("load", "echo", "24")
    for number in range(RESTARTS):
        pair.supervisor((pair.a, pair.b)[number % 2], "restart-dataplane")
    result = load.end()
    counted = result["counted"]
    assert set(counted) <= {"b1", "b2"}, counted  # neither refused, reset, closed nor late
    assert sum(counted.values()) > 1000
    assert result["unresolved"] == 0
    assert result["resolved"] > 100
    for site in (pair.a, pair.b):
        assert pair.count(site, "dataplane_replacements") == replaced[site.name] + RESTARTS // 2


def test_streams_live_on_in_the_process_that_drains(pair: Pair) -> None:
    held = pair.client("hold", "both", str(HELD))
    long = pair.client("long", "echo")
    old = {site.name: pair.pid(site, "dataplane") for site in (pair.a, pair.b)}
    for site in (pair.a, pair.b):
        code, out, err = pair.sluice(site, "restart")
        assert (code, err) == (0, ""), err
        assert "new data plane" in out
        generation = pair.supervisor(site)["generation"]
        assert pair.pid(site, "dataplane") != old[site.name]
        draining = [
            process["pid"]
            for process in pair.supervisor(site)["processes"]
            if process["state"] == "draining"
        ]
        assert old[site.name] in draining
        assert (site.paths.dataplane_run / f"dp-{generation}.sock").exists()
    long.more()
    assert pair.who("solo") == "a2"  # served by the new one
    assert held.end() == {"held": HELD, "alive": HELD}
    assert long.process.poll() is None
    result = long.end()
    assert result["intact"], result
    assert not result["problem"]

    def drained() -> bool:
        return not any(
            process["state"] == "draining"
            for site in (pair.a, pair.b)
            for process in pair.supervisor(site)["processes"]
        )

    until("the old processes ending once their last stream has", drained)


def test_a_publish_reaches_the_process_that_drains(pair: Pair) -> None:
    """A stream's permission may be withdrawn while its process drains."""
    long = pair.client("long", "echo")
    pair.supervisor(pair.b, "restart-dataplane")
    before = long.back()
    pair.apply(pair.b, DENY)
    try:
        assert long.process.wait(30) == 0
        assert long.back() >= before
        assert pair.who("echo") not in ("b1", "b2")
    finally:
        pair.apply(pair.b)
    assert pair.who("echo") in ("b1", "b2")


DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-a1, namespace: default}
spec:
  action: DENY
  rules:
  - from:
    - source: {principals: ["a.example/ns/default/sa/a1"]}
"""
