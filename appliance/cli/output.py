"""How replies are printed: a table for people, JSON or YAML for programs.

Owns formats only. A message becomes plain data with every field present, so that scripts can
rely on the keys; 64-bit numbers stay numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.api.text import shown

# Into a pipe nothing is folded: a line stays a line.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
errors = Console(stderr=True, highlight=False)

REVISION = click.IntRange(0, 2**63 - 1)  # 0: before the first
MADE_REVISION = click.IntRange(1, REVISION.max)
FORMATS = ("table", "json", "yaml")
format_option = click.option(
    "-o", "--output", "fmt", type=click.Choice(FORMATS), default="table", help="Output format."
)


def plain(value: Any) -> Any:
    """A message, or anything in one, as dicts, lists and scalars."""
    if not isinstance(value, Message):
        return value
    data: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        held = getattr(value, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            data[field.name] = {key: plain(held[key]) for key in sorted(held)}
        elif field.is_repeated:
            data[field.name] = [plain(item) for item in held]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            data[field.name] = plain(held) if value.HasField(field.name) else None
        else:
            data[field.name] = held
    return data


def show_data(data: Any, fmt: str) -> None:
    if fmt == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)


Columns = Mapping[str, Callable[[Any], str]]


def show_list(items: Iterable[Message], columns: Columns, fmt: str, empty: str) -> None:
    """columns: heading → the cell's text for an item. empty: what to say (and do) when none."""
    found: Sequence[Message] = list(items)
    if fmt != "table":
        show_data([plain(item) for item in found], fmt)
        return
    if not found:
        console.print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading.upper(), overflow="fold")
    for item in found:
        # As Text: nothing that a host, a peer or a document named is taken for markup.
        table.add_row(*(Text(shown(cell(item))) for cell in columns.values()))
    console.print(table)


def labels(held: Mapping[str, str]) -> str:
    return ",".join(f"{key}={held[key]}" for key in sorted(held)) or "-"
