"""Network namespaces for a test; a machine that cannot make them skips, or fails if expected to."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator

import pytest

from appliance.demo.topology import Topology
from tests.netns.mesh import STRICT, Mesh


def _cannot() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("nft") is None:
        return "nft is not installed"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _cannot()
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.root)
            if reason and os.environ.get("EXPECT_ROOT") != "1":
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def topology() -> Iterator[Topology]:
    """Two sites' namespaces, links and addresses; no appliance runs yet."""
    with Topology() as built:
        yield built


@pytest.fixture(scope="session")
def running_mesh() -> Iterator[Mesh]:
    with Topology(f"mesh-{secrets.token_hex(3)}") as built:
        made = Mesh(built)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def mesh(running_mesh: Mesh) -> Iterator[Mesh]:
    """Two running sites that are peers, for all tests; their documents are put back."""
    before = {
        name: running_mesh.status(s).revision for name, s in running_mesh.topology.sites.items()
    }
    yield running_mesh
    for name, site in running_mesh.topology.sites.items():
        if running_mesh.status(site).revision != before[name]:
            running_mesh.apply(site, STRICT, replace=True)
