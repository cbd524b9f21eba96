"""links: the kernel's own news of an interface that was switched off for a moment."""

from __future__ import annotations

import subprocess
import sys

_FLAP = """
import asyncio, subprocess
from appliance.system import links

async def main():
    subprocess.run("ip link add v0 type veth peer name v1; ip link set v1 up; ip link set v0 up",
                   shell=True, check=True)
    index = next(each.index for each in await links.links() if each.name == "v0")
    losses = {each.name: each.losses for each in await links.links()}
    news = links.changes()
    assert (await anext(news)).missed
    subprocess.run("ip link set v0 down; ip link set v0 up", shell=True, check=True)
    async with asyncio.timeout(20):
        while index not in (await anext(news)).lost:
            pass
    assert {e.name: e.losses for e in await links.links()}["v0"] > losses["v0"]
    async with asyncio.timeout(20):
        subprocess.run(("ip", "link", "del", "v0"), check=True)
        while index not in (await anext(news)).lost:
            pass
asyncio.run(main())
"""


def test_a_moment_is_enough() -> None:
    done = subprocess.run(
        ("unshare", "--net", sys.executable, "-c", _FLAP), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
