"""What goes over the enrolment listener, both ways: strict shapes, no decisions.

Bodies are JSON objects; unknown fields, wrong types and long values are refused. Binary values
are base64 (CSR, signature) or hex (secret, nonce, MAC).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from appliance.ca.issue import CSR_BYTES_MAX
from appliance.errors import InvalidInput

BODY_BYTES_MAX = 128 * 1024
BUNDLE_CHARS_MAX = 32 * 1024
OFFER_CHARS_MAX = 48 * 1024
STATUS = {  # of HTTP, for each ApplianceError.code
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}

Base64 = Annotated[str, StringConstraints(max_length=CSR_BYTES_MAX * 4 // 3 + 4)]
Secret = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{20}$")]
Mac = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Nonce = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{80}$")]
Address = Annotated[str, StringConstraints(max_length=45)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class JoinRequest(_Message):
    secret: Secret
    csr: Base64


class RenewRequest(_Message):
    csr: Base64
    nonce: Nonce | None = None  # both, when the leaf ran out
    signature: Base64 | None = None


class Empty(_Message):
    pass


class PeerRequest(_Message):
    secret: Secret
    offer: Annotated[str, StringConstraints(max_length=OFFER_CHARS_MAX)]  # JSON of an Offer
    mac: Mac


class PeerReply(_Message):
    offer: Annotated[str, StringConstraints(max_length=OFFER_CHARS_MAX)]
    mac: Mac


class Offer(_Message):
    """What one site tells another about itself when they become peers."""

    trust_domain: Annotated[str, StringConstraints(max_length=63)]
    appliance_id: Annotated[str, StringConstraints(max_length=255)]
    bundle_pem: Annotated[str, StringConstraints(max_length=BUNDLE_CHARS_MAX)]
    mesh_addresses: Annotated[list[Address], Field(min_length=1, max_length=16)]
    mesh_port: Port
    peering_address: Address
    peering_port: Port


class AgentConfig(_Message):
    """What an agent is told at join, at each renewal and when it asks."""

    host: str
    spiffe_id: str
    appliance_id: str
    trust_domain: str
    bundle_pem: str
    mesh: list[tuple[str, int]]  # address and port of the appliance's mesh listener
    vips: list[str]  # networks whose connections go to the appliance
    agent_port: int  # where the agent listens for the appliance
    ports: list[int]  # local ports that the appliance may have connected
    dns: list[str]
    zones: list[str]


Shape = TypeVar("Shape", bound=_Message)


def read(shape: type[Shape], body: bytes | str) -> Shape:
    """Raises InvalidInput with the first problem, without the value (it may be a secret)."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body is not JSON") from error
    if not isinstance(data, dict):
        raise InvalidInput("the body is not a JSON object")
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80]
        raise InvalidInput(f"{where}: {first['msg']}") from None


def unbase64(text: str, what: str) -> bytes:
    """Raises InvalidInput."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(f"{what} is not base64") from error
