"""What is known of NIC models: the files of firmware-config/nic. Owns their shape and matching.

Each fact and each setting names its source. Numbers are at-least values: a device that has more
keeps what it has. Pure but for `load`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from appliance import yamlfile
from appliance.errors import InvalidInput
from appliance.paths import shipped
from appliance.system.offload_settings import FEATURES, INTERRUPTS, SETTINGS, VALUE_MAX, Device

Line = Annotated[str, Field(min_length=1, max_length=400)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Part):
    """A device: by PCI id, or by driver where there is no PCI device; * stands for anything."""

    model: Line
    pci: Annotated[str, Field(pattern=r"^[0-9a-f*]{1,4}:[0-9a-f*]{1,4}$")] | None = None
    driver: Annotated[str, Field(pattern=r"^[a-z0-9_*]{1,32}$")] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.pci is None) == (self.driver is None):
            raise ValueError("write pci or driver")
        return self

    def rank(self, device: Device) -> int:
        """How exactly it fits; 0 = not at all. Any PCI id is better than any driver."""
        if self.pci is not None:
            fits = device.pci_id != "" and fnmatchcase(device.pci_id, self.pci)
            return 1000 + _exact(self.pci) if fits else 0
        assert self.driver is not None
        return 1 + _exact(self.driver) if fnmatchcase(device.driver, self.driver) else 0


class Fact(_Part):
    what: Line
    source: Line


class Wish(_Part):
    """What a setting should be. `workers` = one a worker at least."""

    set: str
    to: StrictBool | Annotated[StrictInt, Field(ge=1, le=VALUE_MAX)] | Literal["workers"]
    when: Literal["always", "nic"] = "always"  # nic: only while the profile prefers the NIC
    why: Line
    source: Line

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.set == INTERRUPTS:
            if self.to != "workers" or self.when != "always":
                raise ValueError(f"{INTERRUPTS}: write to: workers, and no when")
            return self
        if self.set not in SETTINGS:
            names = ", ".join((*SETTINGS, INTERRUPTS))
            raise ValueError(f"{self.set[:60]!r} cannot be set: write one of {names}")
        if (self.set in FEATURES) != isinstance(self.to, bool):
            raise ValueError(f"{self.set}: write on or off for a feature, a number for the rest")
        if self.to == "workers" and not self.set.startswith("queues."):
            raise ValueError(f"{self.set}: workers counts queues only")
        return self


class Profile(_Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    match: Annotated[tuple[Match, ...], Field(min_length=1, max_length=64)]
    facts: Annotated[tuple[Fact, ...], Field(max_length=32)] = ()
    settings: Annotated[tuple[Wish, ...], Field(max_length=len(SETTINGS) + 1)] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [wish.set for wish in self.settings]
        if len(set(names)) < len(names):
            raise ValueError("each setting may be there once")
        return self


def choose(profiles: Sequence[Profile], device: Device) -> tuple[Profile, str] | None:
    """The one that fits best, and the model's name."""
    found = [
        (match.rank(device), profile, match.model)
        for profile in profiles
        for match in profile.match
        if match.rank(device)
    ]
    if not found:
        return None
    _, profile, model = max(found, key=lambda each: each[0])
    return profile, model


def load(folder: Path) -> tuple[Profile, ...]:
    """Every *.yaml there, by name. Raises InvalidInput with file and path."""
    found: dict[str, Profile] = {}
    for path in sorted(folder.glob("*.yaml")):
        profile = yamlfile.read(path, Profile)
        if profile.name in found:
            raise InvalidInput(f"{path}: another profile is named {profile.name}: rename one")
        found[profile.name] = profile
    if not found:
        raise InvalidInput(f"{folder}: there is no NIC profile: install the package again")
    return tuple(found[name] for name in sorted(found))


@cache
def known() -> tuple[Profile, ...]:
    """Those that came with this version. Raises InvalidInput."""
    return load(shipped("nic"))


def _exact(pattern: str) -> int:
    return len(pattern.replace("*", ""))
