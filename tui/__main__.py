"""`sluice tui`: arguments, then the app. Owns nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.api.client import AdminClient, Paths, Remote
from tui.app import SluiceApp


def main() -> None:
    parser = argparse.ArgumentParser(prog="sluice tui", description="The console of this site.")
    parser.add_argument("--run", type=Path, default=Paths().run, help="where the sockets are")
    parser.add_argument(
        "--interval-ms", type=int, default=1000, help="between updates; raise it on a slow line"
    )
    parser.add_argument("--remote", metavar="HOST:PORT", help="another machine's admin API")
    parser.add_argument("--credential", type=Path, help="with --remote: the folder for it")
    arguments = parser.parse_args()
    if not 200 <= arguments.interval_ms <= 60_000:
        parser.error("--interval-ms: choose 200 to 60000")
    if (arguments.remote is None) != (arguments.credential is None):
        parser.error("--remote and --credential go together")
    paths, remote = Paths(run=arguments.run), None
    if arguments.remote is not None:
        remote = Remote(arguments.remote, arguments.credential)
    SluiceApp(lambda: AdminClient(paths, remote), interval_ms=arguments.interval_ms).run()


if __name__ == "__main__":
    main()
