"""The command line `sluice`. Owns arguments and printing; every act is a call of the admin API.

Exit codes: 0 done · 1 a fault of ours · 2 the input cannot be used · 3 no such thing ·
4 conflict (exists, or another change is pending) · 5 not allowed · 6 something does not answer ·
7 a limit was reached · 130 interrupted.
"""

from appliance.cli.root import main

__all__ = ["main"]
