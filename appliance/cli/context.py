"""What every command shares: where the daemon is, and running one call against it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from appliance.api.client import AdminClient, Remote
from appliance.cli.output import errors
from appliance.paths import Paths

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Context:
    paths: Paths
    remote: Remote | None = None

    def call(self, act: Callable[[AdminClient], Awaitable[Result]]) -> Result:
        """Connects, runs act, closes. Raises ApplianceError."""

        async def run() -> Result:
            async with AdminClient(self.paths, self.remote) as client:
                result = await act(client)
                for line in client.left_undone:
                    errors.print(f"sluice: done, but {line}", markup=False, soft_wrap=True)
                return result

        return asyncio.run(run())
