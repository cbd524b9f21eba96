"""Names of workloads, services and mesh streams: parse, format, resolve. Pure text; no I/O.

SPIFFE IDs: https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md. Everything here
is lower case by construction; what does not fit raises `InvalidInput`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.errors import InvalidInput

SPIFFE = "spiffe://"
ID_BYTES_MAX = 255  # native/include/dp.h DP_ID_MAX
SNI_MAX = 253
LABEL_MAX = 63
CLUSTER_LOCAL = "cluster.local"
ANY_SUBSET = "_"

LABEL_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
ACCOUNT_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
TRUST_DOMAIN_PATTERN = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"
_LABEL = re.compile(LABEL_PATTERN)
_ACCOUNT = re.compile(ACCOUNT_PATTERN)
_TRUST_DOMAIN = re.compile(TRUST_DOMAIN_PATTERN)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    trust_domain: str
    path: str  # with its leading slash; "" for a trust domain's own ID

    def __str__(self) -> str:
        return f"{SPIFFE}{self.trust_domain}{self.path}"

    @property
    def workload(self) -> tuple[str, str] | None:
        """(namespace, service account), or None when the path is not a workload's."""
        parts = self.path.split("/")
        if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
            return parts[2], parts[4]
        return None

    @property
    def namespace(self) -> str | None:
        return self.workload[0] if self.workload else None

    @property
    def service_account(self) -> str | None:
        return self.workload[1] if self.workload else None


def is_label(text: str) -> bool:
    """One DNS label, lower case, at most 63 characters."""
    return _LABEL.fullmatch(text) is not None


def is_account(text: str) -> bool:
    return _ACCOUNT.fullmatch(text) is not None


def is_trust_domain(text: str) -> bool:
    """As SPIFFE has it, and fit for a mesh link's server name."""
    return _TRUST_DOMAIN.fullmatch(text) is not None and all(
        part and part[0] != "-" != part[-1] for part in text.split(".")
    )


def parse(text: str) -> SpiffeId:
    """Raises InvalidInput unless text is a SPIFFE ID of at most 255 bytes."""
    rest = text.removeprefix(SPIFFE)
    trust_domain, slash, path = rest.partition("/")
    good = (
        text.startswith(SPIFFE)
        and len(text.encode()) <= ID_BYTES_MAX
        and is_trust_domain(trust_domain)
        and (not slash or all(_is_segment(part) for part in path.split("/")))
    )
    if not good:
        raise InvalidInput(f"{text[:80]!r} is no SPIFFE ID: write spiffe://<trust domain>/<path>")
    return SpiffeId(trust_domain, slash + path)


def _is_segment(text: str) -> bool:
    return _SEGMENT.fullmatch(text) is not None and text not in (".", "..")


def workload_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """spiffe://<trust domain>/ns/<namespace>/sa/<service account>"""
    if not (is_trust_domain(trust_domain) and is_label(namespace) and is_account(service_account)):
        raise InvalidInput(
            f"no identity can be made of trust domain {trust_domain!r}, namespace {namespace!r} "
            f"and service account {service_account!r}: use lower case letters, digits and hyphens"
        )
    return f"{SPIFFE}{trust_domain}/ns/{namespace}/sa/{service_account}"


def appliance_id(trust_domain: str, name: str) -> str:
    return f"{SPIFFE}{trust_domain}/sluice/appliance/{name}"


def service_key(name: str, namespace: str) -> str:
    return f"{name}.{namespace}"


def split_key(key: str) -> tuple[str, str]:
    """ "<service>.<namespace>" -> (service, namespace)"""
    name, dot, namespace = key.partition(".")
    if not (dot and is_label(name) and is_label(namespace)):
        raise InvalidInput(f"{key!r} is no service: write <service>.<namespace>")
    return name, namespace


def sni(subset: str | None, port: int, name: str, namespace: str, trust_domain: str) -> str:
    """The mesh link's server name. Raises InvalidInput where it would not fit a ClientHello."""
    text = f"{subset or ANY_SUBSET}.{port}.{name}.{namespace}.{trust_domain}"
    if len(text) > SNI_MAX or any(len(label) > LABEL_MAX for label in text.split(".")):
        raise InvalidInput(
            f"the mesh name {text[:80]}… is longer than {SNI_MAX} characters, or one of its parts "
            f"than {LABEL_MAX}: shorten the subset's, service's or namespace's name"
        )
    return text


def resolve(host: str, namespace: str, zone: str) -> str | None:
    """The service key that a document in namespace means by host, or None for a foreign name.

    "<svc>", "<svc>.<ns>", "<svc>.<ns>.svc", "<svc>.<ns>.svc.cluster.local" and "<svc>.<ns>.<zone>".
    """
    text = host.lower().removesuffix(".")
    for suffix in (f".svc.{CLUSTER_LOCAL}", ".svc", f".{zone}"):
        if text.endswith(suffix) and text.count(".") == suffix.count(".") + 1:
            text = text.removesuffix(suffix)
            break
    labels = text.split(".")
    if not all(is_label(label) for label in labels):
        return None
    if len(labels) == 1:
        return service_key(labels[0], namespace)
    return text if len(labels) == 2 else None


def mesh_names(name: str, namespace: str, zone: str) -> tuple[str, str]:
    """What DNS answers for a service."""
    return f"{name}.{namespace}.{zone}", f"{name}.{namespace}.svc.{CLUSTER_LOCAL}"


OPERATOR_KINDS = ("admin", "viewer")


def operator_id(trust_domain: str, kind: str, name: str) -> str:
    """Who may use the admin API by mTLS. kind: one of OPERATOR_KINDS. Raises InvalidInput."""
    if kind not in OPERATOR_KINDS or not is_label(name):
        raise InvalidInput(f"{name!r} cannot be a name: use lower case letters, digits and hyphens")
    return f"spiffe://{trust_domain}/sluice/{kind}/{name}"


def is_operator_id(spiffe_id: str, trust_domain: str) -> bool:
    head = f"spiffe://{trust_domain}/sluice/"
    kind, _, name = spiffe_id.removeprefix(head).partition("/")
    return spiffe_id.startswith(head) and kind in OPERATOR_KINDS and is_label(name)
