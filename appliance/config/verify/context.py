"""What every check looks things up in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from appliance.compile.mesh import Mesh
from appliance.compile.services import LabelSets, ServiceView, selects
from appliance.config.model import AnyDocument
from appliance.config.notes import Level, Note

Path = tuple[str | int, ...]


class Context:
    def __init__(self, mesh: Mesh) -> None:
        self.model, self.registry, self.site = mesh.model, mesh.registry, mesh.site
        self.zone = mesh.site.spec.zone
        self.views, self.aliases = mesh.views, mesh.entries.aliases
        self.local = [view for view in self.views.values() if view.is_local]
        self.labels: Mapping[str, LabelSets] = {v.key: v.label_sets() for v in self.local}
        self._by_label: dict[tuple[str, str], dict[str, ServiceView]] = {}
        for view in self.local:
            for labels in self.labels[view.key]:
                for pair in labels.items():
                    self._by_label.setdefault(pair, {})[view.key] = view

    def selected(self, wanted: Mapping[str, str], namespace: str | None) -> list[ServiceView]:
        """Local services that have a workload with these labels; None = of any namespace."""
        views: Iterable[ServiceView] = self.local
        if wanted:
            views = self._by_label.get(min(wanted.items()), {}).values()
        return [
            view
            for view in views
            if namespace in (None, view.namespace)
            and any(selects(wanted, labels) for labels in self.labels[view.key])
        ]

    def is_whole(self, wanted: Mapping[str, str], view: ServiceView) -> bool:
        return all(selects(wanted, labels) for labels in self.labels[view.key])


def twice(doc: AnyDocument, path: Path, values: Iterable[Any]) -> Iterator[Note]:
    seen: set[Any] = set()
    for number, value in enumerate(values):
        if value in seen:
            yield doc.note(Level.REFUSED, (*path, number), f"{value} is there twice: keep one")
        seen.add(value)


def listed(texts: Iterable[str], limit: int = 5) -> str:
    items = sorted(texts)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
