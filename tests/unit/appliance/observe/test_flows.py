"""appliance.observe.flows: what is open, what ended, and no more than fits."""

from __future__ import annotations

import pytest

from appliance.observe import flows as module
from appliance.observe.flows import CLOSED, OPEN, REFUSED, Flow, Flows
from dataplane.events import EventKind
from tests.unit.appliance.observe.events import event


def states(flows: Flows, **choice: object) -> dict[str, str]:
    return {f.event.flow_id: f.state for f in flows.select(**choice)}  # type: ignore[arg-type]


def test_a_stream_opens_is_updated_and_closes() -> None:
    flows, seen = Flows(), list[Flow]()
    stop = flows.watch(seen.append)
    flows.take(event(flow_id="a"))
    flows.take(event(flow_id="a", kind=EventKind.UPDATE, bytes_up=7))
    assert (states(flows), len(flows)) == ({"a": OPEN}, 1)
    flows.take(event(flow_id="a", kind=EventKind.CLOSE, bytes_up=9))
    flows.take(event(flow_id="b", kind=EventKind.REFUSED))
    assert states(flows) == {"a": CLOSED, "b": REFUSED}
    assert states(flows, state=CLOSED) == {"a": CLOSED}
    assert [f.event.bytes_up for f in seen] == [0, 7, 9, 0]
    stop()
    flows.take(event(flow_id="c"))
    assert len(seen) == 4


def test_both_ends_of_a_link_in_two_processes_are_two_flows() -> None:
    flows = Flows()
    flows.take(event(flow_id="a", process="dp-1"))
    flows.take(event(flow_id="a", process="dp-2"))
    assert len(flows) == 2
    flows.process_down("dp-1")
    assert (len(flows), states(flows, state=CLOSED)) == (1, {"a": CLOSED})


def test_an_id_that_is_used_again_takes_nothing_off_the_record() -> None:
    flows = Flows()
    flows.take(event(flow_id="a", kind=EventKind.REFUSED, service="secrets.default"))
    for worker in (0, 1):
        flows.take(event(flow_id="a", worker=worker, service="web.default"))
    assert len(flows) == 2
    for worker in (1, 0):
        kind = EventKind.CLOSE
        flows.take(event(flow_id="a", worker=worker, kind=kind, service="web.default"))
    kept = sorted((f.event.service, f.state) for f in flows.select())
    closed = ("web.default", CLOSED)
    assert kept == [("secrets.default", REFUSED), closed, closed]


def test_the_table_is_bounded_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_MAX", 3)
    monkeypatch.setattr(module, "ENDED_MAX", 2)
    flows = Flows()
    for number in range(5):
        flows.take(event(flow_id=f"o{number}"))
        flows.take(event(flow_id=f"r{number}", kind=EventKind.REFUSED))
    assert sorted(states(flows, limit=100)) == ["o2", "o3", "o4", "r3", "r4"]
    assert flows.forgotten == 2
    flows.process_down("dp-1")
    assert len(flows.select(limit=100)) == 2


def test_selection_is_by_service_newest_first_and_limited() -> None:
    flows = Flows()
    for number in range(4):
        service = "db.default" if number % 2 else "web.default"
        flows.take(event(flow_id=str(number), time_ns=number, service=service))
    assert [f.event.flow_id for f in flows.select(service="web")] == ["2", "0"]
    assert [f.event.flow_id for f in flows.select(service="db.default", limit=1)] == ["3"]


def test_ejected_endpoints_are_known_until_they_return() -> None:
    flows = Flows()
    flows.take(event(kind=EventKind.EJECTED))
    assert flows.ejected("web.default", "198.18.0.12", 8080)
    assert not flows.ejected("web.default", "198.18.0.12", 8081)
    flows.take(event(kind=EventKind.RETURNED))
    assert not flows.ejected("web.default", "198.18.0.12", 8080)
    flows.take(event(kind=EventKind.EJECTED))
    flows.process_down("dp-1")
    assert not flows.ejected("web.default", "198.18.0.12", 8080)


def test_streams_of_a_source() -> None:
    flows = Flows()
    flows.take(event(flow_id="a", src_id="spiffe://a/x"))
    flows.take(event(flow_id="b", src_id="spiffe://a/y"))
    assert flows.open_from("spiffe://a/x", frozenset()) == 1
    assert flows.open_from("spiffe://a/x", frozenset({"198.18.0.11"})) == 1
    assert flows.open_from("spiffe://a/x", frozenset({"198.18.0.99"})) == 0
