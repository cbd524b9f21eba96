"""Documents against each other, the registry and the site: what is refused, what approximated.

For apply only: what was accepted once stays, whatever hosts and peers come or go later, so a
publish never asks again and `judge` blames a change for nothing that was so before it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.config.model import Model
from appliance.config.notes import Level, Note
from appliance.config.verify import definitions, fields, policies, traffic
from appliance.config.verify.context import Context
from appliance.registry.model import Registry
from appliance.site import Site

__all__ = ["judge", "refusals", "verify"]


def verify(model: Model, registry: Registry, site: Site) -> list[Note]:
    """All notes, by file and line."""
    context = Context(model, registry, site)
    notes = [
        *fields.approximations(context),
        *definitions.notes(context),
        *traffic.notes(context),
        *policies.notes(context),
    ]
    return sorted(notes, key=lambda note: (note.file, note.line, note.path, note.text))


def judge(before: Model, after: Model, registry: Registry, site: Site) -> list[Note]:
    """What `verify` says of a change: of documents that changed, and what they make wrong."""
    known = {_told(note) for note in verify(before, registry, site)}
    old = {doc.key: doc for doc in before.documents}
    changed = {str(doc) for doc in after.documents if old.get(doc.key) != doc}
    notes = verify(after, registry, site)
    return [note for note in notes if note.document in changed or _told(note) not in known]


def refusals(notes: Iterable[Note]) -> list[Note]:
    """Those that keep the documents from being applied."""
    return [note for note in notes if note.level is Level.REFUSED]


def _told(note: Note) -> tuple[str, str, str]:
    return note.document, note.path, note.text
