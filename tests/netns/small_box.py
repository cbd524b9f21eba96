"""The real supervisor with small children instead of CA, daemon and data plane.

  python -m tests.netns.small_box --site FILE --state DIR --run DIR   as `sluice up`
  python -m tests.netns.small_box child NAME NOTES                    one child

Each child notes "<name> <what> <pid>" in NOTES. The data plane's child answers one line with its
pid on every listener, finishes what it accepted on SIGTERM, and ends at once on SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.paths import Paths
from appliance.site import load_site
from appliance.supervisor import layout
from appliance.supervisor.__main__ import run
from appliance.supervisor.child import Command, User
from appliance.supervisor.tree import Commands


def files() -> dict[str, list[int]]:
    named = (part.split("=") for part in os.environ["SLUICE_FDS"].split(";"))
    return {name: [int(n) for n in numbers.split(",") if n] for name, numbers in named}


def child(name: str, notes: str) -> None:
    given = files()

    def note(what: str) -> None:
        with open(notes, "a", encoding="ascii") as file:
            file.write(f"{name} {what} {os.getpid()}\n")

    poll = selectors.DefaultSelector()
    wake, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    poll.register(wake, selectors.EVENT_READ)
    listeners = [
        socket.socket(fileno=fd)
        for kind in ("transparent4", "transparent6", "mesh4", "mesh6")
        for fd in given.get(kind, [])
    ]
    for listener in listeners:
        listener.setblocking(False)
        poll.register(listener, selectors.EVENT_READ)
    note("started")
    os.write(given["ready"][0], b"ready\n")
    accepted: set[socket.socket] = set()
    stopping = False
    while not (stopping and not accepted):
        for key, _ in poll.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is wake:
                signals = wake.recv(100)
                if signal.SIGINT in signals:
                    note("hurried")
                    return
                if signal.SIGHUP in signals:
                    keys = os.pread(given["tickets"][0], 16, 0).hex()
                    note(f"tickets:{keys}")
                if signal.SIGTERM in signals and not stopping:
                    stopping = True
                    note("stopping")
                    for listener in listeners:
                        poll.unregister(listener)
            elif sock in listeners:
                try:
                    connection, _ = sock.accept()
                except BlockingIOError:
                    continue
                accepted.add(connection)
                poll.register(connection, selectors.EVENT_READ)
            else:
                try:
                    if sock.recv(100):
                        sock.sendall(f"{os.getpid()}\n".encode())
                        continue
                except ConnectionError:
                    pass
                poll.unregister(sock)
                accepted.discard(sock)
                sock.close()
    note("ended")


def box(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    os.umask(0o022)
    site = load_site(arguments.site)
    paths = Paths(arguments.state, arguments.run)
    layout.make(paths, site.spec.users)
    notes = arguments.site.with_name("notes")
    notes.touch()
    notes.chmod(0o666)

    def small(name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "tests.netns.small_box", "child", name, str(notes))

    users = site.spec.users
    commands = Commands(
        ca=Command(small("ca"), User(users.ca, users.ca)),
        daemon=Command(small("daemon"), User(users.daemon, users.daemon, "net_admin")),
        dataplane=lambda generation: Command(
            small("dataplane"), User(users.dataplane, users.daemon, "net_raw")
        ),
        remove=("sh", "-c", 'echo "remove done 0" >> "$0"', str(notes)),
    )
    with layout.lock(paths):
        asyncio.run(run(site, paths, commands))


def main() -> int:
    if sys.argv[1] == "child":
        child(sys.argv[2], sys.argv[3])
        return 0
    parser = argparse.ArgumentParser()
    for name in ("--site", "--state", "--run"):
        parser.add_argument(name, type=Path)
    try:
        box(parser.parse_args())
    except ApplianceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
