"""AuthorizationPolicy to the data plane's rules. Pure.

Everything is TCP here, so HTTP fields follow what Istio says of TCP: an ALLOW rule that has one
never matches; a DENY rule is taken without it, and so denies more. `verify` says so.
https://istio.io/latest/docs/reference/config/security/authorization-policy/
Ports are the service's. Trust domains: `cluster.local`, the site's and its aliases are one.

Namespaces and service accounts are the site's own, unless the entry has `principals` or
`trustDomains`, or the rule asks for `source.principal`. Istio takes them from any trust domain;
but each peer names its own, and could let itself in as `prod`. What narrows an ALLOW rule would let
more pass a DENY rule: that denies the named ones of every site, and spares ours alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from appliance.address import network
from appliance.compile.services import LabelSets, ServiceView, selects
from appliance.config import istio
from appliance.config.condition import FIELDS, GRADES
from appliance.config.model import ROOT_NAMESPACE, Document, Model
from appliance.identity import CLUSTER_LOCAL
from appliance.site import Site
from dataplane.snapshot import Action, Field, Match, MatchOp, Network, Part, Policy

AuthorizationPolicy = Document[istio.AuthorizationPolicy]

HTTP_FIELDS = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths",
               "request_principals", "not_request_principals")  # fmt: skip
NAMES = (Field.NAMESPACE, Field.SERVICE_ACCOUNT)  # what a site gives out as it likes


def selector(doc: AuthorizationPolicy) -> dict[str, str]:
    return doc.spec.selector.match_labels if doc.spec.selector else {}


class Authorization:
    """All AuthorizationPolicies, ready to be attached."""

    def __init__(self, model: Model, site: Site) -> None:
        own = site.trust_domain
        self.domains = tuple(dict.fromkeys((own, *site.spec.trust_domain_aliases)))
        self.wide: dict[str, list[AuthorizationPolicy]] = {}
        # By one of the selector's labels, so that few are looked at for a service.
        self.narrow: dict[tuple[str, str, str], list[AuthorizationPolicy]] = {}
        for doc in model.of(istio.AuthorizationPolicy):
            if wanted := selector(doc):
                first = min(wanted.items())
                self.narrow.setdefault((doc.namespace, *first), []).append(doc)
            else:
                self.wide.setdefault(doc.namespace, []).append(doc)
        self.used: dict[str, Policy] = {}

    def attach(self, view: ServiceView, label_sets: LabelSets) -> tuple[str, ...]:
        """Names of the policies that hold for a service, DENY first; they count as used."""
        labels = {pair for each in label_sets for pair in each.items()} if self.narrow else ()
        found: list[AuthorizationPolicy] = []
        for namespace in dict.fromkeys((ROOT_NAMESPACE, view.namespace)):
            found += self.wide.get(namespace, ())
            for pair in sorted(labels):
                candidates = self.narrow.get((namespace, *pair), ())
                found += [doc for doc in candidates if applies(doc, label_sets)]
        found.sort(key=lambda doc: doc.spec.action != "DENY")
        for doc in found:
            if str(doc) not in self.used:
                self.used[str(doc)] = policy(doc, self.domains)
        return tuple(str(doc) for doc in found)

    def policies(self) -> tuple[Policy, ...]:
        return tuple(self.used[name] for name in sorted(self.used))


def applies(doc: AuthorizationPolicy, label_sets: LabelSets) -> bool:
    """A selector that fits some of a service's workloads holds for the service."""
    wanted = selector(doc)
    return not wanted or any(selects(wanted, labels) for labels in label_sets)


def policy(doc: AuthorizationPolicy, domains: Sequence[str]) -> Policy:
    action = Action.DENY if doc.spec.action == "DENY" else Action.ALLOW
    compiler = _Compiler(doc.namespace, tuple(domains), action)
    compiled = (compiler.rule(rule) for rule in doc.spec.rules)
    return Policy(str(doc), action, tuple(rule for rule in compiled if rule is not None))


