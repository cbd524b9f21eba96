"""Events of streams for tests."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from dataplane.events import EventKind, Fallback, FlowEvent, FlowKind, Reason, RecordLayer
from dataplane.snapshot import Grade

_EVENT = FlowEvent(
    process="dp-1", kind=EventKind.OPEN, worker=0, time_ns=1_800_000_000_000_000_000, flow_id="00",
    src=ip_address("198.18.0.11"), src_port=40000, dst=ip_address("198.19.0.1"), dst_port=80,
    peer=ip_address("198.18.0.12"), peer_port=8080, flow=FlowKind.LOCAL, grade=Grade.L3,
    down_layer=RecordLayer.PLAIN, up_layer=RecordLayer.SPLICE, down_tls="", up_tls="",
    down_cipher="", up_cipher="", reason=Reason.NONE, down_resumed=False, up_resumed=False,
    down_fallback=Fallback.NONE, up_fallback=Fallback.NONE, retries=0, bytes_up=0, bytes_down=0,
    connect_ns=1_000_000, duration_ns=0, src_id="",
    dst_id="", service="web.default", endpoint="web2", detail="",
)  # fmt: skip


def event(**changes: Any) -> FlowEvent:
    return replace(_EVENT, **changes)
