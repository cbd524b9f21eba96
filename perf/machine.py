"""The machine under the bench: namespaces of its own, which processor does what, facts.

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

from appliance.supervisor.child import User, privileges
from perf.process import NOBODY

INSIDE = "SLUICE_BENCH_INSIDE"
ROOT = Path(__file__).resolve().parents[1]
OPEN = Path("/mnt")  # where the tree is seen by all users in the bench's own namespace of mounts
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
        # Another user's processes find our modules and programs there, also where ours is a home
        # that is closed to them; nobody but us sees that mount.
        python = Path(sys.executable)
        if python.is_relative_to(ROOT):
            python = OPEN / python.relative_to(ROOT)
        command = [
            *("unshare", "--net", "--mount", "--", "sh", "-c"),
            'mount --bind "$1" "$2" && shift 2 && exec "$@"',
            *("sh", str(ROOT), str(OPEN), str(python), "-P", "-m", "perf.run", *sys.argv[1:]),
        ]
        environment = {**os.environ, INSIDE: "1", "PYTHONPATH": str(OPEN)}
        os.execvpe(command[0], command, environment)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # not allowed: the product says what it takes then
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, max(hard, FILES_MAX)))
    for name, value in SYSCTLS.items():
        path = Path("/proc/sys", name)
        if path.exists():
            try:
                path.write_text(value, encoding="ascii")
            except OSError as error:
                raise MachineError(
                    f"{path}: {error.strerror}: run the bench where /proc/sys can be written"
                ) from None


def check_times() -> None:
    try:
        nanoseconds = int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[0])
    except OSError:
        nanoseconds = 0
    if nanoseconds == 0:
        raise MachineError(
            "/proc/self/schedstat tells no processor time: run the bench on a kernel with"
            " CONFIG_SCHED_INFO, as Debian's"
        )


# From there, and not from where the interpreter's environment has another.
IMPORT = """
import sys
from pathlib import Path
from dataplane import _native, binding
for each in (binding, _native):
    if not (found := Path(each.__file__).resolve()).is_relative_to(sys.argv[1]):
        sys.exit(f"found only {found}")
"""


def check_readable(tree: Path) -> None:
    """The data plane runs from there as another user."""
    real = str(tree.resolve())
    done = subprocess.run(
        [*privileges(User(NOBODY, NOBODY)), sys.executable, "-c", IMPORT, real],
        cwd="/",
        env={**os.environ, "PYTHONPATH": real},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        why = (done.stdout.strip() or "no reason given").splitlines()[-1]
        raise MachineError(
            f"{tree}: the data plane's user cannot run it ({why}): clone and build it where other"
            " users may go and read, as below /srv, with /usr/bin/python3"
        )


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
