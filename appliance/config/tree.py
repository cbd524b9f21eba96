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

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False,
            "FALSE": False}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
STRING_TAG = "tag:yaml.org,2002:str"


class TreeError(Exception):
    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.text = text


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
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif top.key is None:
            self._take_key(top, node)
            return None
        else:
            top.node.value[top.key] = Node(top.key_line, node.value, node.size, node.height)
            top.key = None
        top.node.size += node.size
        top.node.height = max(top.node.height, node.height + 1)
        if top.node.size > NODES_MAX:
            raise TreeError(node.line, f"more than {NODES_MAX} values: split it")
        return None

    def _take_key(self, top: _Open, node: Node) -> None:
        if not isinstance(node.value, str):
            raise TreeError(node.line, f"the key {node.value!r} is not text: put it in quotes")
        if not node.value:
            raise TreeError(node.line, "an empty key: give it a name")
        if node.value in top.node.value:
            first = top.node.value[node.value].line
            raise TreeError(
                node.line, f"duplicate key {node.value!r}: it is on line {first} too; keep one"
            )
        top.key, top.key_line = node.value, node.line


def documents(text: str) -> Iterator[Node]:
    """Each YAML document's root; empty ones are left out. Raises TreeError."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise TreeError(0, f"longer than {BYTES_MAX} bytes: split it")
    builder, total, count = _Builder(), 0, 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            root = _step(builder, event)
            if root is None:
                continue
            total, count = total + root.size, count + 1
            if total > NODES_MAX or count > DOCUMENTS_MAX:
                raise TreeError(root.line, f"more than {NODES_MAX} values or {DOCUMENTS_MAX} "
                                           "documents: split it")  # fmt: skip
            builder = _Builder()
            if root.value is not None:
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
        node = Node(line, _scalar(builder, event, line))
        if event.anchor is not None:
            builder.anchors[event.anchor] = node
        return builder.add(node)
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


def _scalar(builder: _Builder, event: Any, line: int) -> Any:
    text = event.value
    if event.tag is not None and event.tag not in ("!", STRING_TAG):
        raise TreeError(line, f"the tag {event.tag!r} is not allowed: remove it")
    top = builder.stack[-1] if builder.stack else None
    is_key = top is not None and isinstance(top.node.value, dict) and top.key is None
    if event.tag is not None or event.style or is_key:  # C's parser says "" for plain
        return text
    return plain_scalar(text)


def plain_scalar(text: str) -> Any:
    """What an unquoted scalar means in YAML 1.2's core schema, less octal and hexadecimal."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text) and not (text.isdigit() and text[0] == "0"):
        return float(text)
    return text
