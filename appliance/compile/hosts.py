"""Hosts as traffic's sources and as endpoints: the registry's and the documents'. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from appliance.address import plain
from appliance.config import own
from appliance.config.model import Document, Model
from appliance.errors import InvalidInput
from appliance.identity import workload_id
from appliance.registry.model import Host, HostKind, HostState, Registry
from dataplane import snapshot
from dataplane.snapshot import Address, Grade


def host_grade(host: Host) -> Grade:
    """How sure we are that traffic is this host's: by how it is bound."""
    if host.kind is HostKind.AGENT:
        return Grade.KEY
    if host.interface is not None:
        return Grade.PORT
    return Grade.L2 if host.mac is not None else Grade.L3


def hosts(model: Model, registry: Registry) -> tuple[Host, ...]:
    """All hosts by name; one of the registry hides a document of the same name."""
    found = hosts_by_name(model, registry)
    return tuple(found[name] for name in sorted(found))


def hosts_by_name(model: Model, registry: Registry) -> dict[str, Host]:
    found = {doc.name: _of_document(doc) for doc in model.of(own.Host)}
    found.update({host.name: host for host in registry.hosts})
    return found


def _of_document(doc: Document[own.Host]) -> Host:
    host = Host(
        name=doc.name,
        namespace=doc.namespace,
        service_account=doc.spec.service_account,
        kind=HostKind.AGENTLESS,
        state=HostState.ACTIVE,
        grade=Grade.L3,
        addresses=doc.spec.addresses,
        mac=doc.spec.mac,
        interface=doc.spec.interface,
        labels=MappingProxyType(dict(doc.labels)),
    )
    return replace(host, grade=host_grade(host))


def host_id(host: Host, trust_domain: str) -> str | None:
    """Its SPIFFE ID; None when its names do not make one."""
    return identity(trust_domain, host.namespace, host.service_account)


def identity(trust_domain: str, namespace: str, service_account: str) -> str | None:
    try:
        return workload_id(trust_domain, namespace, service_account)
    except InvalidInput:
        return None


def leaf_key(spiffe_id: str, grade: Grade | None) -> str:
    return f"{spiffe_id}|{grade.name.lower() if grade is not None else '-'}"


def sources(
    by_name: Mapping[str, Host], trust_domain: str, leaves: Mapping[str, object]
) -> tuple[snapshot.Host, ...]:
    """What the data plane knows sources by: each address once, each agent's identity once.

    A revoked host is known too, until it is removed or another has its address: an unknown source
    would be let in where a service is PERMISSIVE.
    """
    taken: set[Address | str] = set()
    found: list[snapshot.Host] = []
    ordered = [by_name[name] for name in sorted(by_name)]
    for host in ordered:
        spiffe_id = host_id(host, trust_domain)
        if host.state is not HostState.ACTIVE or spiffe_id is None:
            continue
        grade = host_grade(host)
        key = leaf_key(spiffe_id, grade)
        leaf = key if key in leaves else None
        if host.kind is HostKind.AGENT:
            if spiffe_id not in taken:
                taken.add(spiffe_id)
                found.append(snapshot.Host(host.name, grade, leaf, agent_id=spiffe_id))
            continue
        for address in plain(host.addresses):
            if address not in taken:
                taken.add(address)
                found.append(snapshot.Host(host.name, grade, leaf, address=address))
    for host in ordered:
        if host.state is HostState.REVOKED:
            for address in plain(host.addresses):
                if address not in taken:
                    taken.add(address)
                    found.append(snapshot.Host(host.name, Grade.NONE, None, address=address))
    return tuple(found)
