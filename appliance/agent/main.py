"""The agent's command line: join, run, status, leave. Arguments in, exit code out.

The code is asked for on the terminal or read from standard input; it is never an argument.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import ssl
import sys
import time
from pathlib import Path

from appliance.agent import enrol, intercept, service
from appliance.agent.intercept import InterceptFault
from appliance.agent.key import KeyFault
from appliance.agent.run import OUTBOUND_PORT, Options, run
from appliance.agent.service import ServiceFault
from appliance.agent.state import DIRECTORY, Directory, StateError
from appliance.enroll import code
from appliance.enroll.pinned import Refused, Unreachable

FAULTS = (
    StateError, KeyFault, InterceptFault, ServiceFault, Refused, Unreachable, ValueError,
    ssl.SSLError, OSError,
)  # fmt: skip


def _read_code() -> code.Code:
    if sys.stdin.isatty():
        text = getpass.getpass("Code (as `sluice host add` printed it): ")
    else:
        text = sys.stdin.readline(500)
    return code.parse(text.strip())


def _join(args: argparse.Namespace) -> None:
    directory = Directory(args.state)
    if directory.joined:
        raise StateError(f"this host has joined already ({args.state}): `leave` first")
    state = enrol.join(directory, args.address, _read_code())
    until = time.strftime("%F %T", time.localtime(state.not_after))
    print(f"joined as {state.spiffe_id}, renewed by itself before {until}")
    if args.no_service:
        return
    if not service.available():
        print("no systemd here: start the agent with `run`", file=sys.stderr)
        return
    service.install(Path(sys.argv[0]), args.state)
    print("the agent runs, and will after a reboot")
    if not service.delegate_names(state):
        zones, dns = " and ".join(state.zones), " or ".join(state.dns)
        print(f"now let your resolver ask {dns} for names that end in {zones}")


def _run(args: argparse.Namespace) -> None:
    options = Options(args.state, args.table, args.port, not args.no_intercept)
    asyncio.run(run(options))


def _status(args: argparse.Namespace) -> None:
    Directory(args.state).load()
    try:
        status = json.loads((args.state / "status.json").read_bytes())
    except FileNotFoundError:
        raise StateError("the agent has not run yet: start it with `run`") from None
    print(json.dumps(status, indent=1))


def _clean(args: argparse.Namespace) -> None:
    """After a crash, what the next start would replace anyway."""
    intercept.remove(args.table)
    directory = Directory(args.state)
    if directory.joined:
        intercept.remove_routes(directory.load().vips)


def _leave(args: argparse.Namespace) -> None:
    service.remove()
    try:
        _clean(args)
    except StateError as error:  # damaged: leaving is the way out of that
        print(f"sluice-agent: {error}; a route may be left", file=sys.stderr)
    Directory(args.state).remove()
    print("left: remove the host on the appliance too, with `sluice host remove`")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice-agent", description="This host's end of the mesh: its key and its streams."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--state", type=Path, default=DIRECTORY, help="default: %(default)s")
    table = argparse.ArgumentParser(add_help=False)
    table.add_argument("--table", default=intercept.TABLE, help="nftables table (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)

    join = commands.add_parser("join", parents=[shared], help="enrol this host; asks for the code")
    join.add_argument("address", metavar="ADDRESS[:PORT]", help="the appliance's")
    join.add_argument("--no-service", action="store_true", help="install no systemd unit")
    join.set_defaults(work=_join)

    start = commands.add_parser("run", parents=[shared, table], help="serve in the foreground")
    start.add_argument("--port", type=int, default=OUTBOUND_PORT, help="local (%(default)s)")
    start.add_argument("--no-intercept", action="store_true", help="no nftables, no routes")
    start.set_defaults(work=_run)

    status = commands.add_parser("status", parents=[shared], help="what the agent did last")
    status.set_defaults(work=_status)
    clean = commands.add_parser("clean", parents=[shared, table], help="remove the nftables table")
    clean.set_defaults(work=_clean)
    leave = commands.add_parser("leave", parents=[shared, table], help="take everything back")
    leave.set_defaults(work=_leave)
    return parser


def main() -> int:
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        args.work(args)
    except FAULTS as error:
        print(f"sluice-agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
