"""`make demo`: the main job, on real processes and real traffic, in network namespaces.

    a1 web ────┐                                              ┌─── b1 payments  http 8080
    a2 batch ──┤ appliance a ══ mesh link, mTLS, audited ══ appliance b ├── b2 files  tcp 9000
    a3 orders ─┘ (agent, own key)                             └─── b3 ledger (agent, own key)

Both sites use 198.18.0.0/24. Exit 0 only if every step did what it says and the wire audit found
nothing readable. Leaves nothing behind, also after Ctrl-C; --hold keeps it up until Enter.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from rich.console import Console

from appliance.demo.story import Story
from appliance.demo.topology import Topology
from appliance.errors import ApplianceError

# Into a file or a pipe the table keeps its columns; a terminal folds it to its width.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0])
    parser.add_argument("--hold", action="store_true", help="keep it up and say how to look")
    parser.add_argument(
        "--records",
        choices=("auto", "user", "ktls", "nic", "openssl"),
        help="both sites' OffloadProfile: who seals the mesh links (default: no profile)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    if os.geteuid() != 0:
        console.print("make demo needs root for network namespaces: run `sudo make demo`")
        return 2
    code = 1
    try:
        with Topology() as topology:
            story = Story(topology, console, options.records)
            try:
                code = 0 if story.tell() else 1
                if options.hold:
                    story.hold()
            finally:
                story.close()
    except KeyboardInterrupt:
        console.print("interrupted: everything is cleaned up")
        return 130
    except ApplianceError as error:
        console.print(f"[red]failed:[/] {error}")
        return 1
    console.print("nothing is left behind" if code == 0 else "[red]the demo failed[/]")
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
