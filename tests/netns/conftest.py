"""Network namespaces for a test; a machine that cannot make them skips, or fails if expected to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from appliance.demo.topology import Topology


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
