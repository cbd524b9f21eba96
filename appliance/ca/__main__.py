"""The CA process: `python -m appliance.ca`. The sole holder of the site's CA key.

Runs as its own user with no capability. It opens one Unix socket and no network socket: a seat
belt in `_no_network` makes that so for whatever runs here later.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from pathlib import Path

from appliance.ca.key import load_or_create
from appliance.ca.server import Ca, Roles, serve
from appliance.ca.table import Table
from appliance.errors import ApplianceError
from appliance.paths import Paths
from appliance.site import Site, load_site

log = logging.getLogger("sluice.ca")


def _no_network(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: Python code here binds and connects to Unix sockets only. gRPC's own sockets
    are made in C and are given Unix addresses only."""
    if event in ("socket.bind", "socket.connect") and isinstance(args[1], tuple):
        raise PermissionError("the CA has no network socket")


def _ready_fd() -> int | None:
    """The write end of the supervisor's pipe, from SLUICE_FDS."""
    for entry in os.environ.pop("SLUICE_FDS", "").split(";"):
        name, _, value = entry.partition("=")
        if name == "ready":
            return int(value)
    return None


async def run(paths: Paths, site: Site, ready_fd: int | None) -> None:
    """Serves until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    users = site.spec.users
    roles = Roles(daemon_uid=users.daemon, admin_gid=users.admin_group)
    authority = load_or_create(paths.ca_state, site.trust_domain, int(time.time()))
    table = Table(paths.ca_state / "ca.db")
    try:
        ca = Ca(paths.ca_state, authority, table, roles, site.spec.appliance)
        async with serve(ca, paths.ca_socket):
            log.info("serving %s, CA pin %s", site.trust_domain, authority.pin.hex())
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            await stop.wait()
    finally:
        table.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.ca", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    os.umask(0o077)
    sys.addaudithook(_no_network)
    try:
        asyncio.run(run(Paths(args.state, args.run), load_site(args.site), _ready_fd()))
    except (ApplianceError, OSError) as error:
        print(f"sluice ca: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ApplianceError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
