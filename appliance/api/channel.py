"""What our gRPC clients share: one channel, made at the first call and closed with its owner.

Owns its life and the turning of statuses into ApplianceErrors; knows no service.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from appliance.errors import BY_CODE, ApplianceError

MESSAGE_BYTES_MAX = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
)
Options = tuple[tuple[str, int], ...]


class Closing:
    """An async context manager that ends with `close`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None: ...


class Client(Closing):
    """make: how the channel is made, given its options. stub: the service's generated one."""

    def __init__(
        self,
        make: Callable[[Options], grpc.aio.Channel],
        stub: Callable[[grpc.aio.Channel], Any],
        options: Options = (),
    ) -> None:
        self._make, self._make_stub, self._options = make, stub, (*_OPTIONS, *options)
        self._channel: grpc.aio.Channel | None = None
        self._made: Any = None

    @property
    def _stub(self) -> Any:
        if self._channel is None:
            self._channel = self._make(self._options)
            self._made = self._make_stub(self._channel)
        return self._made

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)


def to(path: Path) -> Callable[[Options], grpc.aio.Channel]:
    """Over a Unix socket."""
    return lambda options: grpc.aio.insecure_channel(f"unix:{path}", options=options)


def answered(error: grpc.aio.AioRpcError) -> ApplianceError:
    """What the other side said."""
    kind = BY_CODE.get(error.code().name, ApplianceError)
    return kind(error.details() or error.code().name)
