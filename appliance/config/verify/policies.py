"""AuthorizationPolicy and PeerAuthentication: whom they hold for, and what TCP cannot see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from appliance.compile import authn, authz
from appliance.compile.services import ServiceView
from appliance.config import istio
from appliance.config.condition import FIELDS, PORT_KEY, is_http
from appliance.config.field import Spec
from appliance.config.model import ROOT_NAMESPACE, AnyDocument
from appliance.config.notes import Level, Note
from appliance.config.verify.context import Context, Path, listed
from dataplane.snapshot import Field


def notes(context: Context) -> Iterator[Note]:
    yield from _authorization(context)
    yield from _authentication(context)


def _authorization(context: Context) -> Iterator[Note]:
    for doc in context.model.of(istio.AuthorizationPolicy):
        wanted = authz.selector(doc)
        within = None if doc.namespace == ROOT_NAMESPACE else doc.namespace
        held = context.selected(wanted, within)
        yield from _reach(context, doc, wanted, held)
        if outside := [view.key for view in held if view.external]:
            text = f"holds for services outside the mesh too: {listed(outside)}"
            yield doc.note(Level.APPROXIMATED, ("spec",), text)
        for number, rule in enumerate(doc.spec.rules):
            yield from _rule(doc, rule, ("spec", "rules", number), held)
            yield from _wildcards(context, doc, rule, ("spec", "rules", number))
            yield from _remote(doc, rule, ("spec", "rules", number))
            if context.registry.peers:
                yield from _names(doc, rule, ("spec", "rules", number))


def _authentication(context: Context) -> Iterator[Note]:
    wide: dict[str, AnyDocument] = {}
    narrow: dict[str, AnyDocument] = {}  # by service: the first that holds for it
    for doc in context.model.of(istio.PeerAuthentication):
        wanted = authn.selector(doc)
        if not wanted:
            if (first := wide.setdefault(doc.namespace, doc)) is not doc:
                text = f"{first} holds for all of the namespace too: keep one"
                yield doc.note(Level.REFUSED, ("metadata", "name"), text)
            continue
        held = context.selected(wanted, doc.namespace)
        yield from _reach(context, doc, wanted, held)
        lost = [view.key for view in held if narrow.setdefault(view.key, doc) is not doc]
        if lost:
            text = f"{narrow[lost[0]]} and others before it hold for {listed(lost)} instead"
            yield doc.note(Level.APPROXIMATED, ("spec", "selector"), text)
        for port in doc.spec.port_level_mtls:
            yield from _port(doc, ("spec", "portLevelMtls", str(port)), port, held)


def _reach(
    context: Context, doc: AnyDocument, wanted: Mapping[str, str], held: Sequence[ServiceView]
) -> Iterator[Note]:
    if not held:
        text = "it holds for no service of this site now"
        yield doc.note(Level.APPROXIMATED, ("spec", "selector") if wanted else ("spec",), text)
    partly = [view.key for view in held if not context.is_whole(wanted, view)]
    if partly:
        text = f"it selects only some workloads of {listed(partly)}: it holds for the whole "
        text += "service, except that a weaker mTLS mode does not"
        yield doc.note(Level.APPROXIMATED, ("spec", "selector"), text)


def _rule(
    doc: authz.AuthorizationPolicy, rule: istio.Rule, path: Path, held: Sequence[ServiceView]
) -> Iterator[Note]:
    for at, entry in enumerate(rule.sources or ()):
        yield from _http_fields(doc, entry.source, (*path, "from", at, "source"))
    for at, target in enumerate(rule.to or ()):
        where: Path = (*path, "to", at, "operation")
        operation = target.operation
        yield from _http_fields(doc, operation, where)
        for name, ports in (("ports", operation.ports), ("notPorts", operation.not_ports)):
            for number, port in enumerate(ports or ()):
                yield from _port(doc, (*where, name, number), port, held)
    for at, condition in enumerate(rule.when or ()):
        where = (*path, "when", at)
        if is_http(condition.key):
            yield doc.note(Level.APPROXIMATED, (*where, "key"), _http_text(doc))
        elif condition.key == PORT_KEY:
            both = (("values", condition.values), ("notValues", condition.not_values))
            for name, texts in both:
                for number, text in enumerate(texts or ()):
                    yield from _port(doc, (*where, name, number), int(text), held)


def _wildcards(
    context: Context, doc: authz.AuthorizationPolicy, rule: istio.Rule, path: Path
) -> Iterator[Note]:
    """Names of our own that a rule would miss in silence."""
    domains = (context.site.trust_domain, *context.site.spec.trust_domain_aliases)
    for field, where, texts in _names_of(rule, path):
        for number, text in enumerate(texts or ()):
            if (problem := authz.wildcard_problem(field, text, domains)) is not None:
                yield doc.note(Level.REFUSED, (*where, number), problem)


def _names_of(rule: istio.Rule, path: Path) -> Iterator[tuple[Field, Path, Sequence[str] | None]]:
    for at, entry in enumerate(rule.sources or ()):
        source, where = entry.source, (*path, "from", at, "source")
        yield Field.PRINCIPAL, (*where, "principals"), source.principals
        yield Field.PRINCIPAL, (*where, "notPrincipals"), source.not_principals
        yield Field.TRUST_DOMAIN, (*where, "trustDomains"), source.trust_domains
        yield Field.TRUST_DOMAIN, (*where, "notTrustDomains"), source.not_trust_domains
    for at, condition in enumerate(rule.when or ()):
        if FIELDS.get(condition.key) is Field.PRINCIPAL:
            yield Field.PRINCIPAL, (*path, "when", at, "values"), condition.values
            yield Field.PRINCIPAL, (*path, "when", at, "notValues"), condition.not_values


def _remote(doc: authz.AuthorizationPolicy, rule: istio.Rule, path: Path) -> Iterator[Note]:
    """An ALLOW by an address that only a peer's appliance knows."""
    if doc.spec.action == "DENY":
        return
    text = "of a peer's hosts it is the address that their appliance claims; sites may use the "
    text += "same: add principals or trustDomains"
    for at, entry in enumerate(rule.sources or ()):
        for name in ("remote_ip_blocks", "not_remote_ip_blocks"):
            if getattr(entry.source, name):
                alias = istio.Source.model_fields[name].alias or name
                yield doc.note(Level.APPROXIMATED, (*path, "from", at, "source", alias), text)
    for at, condition in enumerate(rule.when or ()):
        if FIELDS.get(condition.key) is Field.REMOTE_IP:
            yield doc.note(Level.APPROXIMATED, (*path, "when", at, "key"), text)