def names_sites(rule: istio.Rule, source: istio.Source | None = None) -> bool:
    """Does the rule, or this entry of it, say itself whose names it means? Without an entry: do
    all of them?"""
    if any(FIELDS.get(when.key) is Field.PRINCIPAL and when.values for when in rule.when or ()):
        return True
    sources = [source] if source else [entry.source for entry in rule.sources or ()]
    return bool(sources) and all(each.principals or each.trust_domains for each in sources)


def wildcard_problem(field: Field, text: str, domains: Sequence[str]) -> str | None:
    """Why a pattern of names would miss our own: its trust domain is matched as text, so that a
    star in it fits one spelling of ours and no other. None = it is good."""
    if field not in (Field.PRINCIPAL, Field.TRUST_DOMAIN) or text == "*":
        return None
    domain, slash, path = text.partition("/")
    spelled = (*domains, CLUSTER_LOCAL)
    if field is Field.PRINCIPAL and not slash:
        if domain.startswith("*"):  # the end of the path
            return None
        if domain.endswith("*"):
            ours = any(each.startswith(domain[:-1]) for each in spelled)
        else:
            ours = domain in spelled  # no workload has no path
        path = "*"
    else:
        head, star, tail = domain.partition("*")
        ours = bool(star and head + tail) and any(
            each.startswith(head) and each.endswith(tail) for each in spelled
        )
    if not ours:
        return None
    good = CLUSTER_LOCAL if field is Field.TRUST_DOMAIN else f"{CLUSTER_LOCAL}/{path}"
    return f"{text[:80]!r} would not match every name of this site: write {good}"


class _HttpOnly(Exception):
    """A field that TCP does not have, in a rule that allows."""


