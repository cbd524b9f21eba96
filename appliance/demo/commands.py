"""Runs commands in the demo's namespaces and keeps track of those that go on. Owns processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from appliance.demo.topology import Host, SiteSpace
from appliance.errors import ApplianceError

COMMAND_TIMEOUT_S = 180.0


class Commands:
    """Background processes end with `close`, newest first."""

    def __init__(self) -> None:
        self._running: list[tuple[str, subprocess.Popen[str]]] = []

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

    def keep(self, name: str, argv: Sequence[str], ready: str = "ready") -> subprocess.Popen[str]:
        """Starts argv, waits for a line with `ready` on its standard output."""
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append((name, process))
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.rstrip())
            if ready in line:
                return process
        raise ApplianceError(f"{name} did not start: {' / '.join(said[-5:])}")

    def end(self, process: subprocess.Popen[str]) -> str:
        """Ends one of them; returns what it printed since it was ready."""
        self._running = [entry for entry in self._running if entry[1] is not process]
        process.terminate()
        try:
            out, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        return out or ""

    def close(self) -> None:
        for _, process in reversed(list(self._running)):
            self.end(process)


def until(what: str, test: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for a condition. Raises ApplianceError that says what did not come."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise ApplianceError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.1)