def _names(doc: authz.AuthorizationPolicy, rule: istio.Rule, path: Path) -> Iterator[Note]:
    """Istio takes these names from any trust domain; here a peer's are named with its own."""
    text = "of this site; for a peer's name its trust domain too, by trustDomains or principals"
    if doc.spec.action == "DENY":  # all are denied, ours alone spared
        fields, side = ("not_namespaces", "not_service_accounts"), "not_values"
    else:
        fields, side = ("namespaces", "service_accounts"), "values"
    for at, entry in enumerate(rule.sources or ()):
        if authz.names_sites(rule, entry.source):
            continue
        for name in fields:
            if getattr(entry.source, name):
                alias = istio.Source.model_fields[name].alias or name
                where = (*path, "from", at, "source", alias)
                yield doc.note(Level.APPROXIMATED, where, text)
    if authz.names_sites(rule):
        return
    for at, condition in enumerate(rule.when or ()):
        if FIELDS.get(condition.key) in authz.NAMES and getattr(condition, side):
            yield doc.note(Level.APPROXIMATED, (*path, "when", at, "key"), text)


def _port(doc: AnyDocument, path: Path, port: int, held: Sequence[ServiceView]) -> Iterator[Note]:
    """Istio means the workload's port, we the service's: never let one pass for the other."""
    known, meant = False, list[str]()
    for view in held:
        numbers = {each.number for each in view.ports}
        known = known or port in numbers
        meant += [
            f"{each.number} ({view.key})"
            for each in view.ports
            if each.target == port and each.number != port
        ]
    if meant and not known:
        text = f"the workload's port; here ports are the service's: write {listed(meant)}"
        yield doc.note(Level.REFUSED, path, text)
    elif meant:
        text = f"taken as the service's port, not as the workload's behind {listed(meant)}"
        yield doc.note(Level.APPROXIMATED, path, text)
    elif held and not known:
        yield doc.note(Level.APPROXIMATED, path, "no service that it holds for has this port")


def _http_fields(doc: authz.AuthorizationPolicy, part: Spec, path: Path) -> Iterator[Note]:
    for name in authz.HTTP_FIELDS:
        if getattr(part, name, None) is not None:
            alias = type(part).model_fields[name].alias or name
            yield doc.note(Level.APPROXIMATED, (*path, alias), _http_text(doc))


def _http_text(doc: authz.AuthorizationPolicy) -> str:
    if doc.spec.action == "DENY":
        return "HTTP is not looked into in this version: the rule denies as if it were not there"
    return "HTTP is not looked into in this version: the rule allows nothing"