@dataclass(frozen=True, slots=True)
class _Compiler:
    namespace: str
    domains: tuple[str, ...]
    action: Action

    def rule(self, rule: istio.Rule) -> tuple[Match, ...] | None:
        """None = never matches."""
        operations = [entry.operation for entry in rule.to or ()]
        try:
            return (
                *self._part(Part.FROM, self._sources(rule)),
                *self._part(Part.TO, [self._operation(operation) for operation in operations]),
                *self._when(rule),
            )
        except _HttpOnly:
            return None

    def _part(self, part: Part, entries: list[list[Match]]) -> Iterator[Match]:
        """Any entry matches; one with nothing left matches all, and so does its part."""
        if all(entries):
            for number, matches in enumerate(entries):
                for match in matches:
                    yield _placed(match, part, number)

    def _sources(self, rule: istio.Rule) -> list[list[Match]]:
        entries = [
            (names_sites(rule, entry.source), self._source(entry.source))
            for entry in rule.sources or ()
        ]
        # Conditions that spare names belong to each entry, so that it can have an alternative.
        spared = [match for each in rule.when or () for match in self._spared(each)]
        if spared and not entries:
            entries = [(names_sites(rule), [])]
        return [
            alternative
            for named, matches in entries
            for alternative in self._alternatives(named, [*matches, *spared])
        ]

    def _spared(self, condition: istio.Condition) -> Iterator[Match]:
        """Of a condition in a DENY rule: the names that are not denied."""
        field = FIELDS.get(condition.key)
        if field in NAMES and self.action is Action.DENY:
            yield from self._texts(field, None, condition.not_values)

    def _alternatives(self, named: bool, matches: list[Match]) -> Iterator[list[Match]]:
        """The entry, for names of our own site's; any of these."""
        if named:
            yield matches
        elif self.action is Action.ALLOW:
            yield [*matches, *self._own(matches)]
        else:
            yield matches
            rest = [match for match in matches if not (match.field in NAMES and match.negated)]
            if len(rest) < len(matches):
                yield [*rest, *self._texts(Field.TRUST_DOMAIN, None, self.domains[:1])]

    def _own(self, matches: Iterable[Match]) -> Iterator[Match]:
        """Our own site, if names are asked for."""
        if any(match.field in NAMES and not match.negated for match in matches):
            yield from self._texts(Field.TRUST_DOMAIN, self.domains[:1], None)

    def _source(self, source: istio.Source) -> list[Match]:
        self._refuse_http(source)
        return [
            *self._texts(Field.PRINCIPAL, source.principals, source.not_principals),
            *self._texts(Field.NAMESPACE, source.namespaces, source.not_namespaces),
            *self._texts(
                Field.SERVICE_ACCOUNT, source.service_accounts, source.not_service_accounts
            ),
            *self._texts(Field.TRUST_DOMAIN, source.trust_domains, source.not_trust_domains),
            *_networks(Field.IP, source.ip_blocks, source.not_ip_blocks),
            *_networks(Field.REMOTE_IP, source.remote_ip_blocks, source.not_remote_ip_blocks),
        ]

    def _operation(self, operation: istio.Operation) -> list[Match]:
        self._refuse_http(operation)
        return [
            Match(Part.TO, 0, Field.PORT, negated=negated, port=port)
            for negated, ports in ((False, operation.ports), (True, operation.not_ports))
            for port in ports or ()
        ]

    def _when(self, rule: istio.Rule) -> Iterator[Match]:
        entry = 0
        for condition in rule.when or ():
            field = FIELDS.get(condition.key)
            if field is None:  # HTTP's; no other loads
                self._refuse_if_allow()
                continue
            spared = tuple(self._spared(condition))  # they stand in the entries
            matches = [
                *self._texts(field, condition.values, None if spared else condition.not_values)
            ]
            if self.action is Action.ALLOW and not names_sites(rule):
                matches += self._own(matches)
            for match in matches:
                yield _placed(match, Part.WHEN, entry)
            entry += bool(matches)

    def _texts(
        self, field: Field, values: Iterable[str] | None, not_values: Iterable[str] | None
    ) -> Iterator[Match]:
        make = self._maker(field)
        for negated, texts in ((False, values), (True, not_values)):
            for text in texts or ():
                yield from make(text, negated)

    def _maker(self, field: Field) -> Callable[[str, bool], Iterator[Match]]:
        def one(text: str, negated: bool) -> Iterator[Match]:
            if field in (Field.IP, Field.REMOTE_IP):
                yield Match(Part.FROM, 0, field, negated=negated, network=network(text))
            elif field is Field.PORT:
                yield Match(Part.FROM, 0, field, negated=negated, port=int(text))
            elif field is Field.GRADE:
                yield Match(Part.FROM, 0, field, negated=negated, number=int(GRADES[text]))
            else:
                for spelled in self._spellings(field, text):
                    op, rest = _pattern(spelled)
                    yield Match(Part.FROM, 0, field, op, negated, rest)

        return one

    def _spellings(self, field: Field, text: str) -> Iterable[str]:
        if field is Field.SERVICE_ACCOUNT and "/" not in text:
            return (f"{self.namespace}/{text}",)
        domain, slash, path = text.partition("/")
        own = domain in (*self.domains, CLUSTER_LOCAL)
        if field is Field.PRINCIPAL and slash and own:
            return tuple(f"{name}/{path}" for name in self.domains)
        if field is Field.TRUST_DOMAIN and own:
            return self.domains
        return (text,)

    def _refuse_http(self, part: istio.Source | istio.Operation) -> None:
        if any(getattr(part, name, None) is not None for name in HTTP_FIELDS):
            self._refuse_if_allow()

    def _refuse_if_allow(self) -> None:
        if self.action is Action.ALLOW:
            raise _HttpOnly


def _pattern(text: str) -> tuple[MatchOp, str]:
    if text == "*":
        return MatchOp.PRESENT, ""
    if text.startswith("*"):
        return MatchOp.SUFFIX, text[1:]
    if text.endswith("*"):
        return MatchOp.PREFIX, text[:-1]
    return MatchOp.EXACT, text


def _placed(match: Match, part: Part, entry: int) -> Match:
    return Match(
        part, entry, match.field, match.op, match.negated, match.text, match.network,
        match.port, match.number,
    )  # fmt: skip


def _networks(
    field: Field, blocks: Iterable[Network] | None, not_blocks: Iterable[Network] | None
) -> Iterator[Match]:
    for negated, networks in ((False, blocks), (True, not_blocks)):
        for block in networks or ():
            yield Match(Part.FROM, 0, field, negated=negated, network=block)
