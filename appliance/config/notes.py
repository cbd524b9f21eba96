"""What is said about a document: kept, approximated or refused, with file, line and path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from appliance.errors import InvalidInput


class Level(StrEnum):
    APPROXIMATED = "approximated"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Note:
    level: Level
    file: str
    line: int  # from 1; 0 = the whole file
    path: str  # "spec.rules[0].from[1]", or "" for the whole document
    text: str  # what, and what to do

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.text}" if self.path else f"{place}: {self.text}"


class DocumentErrors(InvalidInput):
    """Nothing of these documents is used; each note is one thing to put right."""

    def __init__(self, notes: Sequence[Note]) -> None:
        self.notes = tuple(notes)
        super().__init__("\n".join(str(note) for note in self.notes))


def dotted(path: Sequence[str | int]) -> str:
    """("spec", "rules", 0, "from") -> "spec.rules[0].from" """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
