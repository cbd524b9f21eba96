"""`python -m appliance.cli` is `sluice`."""

from appliance.cli import main

main()
