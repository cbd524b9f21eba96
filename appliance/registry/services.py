"""Services that hosts registered, and their endpoints. Owns their tables and how they are named.

Services that documents declare are no rows here; compile merges both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from types import MappingProxyType

from appliance.errors import Conflict, InvalidInput
from appliance.identity import is_label
from appliance.registry.model import Endpoint, HealthCheck, Host, Service, ServicePort
from appliance.registry.store import Row, Store

PROTOCOLS = ("tcp", "tls", "http", "http2", "grpc")
PORTS_MAX = 256
_SPEC = re.compile(r"([^:>/]+):(\d{1,5})(?:>(\d{1,5}))?(?:/([a-z0-9]+))?")


def parse(text: str) -> tuple[str, ServicePort]:
    """ "web:80>8080/http" -> ("web", port 80, at the host 8080, http). Raises InvalidInput."""
    match = _SPEC.fullmatch(text)
    if match is None or not is_label(match[1]):
        raise InvalidInput(f'{text[:80]!r}: write a service as "name:port", "web:80>8080/http"')
    number, target, protocol = int(match[2]), int(match[3] or match[2]), match[4] or "tcp"
    if not (1 <= number <= 65535 and 1 <= target <= 65535):
        raise InvalidInput(f"{text!r}: a port is 1 to 65535")
    if protocol not in PROTOCOLS:
        raise InvalidInput(f"{text!r}: the protocol is one of {', '.join(PROTOCOLS)}")
    return match[1], ServicePort(number, target, protocol)


def with_port(service: Service, port: ServicePort) -> Service:
    """The service with this port too; where the endpoint's own differs is the endpoint's matter."""
    for known in service.ports:
        if known.number == port.number:
            if known.protocol != port.protocol:
                raise Conflict(
                    f"{service.key} has port {port.number} as {known.protocol}, "
                    f"not {port.protocol}: give the same protocol"
                )
            return service
    if len(service.ports) >= PORTS_MAX:
        raise Conflict(f"{service.key} has {PORTS_MAX} ports already")
    return replace(service, ports=tuple(sorted((*service.ports, port), key=lambda p: p.number)))


class Services:
    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> tuple[Service, ...]:
        return tuple(_service(row) for row in self._store.all("SELECT * FROM services"))

    def endpoints(self, hosts: Sequence[Host], services: Sequence[Service]) -> list[Endpoint]:
        """Of hosts whose address is known; labels and account are the host's."""
        by_name = {host.name: host for host in hosts}
        accounts = {service.key: service.service_account for service in services}
        found = []
        for row in self._store.all("SELECT service, host, ports, weight FROM endpoints"):
            host = by_name[row["host"]]
            if not host.addresses:
                continue
            own = host.service_account != accounts.get(row["service"])
            found.append(
                Endpoint(
                    service=row["service"],
                    host=host.name,
                    address=host.addresses[0],
                    ports={int(key): value for key, value in json.loads(row["ports"]).items()},
                    labels=host.labels,
                    weight=row["weight"],
                    service_account=host.service_account if own else None,
                )
            )
        return found

    def register(self, host: Host, specs: Sequence[str]) -> None:
        """The host offers these. Inside the caller's transaction. Raises InvalidInput, Conflict."""
        targets: dict[str, dict[int, int]] = {}
        for name, port in map(parse, specs):
            row = self._store.one(
                "SELECT * FROM services WHERE name = ? AND namespace = ?", (name, host.namespace)
            )
            service = (
                _service(row)
                if row
                else Service(name, host.namespace, host.service_account, (), {"app": name})
            )
            self._put(service := with_port(service, port))
            (known,) = (each for each in service.ports if each.number == port.number)
            ports = targets.setdefault(service.key, {})
            if port.target != known.target:
                ports[port.number] = port.target
        for key, ports in targets.items():
            self._store.run(
                "INSERT INTO endpoints VALUES (?, ?, ?, 1)", (key, host.name, json.dumps(ports))
            )

    def drop_unused(self) -> None:
        """Services that nobody offers any more."""
        self._store.run(
            "DELETE FROM services WHERE name || '.' || namespace NOT IN"
            " (SELECT service FROM endpoints)"
        )

    def _put(self, service: Service) -> None:
        self._store.run(
            "INSERT OR REPLACE INTO services VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                service.name,
                service.namespace,
                service.service_account,
                json.dumps([asdict(port) for port in service.ports]),
                json.dumps(dict(service.labels)),
                int(service.exported),
                json.dumps(asdict(service.health)) if service.health else None,
                service.source_address,
            ),
        )


def _service(row: Row) -> Service:
    return Service(
        name=row["name"],
        namespace=row["namespace"],
        service_account=row["service_account"],
        ports=tuple(ServicePort(**port) for port in json.loads(row["ports"])),
        labels=MappingProxyType(json.loads(row["labels"])),
        exported=bool(row["exported"]),
        health=HealthCheck(**json.loads(row["health"])) if row["health"] else None,
        source_address=row["source_address"],
    )
