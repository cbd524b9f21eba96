"""The link between the sites is cut, with and without a word, and heals."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from appliance.demo.commands import until
from appliance.demo.topology import SiteSpace
from tests.netns.faults.pair import Pair

ECHO = {"b1", "b2"}
STALE_S = 3
CONNECT_S = 2
IMPATIENT = f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: NAME, namespace: default}}
spec:
  host: NAME
  trafficPolicy:
    connectionPool: {{tcp: {{connectTimeout: {CONNECT_S}s}}}}
"""


@contextmanager
def stale_after(pair: Pair, seconds: int) -> Iterator[None]:
    """Both daemons start anew with this spec.peers.staleSeconds."""
    texts = {site.name: site.site_file.read_text() for site in (pair.a, pair.b)}

    def restart(site: SiteSpace) -> None:
        pair.wait_serving(site, "daemon", pair.kill(site, "daemon"))

    for site in (pair.a, pair.b):
        more = f"  peers:\n    staleSeconds: {seconds}\n"
        site.site_file.write_text(texts[site.name].rstrip("\n") + "\n" + more)
        restart(site)
    pair.wait_whole()
    try:
        yield
    finally:
        for site in (pair.a, pair.b):
            site.site_file.write_text(texts[site.name])
            restart(site)


def imported(pair: Pair) -> bool:
    """Whether site a offers site b's echo to its hosts."""
    known = pair.ask(pair.a, lambda client: client.services())
    return any(each.name == "echo" and each.endpoints for each in known)


def cut(pair: Pair, how: str) -> AbstractContextManager[None]:
    return pair.link_down() if how == "down" else pair.link_silent()


@pytest.mark.parametrize("how", ["down", "silent"])
def test_a_short_cut_loses_no_byte(pair: Pair, how: str) -> None:
    long = pair.client("long", "echo")
    long.more()
    with cut(pair, how):
        until("the stream standing still", lambda: stands_still(long.back))
        assert long.process.poll() is None
    long.more()
    result = long.end()
    assert result["intact"], result
    assert not result["problem"]


def stands_still(back: object) -> bool:
    assert callable(back)
    before, until_s = back(), time.monotonic() + 1.0
    while time.monotonic() < until_s:
        if back() != before:
            return False
    return True


def test_new_connections_fail_in_time_or_go_to_the_local_endpoint(pair: Pair) -> None:
    pair.apply(pair.a, *(IMPATIENT.replace("NAME", name) for name in ("echo", "both")))
    failed = pair.counter(pair.a, "reason_connect_timeout")
    with pair.link_silent():
        began = time.monotonic()
        assert pair.who("echo") in {"reset", "closed"}
        assert time.monotonic() - began < 3 * CONNECT_S + 10
        assert pair.who("both") == "a2"
        until("the count", lambda: pair.counter(pair.a, "reason_connect_timeout") > failed)
    # The peer's only way was put aside after its failures: it comes back by itself.
    until("echo answering again", lambda: pair.who("echo") in ECHO, 90)
    pair.apply(pair.a)


def test_a_stale_peers_services_are_withdrawn_and_come_back(pair: Pair) -> None:
    with stale_after(pair, STALE_S):
        assert pair.who("echo") in ECHO
        with pair.link_down():
            until("the peer's services going", lambda: not imported(pair))
            warnings = pair.status(pair.a).warnings
            assert any("site-b is stale" in text for text in warnings), warnings
            assert pair.who("both") == "a2"
            assert pair.who("echo") not in ECHO
        until("the peer's services coming back", lambda: imported(pair), 90)
        until("echo answering again", lambda: pair.who("echo") in ECHO, 90)
    pair.wait_whole(90)


def test_a_long_stream_lives_through_it_all(pair: Pair) -> None:
    """Hot restarts, a daemon's death, publishes, a cut link: not a byte is lost."""
    long = pair.client("long", "echo")
    for site in (pair.a, pair.b):
        pair.supervisor(site, "restart-dataplane")
        long.more()
    daemons = {site.name: pair.kill(site, "daemon") for site in (pair.a, pair.b)}
    long.more()
    with pair.link_silent():
        until("the stream standing still", lambda: stands_still(long.back))
    for site in (pair.a, pair.b):
        pair.wait_serving(site, "daemon", daemons[site.name])
    pair.wait_whole()
    for number in range(10):
        pair.apply(pair.b, IMPATIENT.replace("NAME", "echo") + f"    # {number}\n")
        pair.apply(pair.b)
    pair.supervisor(pair.b, "rotate-tickets")
    long.more()
    result = long.end()
    assert result["intact"], result
    assert not result["problem"]
    assert result["back"] > 4 << 20
