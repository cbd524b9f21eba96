"""The OffloadProfile: one a site, no word of it against another, and never weaker unsaid."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.config.model import Document
from appliance.config.notes import Level, Note
from appliance.config.offload import NAME, TLS12, OffloadProfile
from appliance.config.verify.context import Context, twice

_MOVES = ("ktls", "nic")


def notes(context: Context) -> Iterator[Note]:
    for doc in context.model.of(OffloadProfile):
        if doc.name != NAME:
            text = f"a site has one profile: name it {NAME}"
            yield doc.note(Level.REFUSED, ("metadata", "name"), text)
        if doc.namespace != NAME:
            text = "it holds for the whole site: leave the namespace out"
            yield doc.note(Level.REFUSED, ("metadata", "namespace"), text)
        yield from _sense(doc)


def _sense(doc: Document[OffloadProfile]) -> Iterator[Note]:
    spec = doc.spec
    old = spec.tls.min_version == TLS12
    if spec.prefer == "nic" and not old:
        text = (
            "no NIC seals TLS 1.3 with this system: allow 1.2, which shows both certificates on "
            "the wire, or prefer ktls"
        )
        written = "min_version" in spec.tls.model_fields_set
        where = ("spec", "tls", "minVersion") if written else ("spec", "prefer")
        yield doc.note(Level.REFUSED, where, text if written else f"{text} (tls.minVersion)")
    if spec.prefer not in _MOVES and spec.minimum_bytes is not None:
        text = f"with prefer: {spec.prefer} no stream is moved: leave minimumBytes out"
        yield doc.note(Level.REFUSED, ("spec", "minimumBytes"), text)
    yield from twice(doc, ("spec", "ciphers"), spec.ciphers)
    if old and not any("AES" in each for each in spec.ciphers):
        text = "TLS 1.2 is spoken with AES-GCM only: add AES_128_GCM, or keep minVersion 1.3"
        yield doc.note(Level.REFUSED, ("spec", "ciphers"), text)
    elif old:
        which = "to peers that allow it" if spec.prefer == "nic" else "from peers that prefer it"
        text = f"mesh links {which} speak TLS 1.2, which shows both certificates on the wire, so "
        text += "which host talks to which service; all others speak TLS 1.3"
        yield doc.note(Level.APPROXIMATED, ("spec", "tls", "minVersion"), text)
