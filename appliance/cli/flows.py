"""`sluice flows`: who talks to whom, how it is protected, and why it was refused."""

from __future__ import annotations

import asyncio
import json

import click

from appliance.api._gen import admin_pb2 as pb
from appliance.api.client import AdminClient
from appliance.api.text import short_id, shown, size
from appliance.cli.context import Context
from appliance.cli.output import (
    Columns,
    console,
    errors,
    format_option,
    plain,
    show_data,
    show_list,
)

COLUMNS: Columns = {
    "state": lambda f: f.state,
    "source": lambda f: short_id(f.source),
    "destination": lambda f: short_id(f.destination) if f.destination else f.service or "-",
    "grade": lambda f: f.grade,
    "tls": lambda f: f.tls_version or "-",
    "cipher": lambda f: f.cipher or "-",
    "layers": lambda f: f"{f.down_layer}>{f.up_layer}",
    "fallback": lambda f: f.fallback or "-",
    "up": lambda f: size(f.bytes_up),
    "down": lambda f: size(f.bytes_down),
    "connect": lambda f: f"{f.connect_ms:.1f} ms",
    "reason": lambda f: " ".join(part for part in (f.reason, f.detail) if part) or "-",
}


@click.command()
@click.option("--service", default="", help="Only this service: name.namespace.")
@click.option("--state", default="", type=click.Choice(["", "open", "closed", "refused"]))
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 5_000))
@click.option("-w", "--watch", is_flag=True, help="Go on as flows come.")
@format_option
@click.pass_obj
def flows(context: Context, service: str, state: str, limit: int, watch: bool, fmt: str) -> None:
    """List flows, newest first: identities, grade, record layer, bytes, reason."""
    if watch:
        asyncio.run(_watch(context, service, state, fmt))
        return
    reply = context.call(lambda client: client.flows(service, state, limit))
    show_list(reply.flows, COLUMNS, fmt, "No flows yet.")
    if reply.dropped_events and fmt == "table":
        errors.print(f"{reply.dropped_events} events were dropped: the list is not complete.")


async def _watch(context: Context, service: str, state: str, fmt: str) -> None:
    async with AdminClient(context.paths, context.remote) as client:
        async for update in client.watch(flows=True):
            for flow in update.flows.flows:
                if (service and flow.service != service) or (state and flow.state != state):
                    continue
                _line(flow, fmt)


def _line(flow: pb.Flow, fmt: str) -> None:
    if fmt == "table":
        line = "  ".join(cell(flow) for cell in COLUMNS.values())
        console.print(shown(line), markup=False, soft_wrap=True)
    elif fmt == "json":
        click.echo(json.dumps(plain(flow), ensure_ascii=False))  # a line a flow
    else:
        click.echo("---")
        show_data(plain(flow), fmt)
