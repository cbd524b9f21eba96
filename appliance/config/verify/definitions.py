"""Services, hosts and workloads: each defined once, with addresses that can be theirs."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.compile.services import EntryName, ServiceView, entry_names, workload_name
from appliance.config import istio, own
from appliance.config.model import AnyDocument, Document
from appliance.config.notes import Level, Note
from appliance.config.verify.context import Context, Path, listed, twice
from appliance.identity import service_key
from dataplane.snapshot import Address

Entry = Document[istio.ServiceEntry]


def notes(context: Context) -> Iterator[Note]:
    first: dict[str, AnyDocument] = {}
    for service in context.model.of(own.Service):
        first[service_key(service.name, service.namespace)] = service
        yield from _service(context, service)
    registered = frozenset(service.key for service in context.registry.services)
    for entry in context.model.of(istio.ServiceEntry):
        yield from _entry(context, entry, first, registered)
    yield from _virtual_addresses(context)
    yield from _hosts(context)
    yield from _workloads(context)


def _service(context: Context, doc: Document[own.Service]) -> Iterator[Note]:
    yield from twice(doc, ("spec", "ports"), [port.port for port in doc.spec.ports])
    view = context.views.get(service_key(doc.name, doc.namespace))
    if doc.spec.selector and not (view and view.endpoints):
        text = "it selects no host or WorkloadEntry now"
        yield doc.note(Level.APPROXIMATED, ("spec", "selector"), text)


def _entry(
    context: Context, doc: Entry, first: dict[str, AnyDocument], registered: frozenset[str]
) -> Iterator[Note]:
    yield from twice(doc, ("spec", "ports"), [port.number for port in doc.spec.ports])
    for number, name in enumerate(entry_names(doc, context.zone)):
        problem = _name_problem(doc, name, first, registered)
        path: Path = ("spec", "hosts", number)
        if problem is not None:
            yield doc.note(Level.REFUSED, path, problem)
        elif name.foreign:
            text = f"DNS answers mesh names only: hosts reach it as {name.key}.{context.zone}"
            yield doc.note(Level.APPROXIMATED, path, text)
        if name.key is not None:
            first.setdefault(name.key, doc)
    keys = [name.key for name in entry_names(doc, context.zone) if name.key is not None]
    views = [context.views[key] for key in keys if key in context.views]
    if not any(view.endpoints for view in views):
        yield doc.note(Level.APPROXIMATED, ("spec",), "it has no endpoint now")
    for view in views[:1]:
        yield from _accounts(doc, view)


def _name_problem(
    doc: Entry, name: EntryName, first: dict[str, AnyDocument], registered: frozenset[str]
) -> str | None:
    if "*" in name.host:
        return "wildcards are not in this version: write each host"
    if name.key is None:
        return f"{doc.name} is to be a part of its mesh name: use letters, digits and hyphens"
    taken = first.get(name.key)
    if taken is not None and taken is not doc:
        return f"{name.key} is defined by {taken} already: write one document a service"
    if taken is doc and name.foreign:
        return f"{name.key} stands for one host: write a ServiceEntry for each"
    if name.key in registered:
        return f"{name.key} is registered by hosts already: describe it by a Service instead"
    return None


def _accounts(doc: Entry, view: ServiceView) -> Iterator[Note]:
    given = {each.service_account for each in view.endpoints if each.service_account}
    if view.service_account is not None and len(given) > 1:
        text = (
            f"its endpoints have several service accounts: {view.service_account} answers for all"
        )
        yield doc.note(Level.APPROXIMATED, ("spec",), text)


def _virtual_addresses(context: Context) -> Iterator[Note]:
    vip = context.site.spec.vip
    owners: dict[Address, str] = {
        address: key for key, vips in context.registry.vips.items() for address in vips
    }
    for key, doc, number, address in _wanted_addresses(context):
        path: Path = ("spec", "addresses", number)
        if address not in vip.ipv4 and address not in vip.ipv6:
            text = f"not a virtual address: take one of {vip.ipv4} or {vip.ipv6}"
            yield doc.note(Level.REFUSED, path, text)
        elif (owner := owners.setdefault(address, key)) != key:
            yield doc.note(Level.REFUSED, path, f"{address} is {owner}'s already: take another")


def _wanted_addresses(context: Context) -> Iterator[tuple[str, AnyDocument, int, Address]]:
    for service in context.model.of(own.Service):
        for number, address in enumerate(service.spec.addresses):
            yield service_key(service.name, service.namespace), service, number, address
    for doc in context.model.of(istio.ServiceEntry):
        for key in dict.fromkeys(name.key for name in entry_names(doc, context.zone)):
            for number, address in enumerate(doc.spec.addresses):
                if key is not None:
                    yield key, doc, number, address


def _hosts(context: Context) -> Iterator[Note]:
    spec = context.site.spec
    reserved = (*spec.hosts.addresses, *spec.mesh.addresses)
    registered = {host.name for host in context.registry.hosts}
    bound = {address: h.name for h in context.registry.hosts for address in h.addresses}
    names: dict[str, AnyDocument] = {}
    for doc in context.model.of(own.Host):
        first = names.setdefault(doc.name, doc)
        if doc.name in registered:
            text = f"the host {doc.name} was added already: remove it first, or this document"
            yield doc.note(Level.REFUSED, ("metadata", "name"), text)
        elif first is not doc:
            text = f"{first} has this name too: a host's name is unique in the site"
            yield doc.note(Level.REFUSED, ("metadata", "name"), text)
        if doc.spec.interface and doc.spec.interface not in spec.hosts.interfaces:
            text = f"hosts are on {listed(spec.hosts.interfaces)}: write one of them"
            yield doc.note(Level.REFUSED, ("spec", "interface"), text)
        for number, address in enumerate(doc.spec.addresses):
            path: Path = ("spec", "addresses", number)
            if address in reserved or address in spec.vip.ipv4 or address in spec.vip.ipv6:
                text = f"{address} is the appliance's own or a virtual one: write the host's"
                yield doc.note(Level.REFUSED, path, text)
            elif (owner := bound.setdefault(address, doc.name)) != doc.name:
                yield doc.note(Level.REFUSED, path, f"{address} is bound to {owner} already")


def _workloads(context: Context) -> Iterator[Note]:
    selecting: dict[tuple[str, Address], list[ServiceView]] = {}
    for view in context.local:
        for endpoint in view.endpoints:
            selecting.setdefault((endpoint.host, endpoint.address), []).append(view)
    for doc in context.model.of(istio.WorkloadEntry):
        views = selecting.get((workload_name(doc), doc.spec.address))
        if not views:
            text = "no ServiceEntry or Service of its namespace selects its labels"
            yield doc.note(Level.APPROXIMATED, ("spec", "labels"), text)
            continue
        known = {port.name for view in views for port in view.ports}
        for name in doc.spec.ports:
            if name not in known:
                text = f"no service that selects it has this port: known are {listed(known)}"
                yield doc.note(Level.REFUSED, ("spec", "ports", name), text)
