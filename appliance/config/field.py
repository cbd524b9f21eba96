"""Types of fields that documents share: durations, ports, labels, and how a field is supported.

A field is kept, or marked `Approx` (accepted; what is different is said at apply), or
`Unsupported` (known, refused with the reason). A field that no model names is refused by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
)
from pydantic.alias_generators import to_camel

from appliance import address
from appliance.errors import InvalidInput
from appliance.identity import ACCOUNT_PATTERN, LABEL_PATTERN

T = TypeVar("T")
ITEMS_MAX = 4096
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s|us|µs|ns)")
_UNIT_MS = {"h": 3_600_000.0, "m": 60_000.0, "s": 1000.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3,
            "ns": 1e-6}  # fmt: skip
_DURATION_MS_MAX = 0xFFFF_FFFF  # uint32_t in dp.h: 49 days


class Spec(BaseModel):
    """A document's spec or a part of it: camelCase, nothing unknown, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


@dataclass(frozen=True, slots=True)
class Approx:
    """Put into Annotated: the field is accepted, and this is said when it is given."""

    text: str


@dataclass(frozen=True, slots=True)
class Duration:
    text: str
    ms: int


def _duration(value: Any) -> Duration:
    if isinstance(value, Duration):
        return value
    text = value.strip() if isinstance(value, str) else ""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        if text != "0":
            raise ValueError("write a duration such as 30s, 1m or 250ms")
        parts = []
    ms = sum(float(number) * _UNIT_MS[unit] for number, unit in parts)
    if ms > _DURATION_MS_MAX:
        raise ValueError("longer than 49 days: write a shorter duration")
    if 0 < ms < 1:
        raise ValueError("shorter than 1ms: write at least 1ms, or 0s")
    return Duration(text, round(ms))


def _address(value: Any) -> IPv4Address | IPv6Address:
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    return _read(address.machine, value, "write an IPv4 or IPv6 address")


def _network(value: Any) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    return _read(address.network, value, "write an address or a block such as 203.0.113.0/24")


def _port(value: Any) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return _read(address.port, text, "write a port, 1 to 65535")


def _read(parse: Callable[[str], T], value: Any, wanted: str) -> T:
    if not isinstance(value, str):
        raise ValueError(wanted)
    try:
        return parse(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from None


def _labels(value: Any) -> Any:
    if isinstance(value, dict):
        for key, text in value.items():
            if not (isinstance(key, str) and _LABEL_KEY.fullmatch(key)):
                raise ValueError(f"the label {str(key)[:80]!r} is malformed")
            if not isinstance(text, str):
                raise ValueError(f"the label {key} is not text: put its value in quotes")
            if not _LABEL_VALUE.fullmatch(text):
                raise ValueError(f"the value of the label {key} is malformed")
    return value


def unsupported(why: str) -> BeforeValidator:
    """Put into Annotated: refuses any value."""

    def refuse(value: Any) -> Any:
        raise ValueError(why)

    return BeforeValidator(refuse)


def one_of(**words: str | None) -> BeforeValidator:
    """A word of a closed list; a value that is a reason instead of None refuses the word."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or value not in words:
            good = ", ".join(word for word, why in words.items() if why is None)
            raise ValueError(f"{str(value)[:80]!r} is not known here: write one of {good}")
        if (why := words[value]) is not None:
            raise ValueError(f"{value}: {why}")
        return value

    return BeforeValidator(check)


Text = Annotated[StrictStr, Field(max_length=1024)]
Flag = StrictBool
Port = Annotated[int, BeforeValidator(_port)]
Count = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
Percent = Annotated[StrictInt, Field(ge=0, le=100)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels), Field(max_length=64)]
Label = Annotated[StrictStr, Field(pattern=f"^{LABEL_PATTERN}$")]
Account = Annotated[StrictStr, Field(pattern=f"^{ACCOUNT_PATTERN}$")]
PeriodMs = Annotated[
    Duration, PlainValidator(_duration), PlainSerializer(lambda value: value.text, return_type=str)
]
Address = Annotated[
    IPv4Address | IPv6Address, PlainValidator(_address), PlainSerializer(str, return_type=str)
]
Network = Annotated[
    IPv4Network | IPv6Network, PlainValidator(_network), PlainSerializer(str, return_type=str)
]
PortText = Annotated[Port, PlainSerializer(str, return_type=str)]  # Istio writes ports as text


class Selector(Spec):
    match_labels: Labels = Field(default_factory=dict)
