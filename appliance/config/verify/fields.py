"""Fields that are marked `Approx`: said wherever one was written."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from appliance.config.field import Approx, Spec
from appliance.config.notes import Level, Note
from appliance.config.verify.context import Context, Path


def approximations(context: Context) -> Iterator[Note]:
    for doc in context.model.documents:
        for path, text in _in_spec(doc.spec, ("spec",)):
            yield doc.note(Level.APPROXIMATED, path, text)


@cache
def _marked(spec: type[Spec]) -> tuple[tuple[str, str, str | None], ...]:
    """Name, alias and mark's text of each field."""
    return tuple(
        (
            name,
            info.alias or name,
            next((mark.text for mark in info.metadata if isinstance(mark, Approx)), None),
        )
        for name, info in spec.model_fields.items()
    )


def _in_spec(spec: Spec, path: Path) -> Iterator[tuple[Path, str]]:
    for name, alias, text in _marked(type(spec)):
        if name in spec.model_fields_set:
            value = getattr(spec, name)
            if text is not None and value is not None:
                yield (*path, alias), text
            yield from _in_value(value, (*path, alias))


def _in_value(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Spec):
        yield from _in_spec(value, path)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _in_value(item, (*path, number))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _in_value(item, (*path, str(key)))
