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
from rich.markup import escape

from appliance.demo.clean import INTERRUPTS, hold_off, unhurried_end
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
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    if os.geteuid() != 0:
        console.print("make demo needs root for network namespaces: run `sudo make demo`")
        return 2
    topology = Topology()
    code, outcome = 1, "[red]the demo failed[/]"
    try:
        with topology, unhurried_end():
            story = Story(topology, console, options.records)
            try:
                if story.tell():
                    code, outcome = 0, "the demo is over"
                if options.hold:
                    story.hold()
            finally:
                story.close()
    except KeyboardInterrupt:
        code, outcome = 130, "interrupted"
    except ApplianceError as error:
        code, outcome = 1, f"[red]failed:[/] {escape(str(error))}"
    if topology.left:
        console.print(f"{outcome}; left behind, remove it by hand: {', '.join(topology.left)}")
        return code or 1
    console.print(f"{outcome}; nothing is left behind")
    return code


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """The first one; the next ones wait for the clean-up."""
    hold_off()
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
