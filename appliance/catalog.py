"""What is published, as those who ask see it: services with endpoints, exports, ports of hosts.

Owns lazily made views of the last publish; decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from appliance.compile import ServiceView, exports
from appliance.publish import Published
from appliance.registry.model import ImportedService


class Catalog:
    def __init__(self) -> None:
        self._published: Published | None = None
        self._exports: tuple[ImportedService, ...] | None = None
        self._ports: Mapping[str, tuple[int, ...]] | None = None

    def set(self, published: Published) -> None:
        self._published = published
        self._exports = self._ports = None

    def views(self) -> Collection[ServiceView]:
        """By key."""
        return self._published.mesh.views.values() if self._published else ()

    def exports(self) -> tuple[ImportedService, ...]:
        if self._exports is None:
            self._exports = exports(self._published.mesh) if self._published else ()
        return self._exports

    def ports(self, host: str) -> tuple[int, ...]:
        """Where services listen on the host."""
        if self._ports is None:
            found: dict[str, set[int]] = {}
            for view in self.views():
                for endpoint in view.endpoints:
                    found.setdefault(endpoint.host, set()).update(
                        endpoint.ports.get(port.number, port.target) for port in view.ports
                    )
            self._ports = {name: tuple(sorted(ports)) for name, ports in found.items()}
        return self._ports.get(host, ())
