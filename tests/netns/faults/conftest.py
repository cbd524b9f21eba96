"""One pair of sites for all tests of faults; each test leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.demo.topology import Topology
from tests.netns.faults.pair import Pair


@pytest.fixture(scope="package")
def shared_pair() -> Iterator[Pair]:
    topology = Topology()
    for site in topology.sites.values():
        site.settings["dataplane"] = {"workers": 2, "streamsMax": 1024, "drainSeconds": 30}
    with topology:
        pair = Pair(topology)
        try:
            pair.start()
            yield pair
        finally:
            pair.close()


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    yield shared_pair
    shared_pair.wait_whole()
