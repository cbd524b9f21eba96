"""The running agent: builds its parts, keeps leaf and configuration current, takes all back.

Owns the process's life. It starts from disk alone; the appliance may be away.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import ssl
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.agent import contexts, enrol, intercept
from appliance.agent.inbound import Inbound
from appliance.agent.key import KeyFault
from appliance.agent.listen import STREAMS_MAX, Listeners
from appliance.agent.outbound import Outbound
from appliance.agent.state import DIRECTORY, Directory, State, StateError
from appliance.agent.strangers import Strangers
from appliance.enroll.pinned import Refused, Unreachable

log = logging.getLogger(__name__)

OUTBOUND_PORT = 15006
REFRESH_S = 300.0  # between questions for this host's configuration
RETRY_FIRST_S, RETRY_MAX_S = 5.0, 300.0
TROUBLES = (
    StateError, KeyFault, Refused, Unreachable, intercept.InterceptFault, OSError,
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    directory: Path = DIRECTORY
    table: str = intercept.TABLE
    port: int = OUTBOUND_PORT  # where nftables sends what it intercepts
    intercept: bool = True


class Agent:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._directory = Directory(options.directory)
        self.state = self._directory.load()
        self.counters: Counter[str] = Counter()
        self._changing = asyncio.Lock()
        out, into = self._contexts()
        self.outbound = Outbound(self.state, out, self.counters)
        strangers = Strangers(STREAMS_MAX // 4)
        self.inbound = Inbound(self.state, into, self.counters, self.refresh, strangers)
        self._out = Listeners("out", self.outbound.serve, self.counters)
        self._in = Listeners("in", self.inbound.serve, self.counters, strangers=strangers)

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return (
            contexts.client(self._directory, self.state),
            contexts.server(self._directory, self.state),
        )

    async def start(self) -> None:
        """Raises OSError, InterceptFault."""
        _open(self._out, ("127.0.0.1", "::1"), self._options.port)
        _open(self._in, ("0.0.0.0", "::"), self.state.agent_port)
        if self._options.intercept:
            self._intercept()
        self._write_status("")
        log.info("serving as %s", self.state.spiffe_id)

    def _intercept(self) -> None:
        intercept.apply(self._options.table, self.state.vips, self._options.port)
        gateways = [address for address, _ in self.state.mesh]
        intercept.add_routes(self.state.vips, gateways)

    async def stop(self) -> None:
        if self._options.intercept:
            intercept.remove(self._options.table)
            intercept.remove_routes(self.state.vips)
        await self._out.close()
        await self._in.close()

    async def refresh(self) -> None:
        """Asks for this host's configuration now. Logs what goes wrong."""
        await self._change("refresh")

    async def keep_current(self) -> None:
        """Renews at half life and asks for the configuration, for ever."""
        retry_s = 0.0
        while True:
            due_s = max(0.0, self.state.renew_at - time.time())
            wait_s = retry_s or min(due_s, REFRESH_S)
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.0))
            renew = time.time() >= self.state.renew_at
            if await self._change("renew" if renew else "refresh"):
                retry_s = 0.0
            else:
                retry_s = min(RETRY_MAX_S, max(RETRY_FIRST_S, retry_s * 2))

    async def _change(self, what: str) -> bool:
        async with self._changing:
            work = enrol.renew if what == "renew" else enrol.refresh
            try:
                new = await asyncio.to_thread(work, self._directory, self.state)
                self._use(new)
            except TROUBLES as error:
                self.counters[f"{what}_failed"] += 1
                log.warning("cannot %s: %s", what, error)
                self._write_status(f"cannot {what}: {error}")
                return False
            self.counters[f"{what}_done"] += 1
            if what == "renew":
                until = time.strftime("%F %T", time.localtime(self.state.not_after))
                log.info("renewed until %s", until)
            self._write_status("")
            return True

    def _use(self, new: State) -> None:
        old, self.state = self.state, new
        out, into = self._contexts()
        self.outbound.use(new, out)
        self.inbound.use(new, into)
        if new.vips != old.vips and self._options.intercept:
            intercept.remove_routes(old.vips)
            self._intercept()
        if new.agent_port != old.agent_port:
            log.warning("the appliance expects us on port %d: restart the agent", new.agent_port)

    def _write_status(self, problem: str) -> None:
        status: dict[str, Any] = {
            "host": self.state.host,
            "identity": self.state.spiffe_id,
            "not_after": int(self.state.not_after),
            "problem": problem,
            "streams_now": self._out.live + self._in.live,
            "counters": dict(self.counters),
        }
        try:
            self._directory.write_status(status)
        except OSError as error:
            log.warning("cannot write status: %s", error)


def _open(listeners: Listeners, addresses: tuple[str, str], port: int) -> None:
    """IPv4 must be had, IPv6 where there is any."""
    listeners.open(addresses[0], port)
    try:
        listeners.open(addresses[1], port)
    except OSError as error:
        log.info("no IPv6: %s", error)


async def run(options: Options) -> None:
    """Until SIGTERM or SIGINT. Raises StateError, OSError, InterceptFault, ssl.SSLError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    agent = Agent(options)
    current = asyncio.ensure_future(agent.keep_current())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await agent.start()
        done, _ = await asyncio.wait((current, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (current, stopped):
            task.cancel()
        await asyncio.gather(current, stopped, return_exceptions=True)
        await agent.stop()
