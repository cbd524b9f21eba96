"""From a program on this host to a virtual address: by mTLS to the site's appliance.

Owns one stream's way out: original target, connection, header, reply, bytes. Refusals become a
reset, so that the program fails at once, and one line in the log says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from collections import Counter
from ipaddress import ip_address, ip_network

from appliance.agent import contexts, link
from appliance.agent.intercept import MARK
from appliance.agent.relay import Idle, relay
from appliance.agent.state import State
from appliance.agent.tls import PlainLeg, TlsLeg

log = logging.getLogger(__name__)

CONNECT_S = 5.0
HANDSHAKE_S = 10.0
REPLY_S = 60.0  # the appliance may try several endpoints before it answers
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; the same number for IPv6


class Refusal(Exception):
    """What to count, and a line that says why."""

    def __init__(self, count: str, text: str) -> None:
        super().__init__(text)
        self.count = count


def original_target(client: socket.socket) -> tuple[link.Address, int]:
    """Where the program wanted to go, before nftables redirected it. Raises OSError."""
    if client.family == socket.AF_INET6:
        raw = client.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
        return ip_address(raw[8:24]), struct.unpack("!H", raw[2:4])[0]
    raw = client.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
    return ip_address(raw[4:8]), struct.unpack("!H", raw[2:4])[0]


class Outbound:
    def __init__(self, state: State, context: ssl.SSLContext, counters: Counter[str]) -> None:
        self._counters = counters
        self.target_of = original_target
        self.use(state, context)

    def use(self, state: State, context: ssl.SSLContext) -> None:
        """For streams from now on."""
        self._state, self._context = state, context
        self._vips = tuple(ip_network(vip) for vip in state.vips)

    async def serve(self, client: socket.socket) -> None:
        near = PlainLeg(client)
        try:
            target, port = self.target_of(client)
            if not any(target in network for network in self._vips):
                raise Refusal("not_intercepted", f"{target} port {port} is no virtual address")
            await self._stream(near, client.getpeername()[1], target, port)
        except Refusal as error:
            self._counters[f"out_refused_{error.count}"] += 1
            log.warning("refused: %s", error)
            near.abort()
        except Idle:
            self._counters["out_idle"] += 1
            near.abort()
        except (OSError, link.Malformed) as error:  # ssl.SSLError is an OSError
            self._counters["out_reset"] += 1
            log.info("a stream broke: %s", error)
            near.abort()
        else:
            near.close()

    async def _stream(
        self, near: PlainLeg, source_port: int, target: link.Address, port: int
    ) -> None:
        far, version = await self._connect(f"{target} port {port}")
        try:
            flow_id = os.urandom(link.FLOW_BYTES)
            own = ip_address(far.socket.getsockname()[0].partition("%")[0])
            header = link.Header(own, source_port, target, port, flow_id)
            await far.write(link.encode_header(header))
            self._counters["out_streams"] += 1
            answering = _Answering(far, version, flow_id, f"{target} port {port}")
            up, down = await relay(near, answering)
            self._counters["out_bytes"] += up + down
        except BaseException:
            far.abort()
            raise
        far.close()

    async def _connect(self, what: str) -> tuple[TlsLeg, int]:
        """To the first of the appliance's addresses that answers. Raises Refusal."""
        problem = "the appliance's address is not known"
        for address, port in self._state.mesh:
            try:
                sock = await asyncio.wait_for(_connected(address, port), CONNECT_S)
            except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 - two until 3.11
                problem = f"{address} port {port}: {error or 'no answer'}"
                continue
            leg = TlsLeg(sock, self._context, server_side=False)
            try:
                await asyncio.wait_for(leg.handshake(), HANDSHAKE_S)
                contexts.check_appliance(leg.tls, self._state)
                return leg, contexts.link_version(leg.tls)
            except (OSError, asyncio.TimeoutError, contexts.Stranger) as error:  # noqa: UP041
                leg.abort()
                problem = f"{address} port {port}: {error or 'no handshake in time'}"
            except BaseException:
                leg.abort()
                raise
        raise Refusal("no_appliance", f"{what}: no appliance: {problem}")


async def _connected(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        except PermissionError:
            pass  # not root: then nothing of ours intercepts either
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class _Answering:
    """The appliance's leg, whose first bytes are its answer: a refusal raises Refusal."""

    def __init__(self, leg: TlsLeg, version: int, flow_id: bytes, what: str) -> None:
        self._leg, self._version, self._flow_id, self._what = leg, version, flow_id, what
        self._answered = False

    async def read(self) -> bytes:
        if not self._answered:
            self._answered = True
            try:
                first = await asyncio.wait_for(self._answer(), REPLY_S)
            except asyncio.TimeoutError:  # noqa: UP041 - two until 3.11
                raise Refusal("no_reply", f"{self._what}: no reply in {REPLY_S:.0f} s") from None
            if first:
                return first
        return await self._leg.read()

    async def write(self, data: bytes) -> None:
        await self._leg.write(data)

    async def write_eof(self) -> None:
        await self._leg.write_eof()

    async def _answer(self) -> bytes:
        data = b""
        while True:
            more = await self._leg.read()
            if not more:
                raise Refusal("no_reply", f"{self._what}: the appliance ended without a reply")
            data += more
            found = link.decode_reply(data, self._version)
            if found is not None:
                break
        reply, used = found
        if reply.reason != link.CONNECTED:
            why = link.REASON_TEXT[reply.reason]
            detail = f": {reply.detail}" if reply.detail else ""
            raise Refusal(why.replace(" ", "_"), f"{self._what}: {why}{detail}")
        if reply.flow_id != self._flow_id:
            raise link.Malformed("a reply for another stream")
        return data[used:]
