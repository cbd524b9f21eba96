"""The machine under the bench: a network namespace of its own, which processor does what, facts.

Proxies run on one processor, load (and this harness) on another. The namespace has only a
loopback device and ends with the bench, so ports cannot clash and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

INSIDE = "SLUICE_BENCH_INSIDE"
ROOT = Path(__file__).resolve().parents[1]
FILES_MAX = 140_000  # a process, as the units have it: for the product's own default of streams
SYSCTLS = {
    "net/ipv4/ip_local_port_range": "20000 65535",  # what listens is below
    "net/core/somaxconn": "65535",
    "net/ipv4/tcp_max_syn_backlog": "65535",
    "net/ipv4/tcp_congestion_control": "reno",  # in every kernel; and it does not pace by timers
}


class MachineError(Exception):
    """This machine cannot run the bench; the message says what to do."""


def processors() -> tuple[int, int]:
    """Of the proxies, and of the load: the last two that we may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise MachineError("the bench needs two processors: one for the proxy, one for the load")
    return allowed[-2], allowed[-1]


def enter() -> None:
    """Starts the same command again in a namespace of its own; returns only inside it."""
    if os.geteuid() != 0:
        raise MachineError("the bench makes a network namespace: run it as root")
    if os.environ.get(INSIDE) != "1":
        command = ["unshare", "--net", "--", sys.executable, "-m", "perf.run", *sys.argv[1:]]
        # The data plane's process, another user's, finds our modules by this.
        environment = {**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)}
        os.execvpe(command[0], command, environment)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # not allowed: the product says what it takes then
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, max(hard, FILES_MAX)))
    for name, value in SYSCTLS.items():
        path = Path("/proc/sys", name)
        if path.exists():
            path.write_text(value, encoding="ascii")


def settle_on(processor: int) -> None:
    """The harness, all its threads; what it starts from now on inherits that."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), {processor})


def facts() -> dict[str, str | int]:
    """What a reader of the results needs to know of the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "congestion_control": SYSCTLS["net/ipv4/tcp_congestion_control"],
    }


def load_average() -> float:
    return os.getloadavg()[0]
