"""What every command shares: where the daemon is, and running one call against it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from appliance.api.client import AdminClient
from appliance.paths import Paths

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Context:
    paths: Paths

    def call(self, act: Callable[[AdminClient], Awaitable[Result]]) -> Result:
        """Connects, runs act, closes. Raises ApplianceError."""

        async def run() -> Result:
            async with AdminClient(self.paths) as client:
                return await act(client)

        return asyncio.run(run())
