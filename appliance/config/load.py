"""Documents' text to a Model: syntax and shapes only, see `verify` for sense. Pure.

Everything wrong in all sources is reported together (`DocumentErrors`), each with file, line,
path, what is wrong and what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, StrictStr, ValidationError

from appliance.config.field import Labels, Spec
from appliance.config.model import KINDS, AnyDocument, Document, Key, Model, model_of
from appliance.config.notes import DocumentErrors, Level, Note, dotted
from appliance.config.tree import (
    DOCUMENTS_MAX,
    NODES_MAX,
    Node,
    TreeError,
    documents,
    parts,
)
from appliance.identity import LABEL_PATTERN

NOTES_MAX = 100
KNOWN_CHARS_MAX = 16 * 1024 * 1024
NAME_MAX = 128  # "<kind> <namespace>/<name>" has to fit the data plane's DP_NAME_MAX
_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
_LABEL = re.compile(LABEL_PATTERN)
_NAMED_LIKE_DNS = ("Service", "Host")  # their name becomes a label of a mesh name
_LATER = {
    "VirtualService": "HTTP and TCP routing is not in this version: leave VirtualServices out; "
    "DestinationRule, ServiceEntry and the policies work",
    "Gateway": "ingress and egress gateways are not in this version: leave it out",
    "RequestAuthentication": "JWTs are not looked into in this version: leave it out",
    "Sidecar": "there are no sidecars to configure: use AuthorizationPolicy to limit who may "
    "reach what",
    "EnvoyFilter": "there is no Envoy here: leave it out",
    "WorkloadGroup": "hosts are added by `sluice host add`: leave it out",
    "Site": "the site's document is the file that `sluice up --site` reads: change it there",
}
_ANNOTATIONS = {
    "PeerAuthentication": ("sluice.dev/grade",),
    "ServiceEntry": ("sluice.dev/export",),
}


@dataclass(frozen=True, slots=True)
class Source:
    file: str  # as shown to people; "-" for standard input
    text: str


class Metadata(Spec):
    name: Annotated[StrictStr, Field(max_length=NAME_MAX), Field(pattern=_NAME)]
    namespace: Annotated[StrictStr, Field(pattern=f"^{LABEL_PATTERN}$")] = "default"
    labels: Labels = Field(default_factory=dict)
    annotations: Annotated[dict[str, StrictStr], Field(max_length=64)] = Field(default_factory=dict)


class Known:
    """Documents by the text that they were read from: what did not change is not read again.
    Bounded: the least recent go first."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[AnyDocument, ...]] = {}
        self._chars = 0

    def get(self, text: str) -> tuple[AnyDocument, ...] | None:
        found = self._documents.pop(text, None)
        if found is not None:
            self._documents[text] = found  # the most recent is last
        return found

    def put(self, text: str, documents: tuple[AnyDocument, ...]) -> None:
        self._documents[text] = documents
        self._chars += len(text)
        while self._chars > KNOWN_CHARS_MAX:
            oldest = next(iter(self._documents))
            del self._documents[oldest]
            self._chars -= len(oldest)


def load(sources: Sequence[Source], known: Known | None = None) -> Model:
    """Raises DocumentErrors; a document that is there twice is one of them. known: what was read
    before, and is read now."""
    found: dict[Key, AnyDocument] = {}
    notes: list[Note] = []
    for source in sources:
        for item in _read(source, known or Known()):
            if isinstance(item, Note):
                notes.append(item)
                continue
            first = found.get(item.key)
            if first is None:
                found[item.key] = item
            else:
                place = f"{first.file}:{first.line_at(())}"
                text = f"duplicate: {item} is in {place} too; keep one"
                notes.append(item.note(Level.REFUSED, ("metadata", "name"), text))
        if len(notes) > NOTES_MAX:
            break
    if notes:
        raise DocumentErrors(notes[:NOTES_MAX])
    return model_of(found.values())


def _read(source: Source, known: Known) -> Iterator[AnyDocument | Note]:
    above = nodes = count = 0
    try:
        for part in parts(source.text):
            above = part.above
            read: list[AnyDocument | Note] = []
            documents_ = known.get(part.text)
            if documents_ is not None:
                nodes += sum(doc.node.size for doc in documents_ if doc.node)
                count += len(documents_)
                read += (doc.at(source.file, above) for doc in documents_)
            else:
                for root in documents(part.text):
                    nodes, count = nodes + root.size, count + 1
                    _check_size(nodes, count, root.line)
                    if root.value is not None:
                        read += _document(_Place(source.file, above, root))
                good = tuple(item for item in read if isinstance(item, Document))
                if len(good) == len(read):
                    known.put(part.text, good)
            _check_size(nodes, count, 0)
            yield from read
    except TreeError as error:
        line, text = error.below(above)
        yield Note(Level.REFUSED, source.file, line, "", text)


