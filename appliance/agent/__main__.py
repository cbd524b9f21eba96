"""`python -m appliance.agent`, and the entry of the single-file agent."""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # noqa: UP036 - hosts have what they have
    sys.exit("sluice-agent: needs Python 3.9 or newer")

from appliance.agent.main import main

sys.exit(main())
