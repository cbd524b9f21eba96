"""`sluice up`: the one process that runs as root. Small, and parses nothing from the network.

It owns what must outlive the others and what only root may do: the listening sockets, the pipes,
the ticket and publish keys, the directories and their owners, the three child processes with
their users and capabilities, and the fixed-verb helper. It never reads a user's byte, a document
or a certificate.

    layout    directories, owners, the lock
    sockets   listening sockets and pipes
    keys      ticket keys and the publish key, in sealed-off memory files
    child     one process: start, readiness, stop
    kept      one service: started again when it dies, replaced without a gap
    tree      all of them, in order
    control   the Unix socket; verbs, the table of what may be asked
    notify    systemd's readiness and watchdog protocol
"""
