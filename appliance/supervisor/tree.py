"""The whole box: CA, daemon and data plane, in order. Owns starting and stopping them.

Start: CA and data plane at once (it serves from its last snapshot), the daemon when the CA
answers. Stop: the daemon, then the data plane with its drain, then the CA, then what the daemon
put into the kernel, which the drain still needed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.paths import Paths
from appliance.site import Site
from appliance.supervisor import layout
from appliance.supervisor.child import Command, User, privileges
from appliance.supervisor.kept import Files, Kept
from appliance.supervisor.keys import TICKET_ROTATION_S, MemoryFile, TicketKeys, publish_key
from appliance.supervisor.notify import notify, watchdog_interval_s
from appliance.supervisor.sockets import Listeners, Pipes
from appliance.system import UPSTREAM

ORDERLY_S = 15.0  # daemon and CA: to end after SIGTERM
REMOVAL_S = 60.0
SILENCE_MAX_S = 60.0  # of the daemon, which says every few seconds that its loop turns
OTHER_FILES = 4_096  # of a data plane, beside its streams' and pipes'

log = logging.getLogger("sluice.supervisor")


@dataclass(frozen=True, slots=True)
class Commands:
    """What is started; tests put small programs here. dataplane is called with the generation."""

    ca: Command
    daemon: Command
    dataplane: Callable[[int], Command]
    remove: tuple[str, ...] = ()  # run last, to its end; () = nothing


def worker_count(site: Site) -> int:
    return site.spec.dataplane.workers or min(len(os.sched_getaffinity(0)), 64)


def commands(site_file: Path, site: Site, paths: Paths) -> Commands:
    """The real ones, each with its user and its one capability."""
    users, settings = site.spec.users, site.spec.dataplane
    streams = streams_that_fit(site)
    python = (sys.executable, "-P", "-m")
    where = ("--state", str(paths.state), "--run", str(paths.run))
    daemon = User(users.daemon, users.daemon, "net_admin")

    def dataplane(generation: int) -> Command:
        return Command(
            (
                *python,
                "dataplane",
                *("--state", str(paths.dataplane_state)),
                *("--socket", str(paths.dataplane_run / f"dp-{generation}.sock")),
                *("--workers", str(worker_count(site))),
                *("--streams", str(streams)),
                *("--mark", hex(UPSTREAM)),
                *("--drain-seconds", str(settings.drain_seconds)),
            ),
            # In the daemon's group, so that its socket can let the daemon in. The group opens
            # nothing else: state directories are 0700.
            User(users.dataplane, users.daemon, "net_raw", umask=0o007),
        )

    return Commands(
        ca=Command(
            (*python, "appliance.ca", "--site", str(site_file), *where), User(users.ca, users.ca)
        ),
        daemon=Command(
            (*python, "appliance.daemon", "--site", str(site_file), *where),
            daemon,
            silence_max_s=SILENCE_MAX_S,
        ),
        dataplane=dataplane,
        remove=(*privileges(daemon), *python, "appliance.system", "remove"),
    )


class Tree:
    """Everything that `sluice up` holds. Make it, `run` it; `stop` ends it."""

    def __init__(
        self,
        site: Site,
        paths: Paths,
        commands: Commands,
        rotation_s: float = TICKET_ROTATION_S,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ApplianceError when a port is taken or a directory cannot be made."""
        self.site = site
        self.paths = paths
        self._commands = commands
        self._rotation_s = rotation_s
        self._on_ready = on_ready
        self._workers = worker_count(site)
        self._stop = asyncio.Event()
        self._hurry = False
        self._reset_wanted = False
        self._listeners = Listeners(site, self._workers)
        self.tickets = TicketKeys()
        self.counters: Counter[str] = Counter()  # of who asked what they may not
        self._publish_key: MemoryFile
        self._make_services()

    async def run(self) -> None:
        """Until `stop`. A factory reset ends everything, wipes the state and begins anew."""
        try:
            while True:
                self._publish_key = publish_key(self.paths.supervisor_state)
                try:
                    await self._live()
                finally:
                    self._publish_key.close()
                if not self._reset_wanted:
                    return
                log.warning("factory reset: the state of this box is wiped")
                layout.wipe(self.paths)
                self._reset_wanted = False
                self._stop.clear()
                self._make_services()
        finally:
            self._listeners.close()
            self.tickets.file.close()

    def stop(self) -> None:
        """In order; a second call does not wait for the data plane's drain."""
        if self._stop.is_set():
            self._hurry = True
            self.dataplane.stop()
        self._stop.set()

    def reset(self) -> None:
        """Factory reset, without a drain."""
        self._reset_wanted = True
        self._hurry = True
        self._stop.set()

    def rotate_tickets(self) -> None:
        self.tickets.rotate()
        self.dataplane.hang_up()

    def services(self) -> tuple[Kept, ...]:
        return (self.ca, self.daemon, self.dataplane)

    def _make_services(self) -> None:
        drain_s = float(self.site.spec.dataplane.drain_seconds)
        self._hurry = False
        self.ca = Kept("ca", self._prepare_ca, drain_s=ORDERLY_S)
        self.daemon = Kept("daemon", self._prepare_daemon, drain_s=ORDERLY_S)
        self.dataplane = Kept(
            "dataplane",
            self._prepare_dataplane,
            drain_s=drain_s,
            hurries=True,
            hangup=True,
            on_end=self._dataplane_ended,
        )

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            ca = group.create_task(self.ca.run())
            dataplane = group.create_task(self.dataplane.run())
            daemon = group.create_task(self._run_daemon())
            helpers = [
                group.create_task(self._say_ready()),
                group.create_task(self._rotate_for_ever()),
                group.create_task(self._feed_watchdog()),
            ]
            await self._stop.wait()
            notify("STOPPING=1")
            log.info("stopping: the daemon, then the data plane's drain, then the CA")
            for helper in helpers[:2]:
                helper.cancel()
            self.daemon.stop()
            await asyncio.wait({daemon})
            self.dataplane.stop()
            if self._hurry:
                self.dataplane.stop()
            await asyncio.wait({dataplane})
            self.ca.stop()
            await asyncio.wait({ca})
            await self._remove()
            helpers[2].cancel()

    async def _run_daemon(self) -> None:
        """The daemon needs the CA's answer to be ready; it is kept running without it later."""
        waits = {
            asyncio.ensure_future(self.ca.serving.wait()),
            asyncio.ensure_future(self._stop.wait()),
        }
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await self.daemon.run()

    async def _say_ready(self) -> None:
        for service in self.services():
            await service.serving.wait()
        notify("READY=1", "STATUS=serving")
        log.info("ready: CA, daemon and data plane serve")
        self._on_ready()

    async def _rotate_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._rotation_s)
            self.rotate_tickets()

    async def _feed_watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        while interval_s is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async def _remove(self) -> None:
        if not self._commands.remove:
            return
        try:
            process = await asyncio.create_subprocess_exec(
                *self._commands.remove, stdin=asyncio.subprocess.DEVNULL, cwd="/"
            )
        except OSError as error:
            log.error("%s cannot be started: %s", self._commands.remove[0], error.strerror)
            return
        try:
            async with asyncio.timeout(REMOVAL_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if code != 0:
            log.error(
                "rules or routes may be left: run `%s -m appliance.system remove`", sys.executable
            )

    def _prepare_ca(self, generation: int) -> tuple[Command, AbstractContextManager[Files]]:
        return self._commands.ca, nullcontext({})

    def _prepare_daemon(self, generation: int) -> tuple[Command, AbstractContextManager[Files]]:
        return self._commands.daemon, self._key_files()

    def _prepare_dataplane(self, generation: int) -> tuple[Command, AbstractContextManager[Files]]:
        return self._commands.dataplane(generation), self._dataplane_files()

    def _dataplane_ended(self, generation: int) -> None:
        """The daemon finds data planes by their sockets: a dead one's would mislead it."""
        (self.paths.dataplane_run / f"dp-{generation}.sock").unlink(missing_ok=True)

    @contextmanager
    def _key_files(self) -> Iterator[Files]:
        key = self._publish_key.open()
        try:
            yield {"publish-key": [key]}
        finally:
            os.close(key)

    @contextmanager
    def _dataplane_files(self) -> Iterator[Files]:
        """The shared sockets, pipes of its own, the keys as they are now; closed once started."""
        pipes = Pipes(self._workers)
        try:
            tickets = self.tickets.file.open()
            try:
                with self._key_files() as keys:
                    yield {
                        **self._listeners.by_name,
                        **keys,
                        "pipe": list(pipes.ends),
                        "tickets": [tickets],
                    }
            finally:
                os.close(tickets)
        finally:
            pipes.close()


def streams_that_fit(site: Site) -> int:
    """Raises the limit of open files, which the children inherit, to what spec.dataplane asks for:
    two a stream. Where that is not allowed (some containers), fewer streams a worker."""
    workers, streams = worker_count(site), site.spec.dataplane.streams_max
    wanted = workers * streams * 2 + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard) or soft >= wanted:
        return streams
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        fit = max((hard - OTHER_FILES) // (2 * workers), 0)
        if fit < 16:
            raise ApplianceError(
                f"the limit of open files is {hard}: raise it (LimitNOFILE) to {wanted}"
            ) from None
        log.warning(
            "%d streams a worker fit, not %d: raise the limit of open files to %d",
            *(min(fit, streams), streams, wanted),
        )
        return min(fit, streams)
    return streams
