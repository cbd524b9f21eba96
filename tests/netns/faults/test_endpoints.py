"""An endpoint dies, says that it is ill, or is full: others serve, and it comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.demo.commands import until
from tests.netns.faults.pair import PORT, Client, Pair

HEALTH_PORT = 7001
EJECT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: default}
spec:
  host: echo
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 5s, maxEjectionPercent: 100}
"""
CHECK = f"""
apiVersion: sluice.dev/v1
kind: Service
metadata: {{name: echo, namespace: default}}
spec:
  ports: [{{port: {PORT}}}]
  health: {{kind: KIND, interval: 200ms, timeout: 2s, unhealthyAfter: 2MORE}}
"""
LIMIT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: solo, namespace: default}
spec:
  host: solo
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 20}}
"""


def endpoint(pair: Pair, host: str) -> tuple[bool, bool]:
    """Whether b's echo at the host is healthy, and ejected."""
    known = pair.ask(pair.b, lambda client: client.services())
    (found,) = (
        each
        for service in known
        if service.name == "echo" and service.origin != "site-a"
        for each in service.endpoints
        if each.name == host
    )
    return found.healthy, found.ejected


def answers(pair: Pair, count: int = 6) -> set[str]:
    return {pair.who("echo") for _ in range(count)}


def test_a_dead_endpoint_is_put_aside_and_comes_back(pair: Pair) -> None:
    """No client notices: what was refused is tried on the other one."""
    pair.apply(pair.b, EJECT)
    ejected = pair.counter(pair.b, "ejections")
    pair.silence("b1")
    try:
        assert answers(pair) == {"b2"}
        until(
            "b1 being put aside",
            lambda: pair.who("echo") == "b2" and endpoint(pair, "b1") == (True, True),
        )
        until("the count", lambda: pair.counter(pair.b, "ejections") > ejected)
    finally:
        pair.serve("b1")
    until("b1 answering again", lambda: pair.who("echo") == "b1")
    until("b1 not being put aside", lambda: endpoint(pair, "b1") == (True, False))
    pair.apply(pair.b)


@pytest.mark.parametrize("kind", ["tcp", "http", "grpc"])
def test_a_health_check_takes_an_endpoint_out_and_back(
    pair: Pair, kind: str, tmp_path: Path
) -> None:
    well = {host: tmp_path / host for host in ("b1", "b2")}
    helpers: list[Client] = []
    if kind != "tcp":  # a port of its own that says how the host is
        for host, file in well.items():
            file.touch()
            helpers.append(pair.helper(host, "health", kind, str(HEALTH_PORT), str(file)))
    try:
        port = "" if kind == "tcp" else f", port: {HEALTH_PORT}"
        pair.apply(pair.b, CHECK.replace("KIND", kind).replace("MORE", port))
        until("both answering", lambda: answers(pair, 8) == {"b1", "b2"})
        if kind == "tcp":
            pair.silence("b1")
        else:
            well["b1"].unlink()
        until("b1 being taken out", lambda: endpoint(pair, "b1")[0] is False)
        assert answers(pair) == {"b2"}
        if kind == "tcp":
            pair.serve("b1")
        else:
            well["b1"].touch()
        until("b1 being healthy", lambda: endpoint(pair, "b1")[0] is True)
        until("b1 answering again", lambda: pair.who("echo") == "b1")
    finally:  # the check first: without its port it would take the endpoints out
        pair.apply(pair.b)
        for helper in helpers:
            helper.stop()


def test_a_full_service_refuses_and_counts_the_rest(pair: Pair) -> None:
    pair.apply(pair.a, LIMIT)
    refused = pair.counter(pair.a, "reason_limit")
    held = pair.client("hold", "solo", "30")
    assert "held 20" in held.lines()
    until("the count", lambda: pair.counter(pair.a, "reason_limit") == refused + 10)
    assert pair.who("solo") != "a2"
    assert held.end() == {"held": 20, "alive": 20}
    until("a2 answering again", lambda: pair.who("solo") == "a2")
    pair.apply(pair.a)
