"""The one stream from the daemon: watches, posts messages, connects again. Holds no state of the
screens and touches no widget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual.message import Message

from appliance.api.client import AdminClient, ApplianceError
from tui.messages import FeedLost, FlowsArrived, HostsArrived, StatusArrived

RETRY_S = 2.0

Post = Callable[[Message], Any]


async def run_feed(connect: Callable[[], AdminClient], post: Post, interval_ms: int) -> None:
    """Runs until cancelled. Hosts are read again whenever their number changes."""
    while True:
        try:
            async with connect() as client:
                await _follow(client, post, interval_ms)
            post(FeedLost("the daemon ended the stream"))
        except ApplianceError as error:
            post(FeedLost(str(error)))
        await asyncio.sleep(RETRY_S)


async def _follow(client: AdminClient, post: Post, interval_ms: int) -> None:
    hosts = -1
    snapshot = await client.flows()  # newest first; what happens later comes oldest first
    post(FlowsArrived(list(reversed(snapshot.flows)), snapshot.dropped_events))
    async for update in client.watch(status=True, flows=True, interval_ms=interval_ms):
        if update.HasField("status"):
            post(StatusArrived(update.status))
            if update.status.hosts != hosts:
                hosts = update.status.hosts
                post(HostsArrived(list(await client.hosts())))
        elif update.HasField("flows"):
            post(FlowsArrived(list(update.flows.flows), update.flows.dropped_events))
