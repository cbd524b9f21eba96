"""The real clients and servers of the demo, each a command run inside a host's namespace.

  python -m appliance.demo.traffic http PORT MARKER      an HTTP server that answers with MARKER
  python -m appliance.demo.traffic sink PORT             takes bytes, answers with their SHA-256
  python -m appliance.demo.traffic send HOST PORT MIB MARKER   sends, half-closes, checks the answer

Servers print `ready` once they listen and run until SIGTERM. Owns no mesh: plain sockets only.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 1 << 20
TIMEOUT_S = 120.0


def serve_http(port: int, marker: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = f"{marker} from {socket.gethostname()} to {self.client_address[0]}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet: the demo prints what matters."""

    with ThreadingHTTPServer(("0.0.0.0", port), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


def serve_sink(port: int) -> None:
    with socket.create_server(("0.0.0.0", port)) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                digest = hashlib.sha256()
                try:
                    while data := connection.recv(CHUNK):
                        digest.update(data)
                    connection.sendall(digest.hexdigest().encode())
                except OSError as error:
                    print(f"sink: {error}", file=sys.stderr, flush=True)


def send(host: str, port: int, mebibytes: int, marker: str) -> dict[str, object]:
    """Sends mebibytes of numbered lines that hold marker; the answer must be their SHA-256."""
    digest = hashlib.sha256()
    began = time.monotonic()
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        for block in range(mebibytes):
            line = f"{marker} block {block:08d} ".encode()
            data = (line * (CHUNK // len(line) + 1))[:CHUNK]
            digest.update(data)
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    seconds = time.monotonic() - began
    return {
        "bytes": mebibytes * CHUNK,
        "seconds": round(seconds, 3),
        "intact": answer.decode() == digest.hexdigest(),
    }


def main(arguments: list[str]) -> int:
    match arguments:
        case ["http", port, marker]:
            serve_http(int(port), marker)
        case ["sink", port]:
            serve_sink(int(port))
        case ["send", host, port, mebibytes, marker]:
            result = send(host, int(port), int(mebibytes), marker)
            print(json.dumps(result), flush=True)
            return 0 if result["intact"] else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
