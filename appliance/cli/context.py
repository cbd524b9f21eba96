"""What every command shares: where the daemon is, running one call against it, and lists."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import click
from google.protobuf.message import Message

from appliance.api.client import AdminClient, Remote
from appliance.cli.output import Columns, errors, format_option, show_list
from appliance.errors import InvalidInput
from appliance.paths import Paths

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Context:
    paths: Paths
    remote: Remote | None = None

    def here_only(self, command: str) -> None:
        """Raises InvalidInput where --remote was given: the command works on this box's own."""
        if self.remote is not None:
            raise InvalidInput(
                f"`sluice {command}` works on this box alone: run it, without --remote, on "
                f"{self.remote.address}"
            )

    def call(self, act: Callable[[AdminClient], Awaitable[Result]]) -> Result:
        """Connects, runs act, closes. Raises ApplianceError."""

        async def run() -> Result:
            async with AdminClient(self.paths, self.remote) as client:
                result = await act(client)
                for line in client.left_undone:
                    errors.print(f"sluice: done, but {line}", markup=False, soft_wrap=True)
                return result

        return asyncio.run(run())


def list_command(
    group: click.Group,
    text: str,
    fetch: Callable[[AdminClient], Awaitable[Iterable[Message]]],
    columns: Columns,
    empty: str,
) -> None:
    """Gives the group its `list`; see output.show_list for columns and empty."""

    @group.command("list", help=text)
    @format_option
    @click.pass_obj
    def listing(context: Context, fmt: str) -> None:
        show_list(context.call(fetch), columns, fmt, empty)
