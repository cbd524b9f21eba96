"""nginx: one worker an instance, two instances in a pair; as relay of streams, and as HTTP proxy.

The latter does more: it reads and rewrites each request and reply, and logs each. In exchange its
connections to the next hop are few and kept, whoever comes. Its buffers are nginx's own (4 KiB a
part), which hold what the bench sends.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from perf.peers import hops
from perf.peers.contestant import LOOPBACK, Contestant, Profile, Task
from perf.pki import CLIENT_NAME, SERVER_NAME
from perf.process import readable_by_nobody

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
SUITE = "Ciphersuites TLS_AES_128_GCM_SHA256"
EVER = 1_000_000_000  # requests over a connection


def config(task: Task, hop: str) -> str:
    """Of streams. hop: "only", "a" (speaks TLS upstream) or "b" (takes TLS)."""
    mesh = task.profile is Profile.MESH
    port, target = hops.ports(task, hop)
    upstream, head = f"{LOOPBACK}:{target}", ""
    if mesh and hop == "b":
        head, upstream = _allowed(upstream), "$allowed"
    if mesh:
        head += """
    log_format all '$remote_addr $time_iso8601 $status $bytes_sent $bytes_received '
                   '$session_time $upstream_addr $upstream_bytes_sent $upstream_connect_time';"""
    module = f"load_module {MODULE};\n" if MODULE.exists() else ""
    metrics = f"http {{{_http(task)}{_metrics(task, hop)}\n}}\n" if mesh else ""
    return f"""{module}{_main(task, hop)}stream {{{head}
    {_log(task, hop)}
    server {{
        listen {LOOPBACK}:{port}{_tls(task, hop)}
        proxy_pass {upstream};
        proxy_ssl {"on" if hop == "a" else "off"};
        proxy_buffer_size {task.buffer_bytes};
        proxy_timeout 1h;
        tcp_nodelay on;
    }}
}}
{metrics}"""


def http_config(task: Task, hop: str) -> str:
    """Of requests. hop: as above."""
    mesh = task.profile is Profile.MESH
    port, target = hops.ports(task, hop)
    head, check = "", ""
    if mesh and hop == "b":
        head, check = _allowed("yes"), '\n        if ($allowed = "") { return 403; }'
    if mesh:
        head += """
    log_format all '$remote_addr $time_iso8601 $status $bytes_sent $request_length '
                   '$request_time $upstream_addr $upstream_response_time "$request"';"""
        head += _metrics(task, hop)
    return f"""{_main(task, hop)}http {{{_http(task)}{head}
    {_log(task, hop)}
    upstream target {{
        server {LOOPBACK}:{target};
        keepalive 1024;
        keepalive_requests {EVER};
        keepalive_timeout 1h;
    }}
    server {{
        listen {LOOPBACK}:{port}{_tls(task, hop)}
        keepalive_requests {EVER};
        keepalive_timeout 1h;{check}
        location / {{
            proxy_pass {"https" if hop == "a" else "http"}://target;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def _main(task: Task, hop: str) -> str:
    return f"""daemon off;
worker_processes 1;
pid {task.scratch}/{hop}.pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
"""


def _http(task: Task) -> str:
    """Directories that it makes at its start, and whose default is root's."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"\n    {each}_temp_path {task.scratch}/{each};" for each in kinds)


def _allowed(value: str) -> str:
    """A variable that is empty for whoever is not the client's side."""
    return f"""
    map $ssl_client_s_dn $allowed {{
        "CN={CLIENT_NAME}" {value};
        default "";
    }}"""


def _log(task: Task, hop: str) -> str:
    if task.profile is Profile.BARE:
        return "access_log off;"
    return f"access_log {task.scratch}/{hop}-access.log all buffer=64k flush=1s;"


def _metrics(task: Task, hop: str) -> str:
    return f"""
    server {{
        listen unix:{hops.metrics(task, hop)};
        access_log off;
        location / {{ stub_status; }}
    }}"""


def _tls(task: Task, hop: str) -> str:
    """The end of `listen`, and what belongs to a hop's TLS."""
    files = task.scratch
    if hop == "b":
        return f""" ssl;
        ssl_certificate {files}/server.pem;
        ssl_certificate_key {files}/server.pem;
        ssl_client_certificate {files}/a-ca.pem;
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command {SUITE};"""
    if hop == "a":
        return f""";
        proxy_ssl_certificate {files}/client.pem;
        proxy_ssl_certificate_key {files}/client.pem;
        proxy_ssl_trusted_certificate {files}/b-ca.pem;
        proxy_ssl_verify on;
        proxy_ssl_name {SERVER_NAME};
        proxy_ssl_server_name on;
        proxy_ssl_session_reuse {"on" if task.resume else "off"};
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command {SUITE};"""
    return ";"


def _start(
    name: str, task: Task, text: Callable[[Task, str], str]
) -> AbstractAsyncContextManager[Contestant]:
    hops.write_credentials(task)

    def command(hop: str) -> tuple[str, ...]:
        path = readable_by_nobody(task.scratch / f"{hop}.conf", text(task, hop))
        return ("nginx", "-e", "stderr", "-p", str(task.scratch), "-c", str(path))

    return hops.chain(name, task, command)


def start(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("nginx", task, config)


def http(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("nginx-http", task, http_config)
