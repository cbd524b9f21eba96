"""Documents against each other, the registry and the site: what is refused, what approximated.

For apply only: what was accepted once stays, whatever hosts and peers come or go later, so a
publish never asks again, and apply blames a change for nothing that was so before it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.compile.mesh import Mesh
from appliance.config.notes import Level, Note
from appliance.config.verify import definitions, fields, offload, policies, traffic
from appliance.config.verify.context import Context

__all__ = ["refusals", "verify"]


def verify(mesh: Mesh) -> list[Note]:
    """All notes, by file and line."""
    context = Context(mesh)
    notes = [
        *fields.approximations(context),
        *definitions.notes(context),
        *traffic.notes(context),
        *policies.notes(context),
        *offload.notes(context),
    ]
    return sorted(notes, key=lambda note: (note.file, note.line, note.path, note.text))


def refusals(notes: Iterable[Note]) -> list[Note]:
    """Those that keep the documents from being applied."""
    return [note for note in notes if note.level is Level.REFUSED]
