"""PeerAuthentication: which services want an authenticated source, and how sure. Pure.

Workload before namespace before mesh, as in Istio; a port's mode before its workload's. Two
things differ. Without any document the mode is STRICT, not PERMISSIVE: a box that all traffic
passes has no sidecars to wait for. And ports are the service's, not the workload's.
The annotation `sluice.dev/grade` sets the grade that STRICT asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.compile.services import LabelSets, ServiceView, selects
from appliance.config import istio
from appliance.config.condition import GRADES
from appliance.config.model import ROOT_NAMESPACE, Document, Model
from dataplane.snapshot import Grade, MtlsMode

DEFAULT_MODE = MtlsMode.STRICT
DEFAULT_GRADE = Grade.L3
_MODES = {
    "STRICT": MtlsMode.STRICT,
    "PERMISSIVE": MtlsMode.PERMISSIVE,
    "DISABLE": MtlsMode.DISABLE,
}

Policy = Document[istio.PeerAuthentication]


@dataclass(frozen=True, slots=True)
class Demand:
    mode: MtlsMode = DEFAULT_MODE
    grade: Grade = DEFAULT_GRADE


def selector(policy: Policy) -> dict[str, str]:
    return policy.spec.selector.match_labels if policy.spec.selector else {}


class Authentication:
    """All PeerAuthentications, ready to be asked."""

    def __init__(self, model: Model) -> None:
        self.wide: dict[str, Policy] = {}
        self.narrow: dict[str, list[Policy]] = {}
        for doc in model.of(istio.PeerAuthentication):
            if selector(doc):
                self.narrow.setdefault(doc.namespace, []).append(doc)
            else:
                self.wide.setdefault(doc.namespace, doc)

    def demands(self, view: ServiceView, label_sets: LabelSets) -> dict[int, Demand]:
        """By port of the service."""
        parent = Demand()
        for namespace in dict.fromkeys((ROOT_NAMESPACE, view.namespace)):
            if namespace in self.wide:
                parent = _narrowed(self.wide[namespace], None, parent)
        numbers = [port.number for port in view.ports]
        candidates = self.narrow.get(view.namespace)
        if not candidates:
            return dict.fromkeys(numbers, parent)
        for doc in candidates:
            matches = [selects(selector(doc), labels) for labels in label_sets]
            if any(matches):
                return {
                    number: _held(parent, _narrowed(doc, number, parent), all(matches))
                    for number in numbers
                }
        return dict.fromkeys(numbers, parent)


def _narrowed(doc: Policy, port: int | None, parent: Demand) -> Demand:
    mtls = doc.spec.mtls
    if port is not None and port in doc.spec.port_level_mtls:
        mtls = doc.spec.port_level_mtls[port]
    mode = _MODES.get(mtls.mode, parent.mode) if mtls else parent.mode
    return Demand(mode, GRADES.get(doc.annotations.get("sluice.dev/grade", ""), parent.grade))


def _held(parent: Demand, own: Demand, whole: bool) -> Demand:
    """A policy that selects only some of the workloads may ask for more, never for less."""
    if whole:
        return own
    return Demand(min(parent.mode, own.mode), max(parent.grade, own.grade))