def _check_size(nodes: int, count: int, line: int) -> None:
    if nodes > NODES_MAX or count > DOCUMENTS_MAX:
        raise TreeError(
            line, f"more than {NODES_MAX} values or {DOCUMENTS_MAX} documents: split it"
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a document is read from."""

    file: str
    above: int  # lines before the part of the file that root's lines count in
    root: Node

    def refused(self, path: Sequence[str | int], text: str) -> Note:
        line = self.above + self.root.line_at(path)
        return Note(Level.REFUSED, self.file, line, dotted(path), text)


def _document(place: _Place) -> Iterator[AnyDocument | Note]:
    root, refused = place.root, place.refused
    if not isinstance(root.value, dict):
        yield refused((), "not a document: write apiVersion, kind, metadata and spec")
        return
    data = root.plain()
    unknown = [key for key in data if key not in ("apiVersion", "kind", "metadata", "spec")]
    for key in unknown:
        yield refused((key,), "unknown field: a document has apiVersion, kind, metadata and spec")
    api_version, kind = data.get("apiVersion"), data.get("kind")
    if not (isinstance(api_version, str) and isinstance(kind, str)):
        yield refused(("kind" if isinstance(api_version, str) else "apiVersion",),
                      "missing or not text: write both apiVersion and kind")  # fmt: skip
        return
    spec_class = _spec_class(api_version, kind)
    if isinstance(spec_class, str):
        yield refused(("kind",), spec_class)
        return
    metadata = _validated(Metadata, data.get("metadata"), "metadata", place)
    spec = _validated(spec_class, data.get("spec", {}), "spec", place)
    problems = [*(metadata if isinstance(metadata, list) else ()),
                *(spec if isinstance(spec, list) else ())]  # fmt: skip
    if isinstance(metadata, Metadata):
        problems += [refused(*problem) for problem in _metadata_problems(kind, metadata)]
    yield from problems
    if problems or unknown or isinstance(metadata, list) or isinstance(spec, list):
        return
    yield Document(
        api_version, kind, metadata.namespace, metadata.name, spec,
        metadata.labels, metadata.annotations, place.file, place.above, root,
    )  # fmt: skip


def _spec_class(api_version: str, kind: str) -> type[Spec] | str:
    """The spec's class, or why there is none."""
    group, _, version = api_version.partition("/")
    if (group, kind) in KINDS:
        versions, spec_class = KINDS[group, kind]
        if version in versions:
            return spec_class
        return f"{api_version} is not known for {kind}: write {group}/{versions[0]}"
    if kind in _LATER:
        return f"{kind}: {_LATER[kind]}"
    for known_group, known_kind in KINDS:
        if known_kind == kind:
            return f"{kind} is not of {group[:80]!r}: write apiVersion {known_group}/v1"
    known = ", ".join(sorted({known_kind for _, known_kind in KINDS}))
    return f"{kind[:80]!r} is not a kind known here: write one of {known}"


def _validated(model: type[Any], data: Any, part: str, place: _Place) -> Any | list[Note]:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return [
            _note(model, details, part, place)
            for details in found
            if details["type"] != "too_short" or not _follows(details["loc"], found)
        ]


def _follows(path: tuple[Any, ...], found: Sequence[Any]) -> bool:
    """A list is only too short because its items were refused."""
    return any(other["loc"][: len(path)] == path != other["loc"] for other in found)


def _note(model: type[Spec], details: Any, part: str, place: _Place) -> Note:
    path = (part, *details["loc"])
    if path[-1] == "[key]":
        path = path[:-1]
    kind, text = details["type"], details["msg"]
    if kind == "extra_forbidden":
        text = f"unknown field: {_hint(model, path)}"
    elif kind == "missing":
        text = "missing: add it"
    elif kind == "value_error":
        text = text.removeprefix("Value error, ")
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        text = "not a mapping: write fields under it"
    elif kind == "too_short":
        text = "empty: write at least one, or leave the field out"
    elif kind == "tuple_type":
        text = "not a list: write items with -"
    elif kind == "string_type":
        text = "not text: put it in quotes"
    elif kind == "int_type":
        text = "not a whole number"
    elif kind == "bool_type":
        text = "write true or false"
    elif kind == "string_too_long":
        text = f"longer than {details['ctx']['max_length']} characters: shorten it"
    elif kind == "string_pattern_mismatch":
        text = "malformed: use lower case letters, digits and hyphens, at most 63 in a label"
    return place.refused(path, text)


def _hint(model: type[Spec], path: Sequence[str | int]) -> str:
    known = sorted(_fields_at(model, path[1:-1]))
    close = difflib.get_close_matches(str(path[-1]), known, 1)
    return f"did you mean {close[0]}?" if close else f"remove it; known are {', '.join(known)}"


def _fields_at(model: type[Spec], path: Sequence[str | int]) -> set[str]:
    """The field names that are known at path, by following the models' annotations."""
    models = {model}
    for part in path:
        if isinstance(part, int):
            continue
        models = {
            inner
            for outer in models
            for name, info in outer.model_fields.items()
            if (info.alias or name) == part
            for inner in _models_in(info.annotation)
        } or models
    return {info.alias or name for outer in models for name, info in outer.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _metadata_problems(
    kind: str, metadata: Metadata
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if kind in _NAMED_LIKE_DNS and not _LABEL.fullmatch(metadata.name):
        yield ("metadata", "name"), "it becomes part of a mesh name: at most 63 letters, digits, -"
    known = _ANNOTATIONS.get(kind, ())
    for key, value in metadata.annotations.items():
        path = ("metadata", "annotations", key)
        if key.startswith("sluice.dev/") and key not in known:
            good = f"write one of {', '.join(known)}" if known else "remove it"
            yield path, f"unknown annotation of {kind}: {good}"
        elif key == "sluice.dev/grade" and value not in ("l3", "l2", "port", "key"):
            yield path, f"{value[:80]!r} is no grade: write l3, l2, port or key"
        elif key == "sluice.dev/export" and value not in ("true", "false"):
            yield path, 'write "true" or "false"'
        elif key == "istio.io/dry-run" and value != "false":
            yield path, "dry runs of policies are not in this version: remove the document"
