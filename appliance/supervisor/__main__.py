"""`python -m appliance.supervisor`: what `sluice up` runs. Arguments, logging, signals.

SIGTERM and SIGINT end it in order (a second one does not wait for the drain), SIGHUP replaces
the data plane without a gap. Exit codes as in appliance.errors.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from appliance.errors import ApplianceError, Denied, InvalidInput
from appliance.paths import RUN, SITE_FILE, STATE, Paths
from appliance.site import Site, load_site
from appliance.supervisor import layout
from appliance.supervisor.control import Control
from appliance.supervisor.tree import Commands, Tree, commands

log = logging.getLogger("sluice.supervisor")


def refuse_root(site: Site) -> None:
    """No child runs as root, and no child's group is the admins'. Raises InvalidInput."""
    users = site.spec.users
    if 0 in (users.daemon, users.ca, users.dataplane, users.admin_group):
        raise InvalidInput("spec.users: no process may be root, nor its group the admins': not 0")
    if users.admin_group in (users.daemon, users.ca, users.dataplane):
        raise InvalidInput("spec.users.adminGroup: give it a number that no process has")


async def run(site: Site, paths: Paths, started: Commands) -> None:
    """Until told to end. Raises ApplianceError when it cannot start."""
    tree = Tree(site, paths, started)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tree.stop)
    replacements: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.ensure_future(_replace(tree))
        replacements.add(task)
        task.add_done_callback(replacements.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    control = asyncio.ensure_future(Control(tree).serve())
    try:
        await tree.run()
    finally:
        control.cancel()
        await asyncio.gather(control, *replacements, return_exceptions=True)


async def _replace(tree: Tree) -> None:
    try:
        await tree.dataplane.replace()
    except ApplianceError as error:
        log.error("%s", error)


def up(site_file: Path = SITE_FILE, state: Path = STATE, run_directory: Path = RUN) -> None:
    """Runs the box until it is told to end. Raises ApplianceError."""
    if os.geteuid() != 0:
        raise Denied("`sluice up` needs root: it opens the sockets and gives each process its user")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    site_file = site_file.resolve()
    site = load_site(site_file)
    refuse_root(site)
    paths = Paths(state.resolve(), run_directory.resolve())
    os.umask(0o022)
    layout.make(paths, site.spec.users)
    with layout.lock(paths):
        asyncio.run(run(site, paths, commands(site_file, site, paths)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="sluice up", description=__doc__)
    parser.add_argument("--site", type=Path, default=SITE_FILE)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--run", type=Path, default=RUN)
    arguments = parser.parse_args()
    try:
        up(arguments.site, arguments.state, arguments.run)
    except ApplianceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
