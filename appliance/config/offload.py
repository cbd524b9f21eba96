"""OffloadProfile of sluice.dev/v1: whose records mesh links have, and what they may be made of.

Shapes only: what contradicts what is judged in verify/offload.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt

from appliance.config.field import Spec, Text, one_of

NAME = "default"  # of the site's one profile, and of its namespace
BYTES_MAX = 1 << 50
TLS12, TLS13 = "1.2", "1.3"


def _version(value: Any) -> Any:
    """YAML reads 1.3 as a number."""
    return str(value) if isinstance(value, float) else value


class Tls(Spec):
    min_version: Annotated[
        Text,
        one_of(**{TLS12: None, TLS13: None, "1.0": "too weak", "1.1": "too weak"}),
        BeforeValidator(_version),
    ] = TLS13


class OffloadProfile(Spec):
    prefer: Annotated[Text, one_of(auto=None, user=None, ktls=None, nic=None, openssl=None)] = (
        "auto"
    )
    # A stream is moved to the kernel once it carried so many, both ways together.
    minimum_bytes: Annotated[StrictInt, Field(ge=0, le=BYTES_MAX)] | None = None
    tls: Tls = Field(default_factory=Tls)
    ciphers: Annotated[
        tuple[
            Annotated[Text, one_of(AES_128_GCM=None, AES_256_GCM=None, CHACHA20_POLY1305=None)], ...
        ],
        Field(min_length=1, max_length=8),
    ] = ("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305")
