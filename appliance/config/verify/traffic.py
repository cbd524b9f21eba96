"""DestinationRules: they name services, ports and subsets that can be."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.compile.services import ServiceView
from appliance.compile.sets import server_name
from appliance.compile.traffic import Rule, target
from appliance.config import istio
from appliance.config.model import AnyDocument
from appliance.config.notes import Level, Note
from appliance.config.verify.context import Context, Path, listed, twice
from appliance.identity import LABEL_MAX, SNI_MAX

_POLICY = "trafficPolicy"


def notes(context: Context) -> Iterator[Note]:
    seen: dict[str, AnyDocument] = {}
    for doc in context.model.of(istio.DestinationRule):
        key = target(doc.spec.host, doc.namespace, context.aliases, context.zone)
        view = context.views.get(key) if key is not None else None
        if view is None:
            text = f"there is no service {key or doc.spec.host}: add a host for it, a Service or "
            text += "a ServiceEntry first"
            yield doc.note(Level.REFUSED, ("spec", "host"), text)
            continue
        if (first := seen.setdefault(view.key, doc)) is not doc:
            text = f"{first} is for {view.key} too: write one rule a service"
            yield doc.note(Level.REFUSED, ("spec", "host"), text)
        if doc.spec.traffic_policy:
            yield from _policy(doc, view, doc.spec.traffic_policy, ("spec", _POLICY))
        yield from twice(doc, ("spec", "subsets"), [each.name for each in doc.spec.subsets])
        for number, subset in enumerate(doc.spec.subsets):
            yield from _subset(context, doc, view, subset, ("spec", "subsets", number))


def _policy(
    doc: Rule, view: ServiceView, policy: istio.TrafficPolicy, path: Path
) -> Iterator[Note]:
    known = {port.number for port in view.ports}
    own = policy.port_level_settings
    yield from twice(doc, (*path, "portLevelSettings"), [each.port.number for each in own])
    yield from _old_names(doc, policy, path)
    for number, each in enumerate(own):
        where: Path = (*path, "portLevelSettings", number)
        yield from _old_names(doc, each, where)
        if each.port.number not in known:
            text = f"{view.key} has no such port: write one of {listed(map(str, known))}"
            yield doc.note(Level.REFUSED, (*where, "port", "number"), text)


def _old_names(doc: Rule, settings: istio.TrafficSettings, path: Path) -> Iterator[Note]:
    if settings.load_balancer is not None and settings.load_balancer.simple == "LEAST_CONN":
        text = "the old name of LEAST_REQUEST: taken as that"
        yield doc.note(Level.APPROXIMATED, (*path, "loadBalancer", "simple"), text)


def _subset(
    context: Context, doc: Rule, view: ServiceView, subset: istio.Subset, path: Path
) -> Iterator[Note]:
    policy, domain = subset.traffic_policy, context.site.trust_domain
    if policy is not None:
        yield from _policy(doc, view, policy, (*path, _POLICY))
        if policy.proxy_protocol is not None:
            text = "holds for the whole service: write it in the rule's trafficPolicy"
            yield doc.note(Level.REFUSED, (*path, _POLICY, "proxyProtocol"), text)
    if any(server_name(view, port.number, subset.name, domain) is None for port in view.ports):
        text = f"the mesh name {subset.name}.<port>.{view.key}.{domain} is longer than {SNI_MAX}, "
        text += f"or a part of it than {LABEL_MAX}: shorten the subset's name"
        yield doc.note(Level.REFUSED, (*path, "name"), text)
    if view.is_local and view not in context.selected(subset.labels, view.namespace):
        text = "no endpoint of this site has these labels now"
        yield doc.note(Level.APPROXIMATED, (*path, "labels"), text)
