"""nginx's stream module: one worker an instance, two instances in a pair."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from perf.peers import hops
from perf.peers.contestant import LOOPBACK, Contestant, Profile, Task
from perf.pki import CLIENT_NAME, SERVER_NAME
from perf.process import readable_by_nobody

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
SUITE = "Ciphersuites TLS_AES_128_GCM_SHA256"


def config(task: Task, hop: str) -> str:
    """hop: "only", "a" (speaks TLS upstream) or "b" (takes TLS)."""
    mesh, files = task.profile is Profile.MESH, task.scratch
    port, target = hops.ports(task, hop)
    listen, upstream, tls, head = f"listen {LOOPBACK}:{port}", f"{LOOPBACK}:{target}", "", ""
    if hop == "b":
        listen += " ssl"
        tls = f"""
        ssl_certificate {files}/server.pem;
        ssl_certificate_key {files}/server.pem;
        ssl_client_certificate {files}/a-ca.pem;
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command {SUITE};"""
        if mesh:
            head = f"""
    map $ssl_client_s_dn $allowed {{
        "CN={CLIENT_NAME}" {upstream};
        default "";
    }}"""
            upstream = "$allowed"
    if hop == "a":
        tls = f"""
        proxy_ssl on;
        proxy_ssl_certificate {files}/client.pem;
        proxy_ssl_certificate_key {files}/client.pem;
        proxy_ssl_trusted_certificate {files}/b-ca.pem;
        proxy_ssl_verify on;
        proxy_ssl_name {SERVER_NAME};
        proxy_ssl_server_name on;
        proxy_ssl_session_reuse {"on" if task.resume else "off"};
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command {SUITE};"""
    log = "off"
    if mesh:
        log = f"{files}/{hop}-access.log all"
        head += """
    log_format all '$remote_addr $time_iso8601 $status $bytes_sent $bytes_received '
                   '$session_time $upstream_addr $upstream_bytes_sent $upstream_connect_time';"""
    module = f"load_module {MODULE};\n" if MODULE.exists() else ""
    return f"""{module}daemon off;
worker_processes 1;
pid {files}/{hop}.pid;
error_log stderr warn;
events {{ worker_connections 19000; }}
stream {{{head}
    access_log {log};
    server {{
        {listen};
        proxy_pass {upstream};
        proxy_buffer_size {task.buffer_bytes};
        proxy_timeout 1h;
        tcp_nodelay on;{tls}
    }}
}}
"""


def start(task: Task) -> AbstractAsyncContextManager[Contestant]:
    hops.write_credentials(task)

    def command(hop: str) -> tuple[str, ...]:
        path = readable_by_nobody(task.scratch / f"{hop}.conf", config(task, hop))
        return ("nginx", "-e", "stderr", "-p", str(task.scratch), "-c", str(path))

    return hops.chain("nginx", task, command)
