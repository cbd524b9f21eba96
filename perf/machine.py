"""The machine under the bench: a network namespace of its own, which processor does what, facts.

Proxies run on one processor, load (and this harness) on another. The namespace has only a
loopback device and ends with the bench, so ports cannot clash and nothing is left behind.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

INSIDE = "SLUICE_BENCH_INSIDE"
ROOT = Path(__file__).resolve().parents[1]
NICE = 5  # of the harness, beside the load
SYSCTLS = {
    "net/ipv4/ip_local_port_range": "20000 65535",  # what listens is below
    "net/core/somaxconn": "65535",
    "net/ipv4/tcp_max_syn_backlog": "65535",
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
    for name, value in SYSCTLS.items():
        path = Path("/proc/sys", name)
        if path.exists():
            path.write_text(value, encoding="ascii")


def settle_on(processor: int) -> None:
    """The harness and, by inheritance, the load."""
    os.sched_setaffinity(0, {processor})
    os.nice(NICE)


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
    }


def load_average() -> float:
    return os.getloadavg()[0]
