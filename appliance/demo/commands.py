"""Runs commands in the demo's namespaces and keeps track of those that go on. Owns processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance.demo.topology import Host, SiteSpace
from appliance.errors import ApplianceError

COMMAND_TIMEOUT_S = 180.0
END_S = 20.0
KILLED_S = 5.0


class Commands:
    """Background processes write logs into directory and end with `close`, newest first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def sluice(self, site: SiteSpace, *arguments: str, given: str = "") -> str:
        """`sluice …` on the site's appliance, as its root; returns what it printed."""
        result = subprocess.run(
            site.python("-m", "appliance.cli", "--run", str(site.paths.run),
                        "--state", str(site.paths.state), *arguments),
            input=given, capture_output=True, text=True, check=False,
            timeout=COMMAND_TIMEOUT_S, env=site.environment(),
        )  # fmt: skip
        if result.returncode != 0:
            raise ApplianceError(f"sluice {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def sluice_json(self, site: SiteSpace, *arguments: str, given: str = "") -> Any:
        return json.loads(self.sluice(site, *arguments, "-o", "json", given=given))

    def on(self, host: Host, *argv: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """argv inside the host's namespace; the caller looks at the exit code."""
        return subprocess.run(
            host.command(*argv), input=given, capture_output=True, text=True, check=False,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip

    def keep(
        self, name: str, argv: Sequence[str], ready: str = "ready", seconds: float = 30.0
    ) -> subprocess.Popen[bytes]:
        """Starts argv and waits until its output has `ready`. Raises ApplianceError."""
        path = self._directory / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._running.append((path, process))
        until(
            f"{name} being ready",
            lambda: ready in path.read_text(errors="replace") or process.poll() is not None,
            seconds,
        )
        if process.poll() is not None:
            raise ApplianceError(f"{name} ended: {path.read_text(errors='replace')[-500:]}")
        return process

    def end(self, process: subprocess.Popen[bytes], seconds: float = END_S) -> str:
        """Ends one of them, by force after seconds; returns the last line it wrote."""
        path = next(path for path, kept in self._running if kept is process)
        self._running.remove((path, process))
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
        return (path.read_text(errors="replace").splitlines() or [""])[-1]

    def close(self) -> None:
        """All have END_S together."""
        deadline = time.monotonic() + END_S
        for _, process in reversed(list(self._running)):
            self.end(process, max(deadline - time.monotonic(), 0.0))


def until(what: str, test: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition. Raises ApplianceError that says what did not come."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise ApplianceError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)
