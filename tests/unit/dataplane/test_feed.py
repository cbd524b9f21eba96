"""feed: every watcher sees each report, or its loss is counted; nothing grows without bound."""

from __future__ import annotations

import asyncio

import pytest

from dataplane import feed as module
from dataplane._gen import dataplane_pb2 as pb
from dataplane.feed import Feed, TooManyWatchers

HELLO = pb.Report(hello=pb.Hello(process="dp-1"))


async def collect(feed: Feed) -> list[pb.Report]:
    return [report async for report in feed.watch(HELLO)]


async def test_a_watcher_gets_hello_backlog_and_then_reports_until_close() -> None:
    feed = Feed()
    feed.put_events(b"early")
    task = asyncio.ensure_future(collect(feed))
    await asyncio.sleep(0)
    assert feed.watched
    feed.put_events(b"late")
    feed.close()
    reports = await asyncio.wait_for(task, 60)
    assert reports[0] == HELLO
    assert [report.events for report in reports[1:]] == [b"early", b"late"]
    assert not feed.watched
    assert feed.dropped == 0


async def test_the_backlog_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG_BYTES_MAX", 10)
    feed = Feed()
    for number in range(5):
        feed.put_events(b"%d---" % number)
    assert feed.dropped == 3
    feed.close()
    assert [report.events for report in await collect(feed)][1:] == [b"3---", b"4---"]


async def test_a_slow_watcher_loses_and_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_REPORTS_MAX", 2)
    feed = Feed()
    watcher = feed.watch(HELLO)
    assert await anext(watcher) == HELLO
    for number in range(5):
        feed.put_events(b"%d" % number)
    assert feed.dropped == 3
    feed.close()  # its queue is full: the end shows when it was read empty
    assert [report.events async for report in watcher] == [b"0", b"1"]


async def test_watchers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCHERS_MAX", 1)
    feed = Feed()
    first = feed.watch(HELLO)
    await anext(first)
    with pytest.raises(TooManyWatchers):
        await anext(feed.watch(HELLO))
    await first.aclose()  # type: ignore[attr-defined]
    assert await anext(feed.watch(HELLO)) == HELLO
