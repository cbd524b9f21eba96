"""One thing that `sluice doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    level: str  # ok, warning, error
    what: str
    fix: str = ""
