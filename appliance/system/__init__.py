"""The box's own network: links, routes, neighbours and the one nftables table.

Run by the daemon with CAP_NET_ADMIN and nothing else; the only importer of pyroute2 beside the
demo. `Network` is the whole of it for the daemon:

    network = Network(site)
    await network.install(bindings)   # at start; what is there already stays
    await network.bind(bindings)      # when hosts changed: sets and pinned neighbours only
    await network.counters()

The daemon never removes it: the data plane serves while the daemon is away, and drains after it
has stopped. `sluice up` takes it down last of all (`python -m appliance.system remove`), so that
`nft list ruleset`, rules and routes are as they were before.

Marks. INTERCEPTED is set on packets that nftables steers to a local socket and is looked up by
the rule in routes.py; UPSTREAM is on the data plane's own connections, so that an operator's
rules can tell them from hosts' traffic. They differ because the first one means "deliver here".
"""

INTERCEPTED = 0x5101
UPSTREAM = 0x5102
