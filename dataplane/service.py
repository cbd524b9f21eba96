"""The calls of dataplane.proto on a Unix socket: thin; the host does the work.

Owns the gRPC server and its limits. Who may connect is the socket's mode (the directory's group);
who may publish shows by the seal on the bytes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio

from dataplane import wire
from dataplane._gen import dataplane_pb2 as pb
from dataplane._gen import dataplane_pb2_grpc as rpc
from dataplane.feed import Feed, TooManyWatchers
from dataplane.host import Answer, Host

log = logging.getLogger(__name__)

CALLS_MAX = 32
OPTIONS = [
    ("grpc.max_receive_message_length", wire.BODY_BYTES_MAX + 4096),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_concurrent_streams", CALLS_MAX),
    ("grpc.so_reuseport", 0),
]


class Service(rpc.DataplaneServicer):
    """hello: what a watcher gets first."""

    def __init__(
        self, process: str, host: Host, feed: Feed, hello: Callable[[], pb.Report]
    ) -> None:
        self._process = process
        self._host = host
        self._feed = feed
        self._hello = hello

    async def Publish(self, request: pb.Sealed, context: object) -> pb.Ack:
        return self._ack(await self._host.publish(request.body, request.mac))

    async def PublishSet(self, request: pb.Sealed, context: object) -> pb.Ack:
        return self._ack(await self._host.publish_set(request.body, request.mac))

    async def LoseLinks(self, request: pb.Sealed, context: object) -> pb.Ack:
        return self._ack(await self._host.lose_links(request.body, request.mac))

    async def Watch(
        self,
        request: pb.WatchRequest,
        context: grpc.aio.ServicerContext[pb.WatchRequest, pb.Report],
    ) -> AsyncIterator[pb.Report]:
        try:
            async for report in self._feed.watch(self._hello()):
                yield report
        except TooManyWatchers:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watchers")

    def _ack(self, answer: Answer) -> pb.Ack:
        return pb.Ack(
            accepted=answer.accepted,
            version=answer.version,
            reason=answer.reason,
            applied_ms=answer.applied_ms,
            process=self._process,
        )


async def serve(service: Service, path: Path) -> grpc.aio.Server:
    """Starts on path, which the owner and the directory's group may use. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
    rpc.add_DataplaneServicer_to_server(service, server)
    before = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    except RuntimeError as error:
        raise OSError(f"{path}: cannot listen there: {error}") from error
    finally:
        os.umask(before)
    return server
