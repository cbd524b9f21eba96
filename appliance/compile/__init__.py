"""(documents, registry, site, leaves) -> Snapshot, and what has to be there first. Pure.

`Mesh.of` merges documents, registry and peers once; all else takes that value.
`allocations` says which virtual addresses and set ids, `leaf_needs` which certificates a
snapshot takes; `compile` uses what it is given and leaves out what has no leaf yet. `verify`
judges documents when they are applied; compile holds for whatever loads, since hosts and peers
come and go afterwards.
"""

from __future__ import annotations

from appliance.compile.hosts import host_grade, hosts
from appliance.compile.mesh import Mesh
from appliance.compile.services import Remote, ServiceView
from appliance.compile.snapshot import (
    Allocations,
    LeafNeed,
    allocations,
    compile,
    endpoint_sets,
    exports,
    leaf_needs,
)

__all__ = [
    "Allocations",
    "LeafNeed",
    "Mesh",
    "Remote",
    "ServiceView",
    "allocations",
    "compile",
    "endpoint_sets",
    "exports",
    "host_grade",
    "hosts",
    "leaf_needs",
]
