"""HAProxy in TCP mode: one thread a process, two processes in a pair."""

from __future__ import annotations

import csv
import io
from contextlib import AbstractAsyncContextManager

from perf.peers import hops
from perf.peers.contestant import LOOPBACK, Contestant, Profile, Task
from perf.pki import CLIENT_NAME, SERVER_NAME
from perf.process import readable_by_nobody

TLS = "ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256"


def config(task: Task, hop: str, splicing: bool) -> str:
    """hop: "only", "a" (speaks TLS upstream) or "b" (takes TLS)."""
    mesh = task.profile is Profile.MESH
    listen, target = hops.ports(task, hop)
    bind, server, rules = f"bind {LOOPBACK}:{listen}", f"server s {LOOPBACK}:{target}", ""
    files = task.scratch
    if hop == "b":
        bind += f" ssl crt {files}/server.pem ca-file {files}/a-ca.pem verify required {TLS}"
        if mesh:
            rules = (
                f"    tcp-request session reject unless {{ ssl_c_s_dn(cn) -m str {CLIENT_NAME} }}"
            )
    if hop == "a":
        server += (
            f" ssl crt {files}/client.pem ca-file {files}/b-ca.pem verify required"
            f" sni str({SERVER_NAME}) {TLS}"
        )
        server += f" verifyhost {SERVER_NAME}" if mesh else ""
        server += "" if task.resume else " no-ssl-reuse"
    log = "    log stdout format raw local0 info\n    option tcplog\n" if mesh else ""
    metrics = f"""frontend metrics
    mode http
    no log
    bind unix@{hops.metrics(task, hop)}
    stats enable
    stats uri /stats
    http-request use-service prometheus-exporter if {{ path /metrics }}
"""
    splice = "    option splice-auto\n" if splicing else ""
    return f"""global
    nbthread 1
    maxconn 6000
    tune.bufsize {task.buffer_bytes}
    tune.ssl.default-dh-param 2048
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
{log}{splice}frontend f
    {bind}
    default_backend b
{rules}
backend b
    {server}
{metrics if mesh else ""}"""


async def _handshakes(task: Task) -> tuple[int, int]:
    """Its exporter does not tell them."""
    told = await hops.told(hops.metrics(task, "b"), "/stats;csv")
    table = told.partition("# ")[2]
    (row,) = (
        each
        for each in csv.DictReader(io.StringIO(table))
        if each["svname"] == "FRONTEND" and each["pxname"] == "f"
    )
    reused = int(row["ssl_reused_sess"])
    return int(row["ssl_sess"]) + reused, reused


def _start(name: str, task: Task, splicing: bool) -> AbstractAsyncContextManager[Contestant]:
    hops.write_credentials(task)

    def command(hop: str) -> tuple[str, ...]:
        path = readable_by_nobody(task.scratch / f"{hop}.cfg", config(task, hop, splicing))
        return ("haproxy", "-db", "-f", str(path))

    return hops.chain(name, task, command, lambda: _handshakes(task))


def start(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("haproxy", task, False)


def spliced(task: Task) -> AbstractAsyncContextManager[Contestant]:
    return _start("haproxy-splice", task, True)
