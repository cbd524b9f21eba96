"""From the site's appliance to a service on this host: mTLS in, plain TCP to a local port out.

Owns one stream's way in: handshake, who the caller is, header, connect, reply, bytes. Only ports
of services that the appliance says are on this host can be reached.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from appliance.agent import contexts, link
from appliance.agent.relay import Idle, relay
from appliance.agent.state import State
from appliance.agent.strangers import Strangers
from appliance.agent.tls import PlainLeg, TlsLeg, Truncated

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
HEADER_S = 10.0
CONNECT_S = 3.0  # one local address
REFRESH_EVERY_S = 2.0  # at most, when a port is asked for that we do not know


class Inbound:
    """`refresh` asks the appliance for this host's configuration and calls `use`. Callers are in
    `strangers` until their header came."""

    def __init__(
        self,
        state: State,
        context: ssl.SSLContext,
        counters: Counter[str],
        refresh: Callable[[], Awaitable[None]],
        strangers: Strangers,
    ) -> None:
        self._counters = counters
        self._strangers = strangers
        self._refresh = refresh
        self._refreshed_at = 0.0
        self._refreshing = asyncio.Lock()
        self.use(state, context)

    def use(self, state: State, context: ssl.SSLContext) -> None:
        """For streams from now on."""
        self._state, self._context = state, context

    async def serve(self, sock: socket.socket) -> None:
        far = TlsLeg(sock, self._context, server_side=True)
        try:
            await self._stream(far)
        except (asyncio.TimeoutError, Idle) as error:  # noqa: UP041 - two until 3.11
            self._counters["in_timeout"] += 1
            log.info("a stream from the appliance timed out: %s", error)
            far.abort()
        except contexts.Stranger as error:
            self._counters["in_refused_stranger"] += 1
            log.warning("refused a caller: %s", error)
            far.abort()
        except ssl.SSLError as error:
            self._counters["in_refused_tls"] += 1
            log.warning("refused a caller: %s", error)
            far.abort()
        except (OSError, link.Malformed) as error:
            self._counters["in_reset"] += 1
            log.info("a stream broke: %s", error)
            far.abort()
        else:
            far.close()

    async def _stream(self, far: TlsLeg) -> None:
        await asyncio.wait_for(far.handshake(), HANDSHAKE_S)
        who = contexts.check_caller(far.tls, self._state)
        version = contexts.link_version(far.tls)
        try:
            header, early = await asyncio.wait_for(_header(far), HEADER_S)
        except link.Malformed as error:
            await _refuse(far, version, link.BAD_HEADER, bytes(link.FLOW_BYTES), str(error))
            self._counters["in_refused_header"] += 1
            return
        self._strangers.leave(far.socket)
        port = header.target_port
        if not await self._allowed(port):
            self._counters["in_refused_port"] += 1
            log.warning("refused %s: port %d is no service of this host", who, port)
            text = f"port {port} is no service of host {self._state.host}"
            await _refuse(far, version, link.NO_ROUTE, header.flow_id, text)
            return
        try:
            near = PlainLeg(await _local(port, far.socket.getsockname()[0]))
        except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 - two until 3.11
            self._counters["in_connect_failed"] += 1
            text = f"port {port} of host {self._state.host}: {error or 'no answer'}"
            await _refuse(far, version, link.CONNECT_FAILED, header.flow_id, text)
            return
        self._counters["in_streams"] += 1
        try:
            reply = link.Reply(link.CONNECTED, header.flow_id)
            await far.write(link.encode_reply(reply, version))
            up, down = await relay(far, near, first_up=early)
            self._counters["in_bytes"] += up + down
        except BaseException:
            near.abort()
            raise
        near.close()

    async def _allowed(self, port: int) -> bool:
        if port in self._state.ports:
            return True
        async with self._refreshing:  # a service may have been added a moment ago
            if port in self._state.ports:
                return True
            if time.monotonic() - self._refreshed_at < REFRESH_EVERY_S:
                return False
            try:
                await self._refresh()
            finally:
                self._refreshed_at = time.monotonic()
        return port in self._state.ports


async def _header(far: TlsLeg) -> tuple[link.Header, bytes]:
    data = b""
    while True:
        more = await far.read()
        if not more:
            raise Truncated("the caller ended before its header")
        data += more
        found = link.decode_header(data)
        if found is not None:
            return found[0], data[found[1] :]


async def _refuse(far: TlsLeg, version: int, reason: int, flow_id: bytes, text: str) -> None:
    await far.write(link.encode_reply(link.Reply(reason, flow_id, text), version))
    await far.write_eof()


async def _local(port: int, own: str) -> socket.socket:
    """A service may listen on loopback only, or on the host's address only. Raises the last
    address's error."""
    addresses = dict.fromkeys(("127.0.0.1", own.partition("%")[0], "::1"))
    problem: Exception = OSError("no address")
    for address in addresses:
        sock = socket.socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
        )
        sock.setblocking(False)
        connect = asyncio.get_running_loop().sock_connect(sock, (address, port))
        try:
            await asyncio.wait_for(connect, CONNECT_S)
            return sock
        except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 - two until 3.11
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
    raise problem
