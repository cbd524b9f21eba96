"""What a site and an agent leave behind when they stop: nothing, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from appliance.demo.topology import Topology
from tests.netns.helpers import Answerer, run, sh, traces
from tests.netns.mesh import Mesh

FOREIGN = """\
add table inet mine; add chain inet mine in { type filter hook input priority 0; };
add rule inet mine in tcp dport 22 counter accept comment "mine";
add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }
"""


@pytest.fixture
def lone(topology: Topology) -> Iterator[Mesh]:
    """Site a alone, not started, with tables and rules of others in its namespaces."""
    with closing(Mesh(topology)) as made:
        for namespace in (made.a.namespace, made.a.hosts["a3"].namespace):
            sh("ip", "netns", "exec", namespace, "nft", FOREIGN)
            sh("ip", "-n", namespace, "rule", "add", "fwmark", "0x77", "lookup", "77")
        yield made


def test_a_site_and_an_agent_take_all_of_theirs_away(lone: Mesh) -> None:
    site, a1, a3 = lone.a, lone.a.hosts["a1"], lone.a.hosts["a3"]
    box, host = traces(site.namespace), traces(a3.namespace)
    site.start()
    lone.add(site, "web", a1, mac=True)
    agent = lone.join(site, "orders", a3)
    with Answerer(a1.namespace, "web", 8080):
        assert lone.ask("a3", "web", 8080).startswith("web")
    assert traces(site.namespace) != box
    assert traces(a3.namespace) != host

    lone.commands.end(agent)
    assert traces(a3.namespace) == host
    state = lone.agent_state(site, a3)
    left = run(
        a3.command("/usr/bin/python3", str(lone.agent_file(site, a3)), "leave",
                   "--state", str(state))
    )  # fmt: skip
    assert left.returncode == 0, left.stderr
    assert not state.exists()
    assert traces(a3.namespace) == host

    assert site.stop() == 0
    assert traces(site.namespace) == box
    # And once more: what is kept on disk brings the same things up, and down.
    site.start()
    assert traces(site.namespace) != box
    with Answerer(a1.namespace, "web", 8080):
        assert lone.ask("a1", "web", 8080).startswith("web")
    assert site.stop() == 0
    assert traces(site.namespace) == box
