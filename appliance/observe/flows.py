"""Streams as the data plane reports them: a bounded table of open and recent ones.

Owns the table and telling those who watch; asks nothing of the data plane.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dataplane.events import EventKind, FlowEvent

OPEN_MAX = 20_000
ENDED_MAX = 5_000

OPEN, CLOSED, REFUSED = "open", "closed", "refused"
_STATES = {
    EventKind.OPEN: OPEN,
    EventKind.UPDATE: OPEN,
    EventKind.CLOSE: CLOSED,
    EventKind.REFUSED: REFUSED,
}


@dataclass(frozen=True, slots=True)
class Flow:
    state: str
    event: FlowEvent  # the last one of it


Key = tuple[str, int, str]  # process, worker, flow id


class Flows:
    """The newest OPEN_MAX open ones and ENDED_MAX ended ones; what falls out is counted.

    Flow ids are the source's to choose: one that uses an id again takes nothing off the record.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Key, FlowEvent] = OrderedDict()
        self._ended: deque[Flow] = deque(maxlen=ENDED_MAX)
        self._ejected: dict[tuple[str, str, int], str] = {}  # service, address, port
        self._watchers: list[Callable[[Flow], None]] = []
        self.forgotten = 0  # open ones that the table had no room for

    def __len__(self) -> int:
        return len(self._open)

    def watch(self, watcher: Callable[[Flow], None]) -> Callable[[], None]:
        """watcher gets each change; returns how to stop that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def take(self, event: FlowEvent) -> None:
        state = _STATES.get(event.kind)
        if state is None:
            self._eject(event)
            return
        key = event.process, event.worker, event.flow_id
        flow = Flow(state, event)
        if state == OPEN:
            self._open[key] = event
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)
                self.forgotten += 1
        else:
            self._open.pop(key, None)
            self._ended.append(flow)
        for watcher in self._watchers:
            watcher(flow)

    def process_down(self, process: str) -> None:
        """Its streams are gone; how they ended is not known."""
        for key in [key for key in self._open if key[0] == process]:
            self._ended.append(Flow(CLOSED, self._open.pop(key)))
        self._ejected = {place: by for place, by in self._ejected.items() if by != process}

    def ejected(self, service: str, address: str, port: int) -> bool:
        return (service, address, port) in self._ejected

    def select(self, service: str = "", state: str = "", limit: int = 200) -> list[Flow]:
        """Newest first; service: its key or its name alone."""
        found: list[Flow] = []
        for flow in self._newest(state):
            if service and service not in (flow.event.service, flow.event.service.split(".")[0]):
                continue
            found.append(flow)
            if len(found) >= limit:
                break
        return sorted(found, key=lambda each: each.event.time_ns, reverse=True)

    def open_from(self, identity: str, addresses: frozenset[str]) -> int:
        """Open streams of a source."""
        return sum(
            event.src_id == identity and (not addresses or str(event.src) in addresses)
            for event in self._open.values()
        )

    def _newest(self, state: str) -> Iterator[Flow]:
        if state in ("", OPEN):
            for event in reversed(self._open.values()):
                yield Flow(OPEN, event)
        if state != OPEN:
            for flow in reversed(self._ended):
                if state in ("", flow.state):
                    yield flow

    def _eject(self, event: FlowEvent) -> None:
        place = event.service, str(event.peer), event.peer_port
        if event.kind is EventKind.EJECTED:
            self._ejected[place] = event.process
        else:
            self._ejected.pop(place, None)
