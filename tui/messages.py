"""What the feed tells the app, as messages. Owns the types; a newer one replaces an older one that
has not been handled yet, so that a burst costs one redraw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from appliance.api.client import pb


class _Newest(Message):
    """Only the newest of its kind matters."""

    def can_replace(self, message: Message) -> bool:
        return type(message) is type(self)


@dataclass
class StatusArrived(_Newest):
    status: pb.Status


@dataclass
class FlowsArrived(Message):
    """Flows that began, moved or ended; each one counts, so none is replaced."""

    flows: list[pb.Flow]
    dropped: int


@dataclass
class HostsArrived(_Newest):
    hosts: list[pb.Host]


@dataclass
class FeedLost(_Newest):
    """The daemon does not answer; the feed goes on trying."""

    reason: str
