"""What documents, registry and peers come to together: the value that is judged and compiled. Pure.

Made once for a change and handed along, so that nothing is merged twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

from appliance.compile.hosts import hosts_by_name
from appliance.compile.services import Entries, ServiceView, index, services
from appliance.compile.traffic import Rule, rules
from appliance.config.model import Model
from appliance.registry.model import Host, Registry
from appliance.site import Site
from dataplane.snapshot import Address


@dataclass(frozen=True, slots=True)
class Mesh:
    model: Model
    registry: Registry
    site: Site
    hosts: Mapping[str, Host]  # by name
    views: Mapping[str, ServiceView]  # by service key, in its order
    entries: Entries
    rules: Mapping[str, Rule]  # by service key

    @classmethod
    def of(cls, model: Model, registry: Registry, site: Site) -> Self:
        zone = site.spec.zone
        hosts, entries = hosts_by_name(model, registry), index(model, zone)
        views = services(model, registry, site, hosts, entries)
        return cls(
            model=model,
            registry=registry,
            site=site,
            hosts=hosts,
            views={view.key: view for view in views},
            entries=entries,
            rules=rules(model, entries.aliases, zone),
        )

    def allocated(self, registry: Registry) -> Self:
        """The same with what the store has allocated: registry differs in vips and sets only."""
        vips = registry.vips
        views = {key: _with_vips(view, vips.get(key, ())) for key, view in self.views.items()}
        return replace(self, registry=registry, views=views)

    def updated(self, registry: Registry, keys: Collection[str]) -> Self:
        """The same after endpoints of the services with these keys changed, and nothing else."""
        views = dict(self.views)
        for key in keys:
            for view in services(self.model, registry, self.site, self.hosts, self.entries, key):
                views[key] = view
        return replace(self, registry=registry, views=views)


def _with_vips(view: ServiceView, allocated: tuple[Address, ...]) -> ServiceView:
    vips = view.addresses or allocated
    return view if view.vips == vips else replace(view, vips=vips)
