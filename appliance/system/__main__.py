"""`python -m appliance.system remove`: what `sluice up` runs last, and rescue when it could not.

Owns nothing; needs CAP_NET_ADMIN. Exit code as in appliance.errors.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from appliance.errors import ApplianceError
from appliance.system import network


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m appliance.system", description=__doc__)
    parser.add_argument("verb", choices=["remove"])
    parser.parse_args()
    try:
        asyncio.run(network.remove())
    except ApplianceError as error:
        print(f"sluice: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
