"""The whole wanted state as a frozen value: documents by kind, namespace and name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

import yaml

from appliance.config import istio, own
from appliance.config.field import Spec
from appliance.config.notes import Level, Note, dotted
from appliance.config.offload import OffloadProfile
from appliance.config.tree import STRING_TAG, Node, plain_scalar

ROOT_NAMESPACE = "istio-system"  # policies here hold for every namespace
NETWORKING = "networking.istio.io"
SECURITY = "security.istio.io"
OWN = "sluice.dev"

KINDS: Mapping[tuple[str, str], tuple[tuple[str, ...], type[Spec]]] = {
    (SECURITY, "PeerAuthentication"): (("v1", "v1beta1"), istio.PeerAuthentication),
    (SECURITY, "AuthorizationPolicy"): (("v1", "v1beta1"), istio.AuthorizationPolicy),
    (NETWORKING, "ServiceEntry"): (("v1", "v1beta1", "v1alpha3"), istio.ServiceEntry),
    (NETWORKING, "WorkloadEntry"): (("v1", "v1beta1", "v1alpha3"), istio.WorkloadEntry),
    (NETWORKING, "DestinationRule"): (("v1", "v1beta1", "v1alpha3"), istio.DestinationRule),
    (OWN, "Service"): (("v1",), own.Service),
    (OWN, "Host"): (("v1",), own.Host),
    (OWN, "OffloadProfile"): (("v1",), OffloadProfile),
}

S = TypeVar("S", bound=Spec)
S_co = TypeVar("S_co", bound=Spec, covariant=True)
Key = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class Document(Generic[S_co]):
    api_version: str
    kind: str
    namespace: str
    name: str
    spec: S_co
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    file: str = field(default="", compare=False)
    above: int = field(default=0, compare=False)  # lines of the file before the node's
    node: Node | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> Key:
        return self.kind, self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    def note(self, level: Level, path: tuple[str | int, ...], text: str) -> Note:
        return Note(level, self.file or str(self), self.line_at(path), dotted(path), text)

    def line_at(self, path: tuple[str | int, ...]) -> int:
        """In its file; 0 = unknown."""
        return self.above + self.node.line_at(path) if self.node else 0

    def at(self, file: str, above: int) -> Self:
        """The same, read from another place."""
        if (file, above) == (self.file, self.above):
            return self
        return replace(self, file=file, above=above)


AnyDocument = Document[Spec]


@dataclass(frozen=True, slots=True)
class Model:
    documents: tuple[AnyDocument, ...] = ()  # by key

    def of(self, spec: type[S]) -> tuple[Document[S], ...]:
        """Documents with this kind of spec."""
        return tuple(doc for doc in self.documents if type(doc.spec) is spec)  # type: ignore[misc]


def model_of(documents: Iterable[AnyDocument]) -> Model:
    """A later document replaces an earlier one of the same key."""
    by_key = {doc.key: doc for doc in documents}
    return Model(tuple(by_key[key] for key in sorted(by_key)))


def merge(base: Model, given: Model) -> Model:
    return model_of((*base.documents, *given.documents))


def without(base: Model, keys: Iterable[Key]) -> Model:
    gone = frozenset(keys)
    return Model(tuple(doc for doc in base.documents if doc.key not in gone))


@dataclass(frozen=True, slots=True)
class Change:
    kind: str
    namespace: str
    name: str
    what: str  # created, changed, unchanged, deleted


def changes(before: Model, after: Model) -> tuple[Change, ...]:
    old = {doc.key: doc for doc in before.documents}
    new = {doc.key: doc for doc in after.documents}
    return tuple(Change(*key, _what(old.get(key), new.get(key))) for key in sorted({*old, *new}))


def _what(old: AnyDocument | None, new: AnyDocument | None) -> str:
    if old is None:
        return "created"
    if new is None:
        return "deleted"
    return "unchanged" if old is new or old == new else "changed"


def plain_document(doc: AnyDocument) -> dict[str, Any]:
    """As JSON has it: fields in Istio's order, only those that were written."""
    metadata: dict[str, Any] = {"name": doc.name, "namespace": doc.namespace}
    if doc.labels:
        metadata["labels"] = dict(sorted(doc.labels.items()))
    if doc.annotations:
        metadata["annotations"] = dict(sorted(doc.annotations.items()))
    return {
        "apiVersion": doc.api_version,
        "kind": doc.kind,
        "metadata": metadata,
        "spec": doc.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }


def dump_document(doc: AnyDocument) -> str:
    """Canonical YAML."""
    data = plain_document(doc)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def dump(model: Model) -> str:
    """load(dump(model)) == model."""
    return "---\n".join(dump_document(doc) for doc in model.documents)


def diff(a: Model, b: Model) -> str:
    """Unified diff of the documents that differ; "" when none does."""
    old = {doc.key: doc for doc in a.documents}
    new = {doc.key: doc for doc in b.documents}
    parts: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before != after:
            name = "{} {}/{}".format(*key)
            parts += difflib.unified_diff(
                _lines(before), _lines(after),
                name if before else "/dev/null", name if after else "/dev/null",
            )  # fmt: skip
    return "".join(parts)


def _lines(doc: AnyDocument | None) -> list[str]:
    return dump_document(doc).splitlines(keepends=True) if doc else []


_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]
    """PyYAML quotes what YAML 1.1 would not read as text; `tree` reads 1.2, so quote its too."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        style = None if isinstance(plain_scalar(value), str) else '"'
        node: yaml.ScalarNode = self.represent_scalar(STRING_TAG, value, style=style)
        return node


_Dumper.add_representer(str, _Dumper.text)
