"""YAML text to a tree that remembers lines. Strict and bounded; knows no kind of document.

YAML 1.2's core schema (only true and false are booleans, no dates, no octal by a leading zero),
string keys only, no tags, no duplicate keys. Aliases are expanded, and count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

BYTES_MAX = 8 * 1024 * 1024
DEPTH_MAX = 32
NODES_MAX = 500_000  # of a source, after expansion of aliases
DOCUMENTS_MAX = 20_000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
          "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_NUMERIC = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_MARK = re.compile(r"^---(?=[ \t\n]|\Z)", re.MULTILINE)
# A directive, the end of a document, or an end of line that only YAML takes for one.
_NOT_CUT = re.compile(r"^(%|\.\.\.)|[\r\x85\u2028\u2029]", re.MULTILINE)
STRING_TAG = "tag:yaml.org,2002:str"


class TreeError(Exception):
    """line: 0 = of no line in particular; first: where what is there twice is for the first time,
    0 = nothing is."""

    def __init__(self, line: int, text: str, first: int = 0) -> None:
        super().__init__(text)
        self.line, self.text, self.first = line, text, first

    def below(self, above: int) -> tuple[int, str]:
        """Line and text where so many lines are above."""
        line = self.line + above if self.line else 0
        if self.first:
            return line, f"{self.text}: it is on line {self.first + above} too; keep one"
        return line, self.text


@dataclass(slots=True)
class Node:
    line: int  # of a mapping's value: its key's line
    value: Any  # scalar, list[Node] or dict[str, Node]
    size: int = 1  # nodes in all, aliases expanded
    height: int = 1  # levels

    def plain(self) -> Any:
        value = self.value
        if isinstance(value, dict):
            return {key: node.plain() for key, node in value.items()}
        if isinstance(value, list):
            return [node.plain() for node in value]
        return value

    def line_at(self, path: Sequence[str | int]) -> int:
        """The line of the deepest node on path that exists."""
        node = self
        for part in path:
            value = node.value
            if isinstance(value, dict) and part in value:
                node = value[part]
            elif isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
                node = value[part]
            else:
                break
        return node.line


@dataclass(slots=True)
class _Open:
    """A collection whose end is still to come."""

    node: Node
    anchor: str | None
    key: str | None = None
    key_line: int = 0


@dataclass(slots=True)
class _Builder:
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)

    def open(self, line: int, value: list[Node] | dict[str, Node], anchor: str | None) -> None:
        if len(self.stack) >= DEPTH_MAX:
            raise TreeError(line, f"nested deeper than {DEPTH_MAX}: flatten it")
        if self.stack and isinstance(self.stack[-1].node.value, dict) and not self.stack[-1].key:
            raise TreeError(line, "a key is not text: write plain keys")
        self.stack.append(_Open(Node(line, value), anchor))

    def close(self) -> Node | None:
        """The finished root, or None inside one."""
        done = self.stack.pop()
        if done.anchor is not None:
            self.anchors[done.anchor] = done.node
        return self.add(done.node)

    def add(self, node: Node) -> Node | None:
        if not self.stack:
            return node
        top = self.stack[-1]
        value = top.node.value
        if type(value) is list:
            value.append(node)
        elif top.key is None:
            self._take_key(top, node.value, node.line)
            return None
        else:
            value[top.key] = Node(top.key_line, node.value, node.size, node.height)
            top.key = None
        self._grow(top.node, node.line, node.size, node.height)
        return None

    def add_scalar(self, event: Any, line: int) -> Node | None:
        """Most of a text: none of the steps that only others need."""
        if event.anchor is not None or not self.stack:
            node = Node(line, _scalar(event, line))
            if event.anchor is not None:
                self.anchors[event.anchor] = node
            return self.add(node)
        top = self.stack[-1]
        value = top.node.value
        if type(value) is list:
            value.append(Node(line, _scalar(event, line)))
        elif top.key is None:
            _check_tag(event, line)
            self._take_key(top, event.value, line)
            return None
        else:
            value[top.key] = Node(top.key_line, _scalar(event, line))
            top.key = None
        self._grow(top.node, line, 1, 1)
        return None

    def _grow(self, node: Node, line: int, size: int, height: int) -> None:
        node.size += size
        if height >= node.height:
            node.height = height + 1
        if node.size > NODES_MAX:
            raise TreeError(line, f"more than {NODES_MAX} values: split it")

    def _take_key(self, top: _Open, key: Any, line: int) -> None:
        if not isinstance(key, str):
            raise TreeError(line, f"the key {key!r} is not text: put it in quotes")
        if not key:
            raise TreeError(line, "an empty key: give it a name")
        if key in top.node.value:
            raise TreeError(line, f"duplicate key {key!r}", top.node.value[key].line)
        top.key, top.key_line = key, line


@dataclass(frozen=True, slots=True)
class Part:
    """Whole documents of a text. Equal parts read equal, wherever they stand."""

    above: int  # lines of the text before it
    text: str


def parts(text: str) -> Sequence[Part]:
    """The text cut before each `---`, where that is sure to be between documents. Raises
    TreeError."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise TreeError(0, f"longer than {BYTES_MAX} bytes: split it")
    if _NOT_CUT.search(text):
        return [Part(0, text)]
    found, line, start = [], 0, 0
    for mark in _MARK.finditer(text):
        end = mark.start()
        found.append(Part(line, text[start:end]))
        line += text.count("\n", start, end)
        start = end
        if len(found) > DOCUMENTS_MAX:
            raise TreeError(line, f"more than {DOCUMENTS_MAX} documents: split it")
    return [*found, Part(line, text[start:])]


def documents(text: str) -> Iterator[Node]:
    """Each YAML document's root, also of empty ones (None). Raises TreeError."""
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            root = _step(builder, event)
            if root is not None:
                builder = _Builder()
                yield root
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise TreeError(mark.line + 1 if mark else 0, f"not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise TreeError(0, f"not YAML: {' '.join(str(error).split())}") from None


def _step(builder: _Builder, event: Any) -> Node | None:
    line = event.start_mark.line + 1 if event.start_mark else 0
    kind = type(event)
    if kind is yaml.ScalarEvent:
        return builder.add_scalar(event, line)
    if kind in _ENDS:
        return builder.close()
    if kind in _STARTS:
        if event.tag is not None and not event.implicit:
            raise TreeError(line, f"the tag {event.tag!r} is not allowed: remove it")
        builder.open(line, {} if kind is yaml.MappingStartEvent else [], event.anchor)
    elif kind is yaml.AliasEvent:
        if event.anchor not in builder.anchors:
            raise TreeError(line, f"*{event.anchor} refers to nothing finished above it")
        target = builder.anchors[event.anchor]
        if target.height + len(builder.stack) > DEPTH_MAX:
            raise TreeError(line, f"nested deeper than {DEPTH_MAX}: flatten it")
        return builder.add(target)
    return None


def _scalar(event: Any, line: int) -> Any:
    if event.tag is not None or event.style:  # C's parser says "" for plain
        _check_tag(event, line)
        return event.value
    return plain_scalar(event.value)


def _check_tag(event: Any, line: int) -> None:
    if event.tag is not None and event.tag not in ("!", STRING_TAG):
        raise TreeError(line, f"the tag {event.tag!r} is not allowed: remove it")


def plain_scalar(text: str) -> Any:
    """What an unquoted scalar means in YAML 1.2's core schema, less octal and hexadecimal."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and not (text.isdigit() and text[0] == "0"):
        return float(text)
    return text
