"""A client that answers from memory: what the console is tested against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from appliance.api.channel import Closing
from appliance.api.client import pb
from appliance.errors import InvalidInput, Unavailable

TD = "a.example"


def a_status(**changes: object) -> pb.Status:
    status = pb.Status(
        site="site-a",
        trust_domain=TD,
        appliance="edge1",
        revision=7,
        published=12,
        applied=12,
        hosts=2,
        services=3,
        peers=1,
        peers_connected=1,
        streams=4,
        throughput=pb.Throughput(bytes_up=2048, bytes_down=3 << 20, opened=5),
        processes=[
            pb.Process(name="daemon", state="running", pid=11),
            pb.Process(name="ca", state="running", pid=12),
            pb.Process(name="dataplane", state="serving", pid=13, detail="generation 1"),
        ],
        layers=[
            pb.LegCount(name="openssl"),
            pb.LegCount(name="user", legs=5),
            pb.LegCount(name="ktls", legs=2),
            pb.LegCount(name="nic", legs=1),
        ],
        reasons=[
            pb.LegCount(name="none", legs=4),
            pb.LegCount(name="small", legs=3),
            pb.LegCount(name="link_changed", legs=1),
        ],
    )
    status.MergeFrom(pb.Status(**changes))  # type: ignore[arg-type]
    return status


def some_flows() -> list[pb.Flow]:
    web, batch = f"spiffe://{TD}/ns/default/sa/web", f"spiffe://{TD}/ns/default/sa/batch"
    return [
        pb.Flow(
            flow_id="01",
            state="open",
            kind="outbound",
            source=web,
            destination="spiffe://b.example/ns/default/sa/payments",
            service="payments.default",
            grade="l2",
            down_layer="splice",
            up_layer="ktls",
            tls_version="TLSv1.3",
            cipher="TLS_AES_128_GCM_SHA256",
            bytes_up=1500,
            bytes_down=64 << 20,
            connect_ms=3.2,
            fallback="link_changed",
        ),
        pb.Flow(
            flow_id="02",
            state="refused",
            kind="outbound",
            source=batch,
            service="payments.default",
            grade="l3",
            down_layer="plain",
            up_layer="openssl",
            reason="denied",
            detail="AuthorizationPolicy default/payments rule 0",
        ),
    ]


def some_hosts() -> list[pb.Host]:
    return [
        pb.Host(
            name="web1",
            state="active",
            spiffe_id=f"spiffe://{TD}/ns/default/sa/web",
            grade="l2",
            addresses=["198.18.0.11"],
            services=["web:80"],
        ),
        pb.Host(
            name="db1", state="pending", spiffe_id=f"spiffe://{TD}/ns/default/sa/db", grade="key"
        ),
    ]


class FakeClient(Closing):
    """lost: the daemon does not answer. rule: what the refused flow's detail is instead. Requests
    are kept in `asked`."""

    def __init__(self, *, lost: bool = False, refuse: str = "", rule: str = "") -> None:
        self.lost = lost
        self.rule = rule
        self.refuse = refuse
        self.asked: list[pb.AddHostRequest] = []
        self.closed = asyncio.Event()

    def _answer(self) -> None:
        if self.lost:
            raise Unavailable("the daemon does not answer at /run/x: is `sluice up` running?")

    async def hosts(self) -> list[pb.Host]:
        self._answer()
        return some_hosts()

    async def flows(self) -> pb.FlowList:
        self._answer()
        found = some_flows()
        for flow in found:
            if flow.state == "refused" and self.rule:
                flow.detail = self.rule
        return pb.FlowList(flows=found, dropped_events=0)

    async def watch(self, **what: object) -> AsyncIterator[pb.Update]:
        self._answer()
        yield pb.Update(status=a_status())
        await self.closed.wait()

    async def add_host(self, request: pb.AddHostRequest) -> pb.AddHostReply:
        self.asked.append(request)
        if self.refuse:
            raise InvalidInput(self.refuse)
        host = pb.Host(name=request.name, state="pending" if request.agent else "active")
        if request.agent:
            return pb.AddHostReply(
                host=host,
                code="ABCD-EFGH-JKLM",
                join_line="curl -fsSk https://198.18.0.1:15012/agent -o /tmp/sluice-agent",
            )
        return pb.AddHostReply(host=host, route_linux="ip route add 198.19.0.0/16 via 198.18.0.1")
