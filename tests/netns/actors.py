"""What tests run inside a namespace: python -m tests.netns.actors VERB ARGUMENTS.

listen PORT              the transparent listener, v4 and v6: answers "<source> <target>\\n"
install SITE BINDINGS    what the daemon does at start; BINDINGS as [[address, mac, interface]]
bind SITE BINDINGS       what it does when hosts changed
counters                 prints {name: packets}
remove                   takes all down
ask ADDRESS PORT [FROM]  connects (from a local address), prints the answer or the error's name
udp ADDRESS PORT         sends a datagram, prints the error that comes back, or "sent"
syn INTERFACE MAC FROM MAC TO PORT   one forged frame: source MAC and address, next hop, target
"""

from __future__ import annotations

import asyncio
import errno
import json
import selectors
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

TIMEOUT_S = 5.0


def listen(port: int) -> None:
    ready = selectors.DefaultSelector()
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
        sock.bind((host, port))
        sock.listen()
        ready.register(sock, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            assert isinstance(key.fileobj, socket.socket)
            connection, peer = key.fileobj.accept()
            with connection:
                target = connection.getsockname()
                connection.sendall(f"{peer[0]} {target[0]}:{target[1]}\n".encode())


def ask(address: str, port: int, source: str | None) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_S)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
            return sock.recv(200).decode().strip() or "closed"
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))


def udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect((address, port))
        sock.send(b"x")
        try:
            sock.recv(1)
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return "answered"


def syn(interface: str, mac: str, source: str, hop: str, target: str, port: int) -> None:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.sendrecv import sendp

    packet = (IPv6 if ":" in target else IP)(src=source, dst=target)
    frame = Ether(src=mac, dst=hop) / packet / TCP(sport=40_000, dport=port, flags="S", seq=7)
    sendp(frame, iface=interface, verbose=False)


def system(verb: str, *arguments: str) -> None:
    """Slow to import: most actors do without."""
    from appliance.site import load_site
    from appliance.system import network, nft

    if verb == "remove":
        asyncio.run(network.remove())
    elif verb == "counters":
        counted = asyncio.run(nft.counters())
        print(json.dumps({name: count.packets for name, count in counted.items()}))
    else:
        site, bound = arguments
        bindings = [nft.Binding(ip_address(a), mac, port) for a, mac, port in json.loads(bound)]
        change = getattr(network.Network(load_site(Path(site))), verb)
        asyncio.run(change(bindings))


def main(arguments: list[str]) -> None:
    match arguments:
        case ["listen", port]:
            listen(int(port))
        case [("install" | "bind" | "counters" | "remove") as verb, *more]:
            system(verb, *more)
        case ["ask", address, port, *source]:
            print(ask(address, int(port), source[0] if source else None))
        case ["udp", address, port]:
            print(udp(address, int(port)))
        case ["syn", interface, mac, source, hop, target, port]:
            syn(interface, mac, source, hop, target, int(port))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
