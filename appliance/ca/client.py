"""Asks the CA process. The only client of its socket; holds no key and no policy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from appliance.api.channel import Client, answered, to
from appliance.ca._gen import ca_pb2 as pb
from appliance.ca._gen import ca_pb2_grpc
from appliance.ca.issue import (
    APPROVE_TOGETHER_MAX,
    GRADE_OF,
    GRADE_TEXT,
    SIGN_TOGETHER_MAX,
    Approval,
    Asked,
    Signed,
)
from appliance.ca.table import AuditEntry, Issued
from appliance.errors import BY_CODE, ApplianceError, InvalidInput, Unavailable
from dataplane.snapshot import Grade

CALL_TIMEOUT_S = 10.0  # longer than the CA takes to come back
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000))


@dataclass(frozen=True, slots=True)
class CaInfo:
    trust_domain: str
    not_after: int  # UNIX seconds, of the CA certificate
    pin: bytes  # 16 bytes, what join codes carry
    imported: bool
    approvals: int
    ttl_max_s: int
    counters: Mapping[str, int]


class CaClient(Client):
    """Connects at the first call, and again when the CA was restarted (calls wait for it).
    Use it as an async context manager, or call close().

    Each call raises the ApplianceError that the CA answered (Denied, InvalidInput, NotFound,
    Conflict, LimitReached), or Unavailable.
    """

    def __init__(self, path: Path, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        super().__init__(to(path), ca_pb2_grpc.CaStub, _RECONNECT)

    async def _call(self, name: str, request: Any) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._stub, name)
        try:
            return await method(request, timeout=self._timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Unavailable(
                    f"the CA does not answer at {self._path}: is `sluice up` running?"
                ) from error
            raise answered(error) from error

    async def sign(self, csr_der: bytes, spiffe_id: str, grade: Grade | None, ttl_s: int) -> Signed:
        """For the daemon. grade None = a host's own leaf, or the appliance's."""
        text = "" if grade is None else _grade_text(grade)
        request = pb.SignRequest(csr_der=csr_der, spiffe_id=spiffe_id, grade=text, ttl_s=ttl_s)
        reply = await self._call("Sign", request)
        return Signed(reply.chain_pem, reply.serial, reply.not_after)

    async def sign_each(self, asked: Sequence[Asked]) -> list[Signed | ApplianceError]:
        """For the daemon: each is signed or refused by itself, in the order asked."""
        answers: list[Signed | ApplianceError] = []
        for start in range(0, len(asked), SIGN_TOGETHER_MAX):
            request = pb.SignEachRequest(
                requests=[
                    pb.SignRequest(
                        csr_der=each.csr_der,
                        spiffe_id=each.spiffe_id,
                        grade="" if each.grade is None else _grade_text(each.grade),
                        ttl_s=each.ttl_s,
                    )
                    for each in asked[start : start + SIGN_TOGETHER_MAX]
                ]
            )
            answers += map(_answered, (await self._call("SignEach", request)).answers)
        return answers

    async def approve(self, spiffe_id: str, max_grade: Grade) -> None:
        """For admins."""
        request = pb.ApproveRequest(spiffe_id=spiffe_id, max_grade=_grade_text(max_grade))
        await self._call("Approve", request)

    async def approve_each(self, spiffe_ids: Sequence[str], max_grade: Grade) -> None:
        """For admins. Up to 500 are approved together or not at all."""
        text = _grade_text(max_grade)
        for start in range(0, len(spiffe_ids), APPROVE_TOGETHER_MAX):
            some = spiffe_ids[start : start + APPROVE_TOGETHER_MAX]
            requests = [pb.ApproveRequest(spiffe_id=each, max_grade=text) for each in some]
            await self._call("ApproveEach", pb.ApproveEachRequest(requests=requests))

    async def withdraw(self, spiffe_id: str) -> None:
        """For admins. Leaves that live run out by themselves; revoke the host to end them."""
        await self._call("Withdraw", pb.WithdrawRequest(spiffe_id=spiffe_id))

    async def approvals(self) -> tuple[Approval, ...]:
        """For admins."""
        reply = await self._call("ListApprovals", pb.ListRequest())
        return tuple(
            Approval(a.spiffe_id, GRADE_OF[a.max_grade], a.by, a.time) for a in reply.approvals
        )

    async def audit(self, limit: int = 100) -> tuple[AuditEntry, ...]:
        """For admins. Newest first."""
        reply = await self._call("ListAudit", pb.ListAuditRequest(limit=limit))
        return tuple(AuditEntry(e.time, e.who, e.what, e.detail) for e in reply.entries)

    async def operator_leaves(self, name: str) -> tuple[Issued, ...]:
        """For admins. What name, an admin or a viewer, holds that has not run out."""
        reply = await self._call("ListOperatorLeaves", pb.OperatorRequest(name=name))
        return tuple(Issued(e.serial, e.spiffe_id, e.not_after) for e in reply.leaves)

    async def import_key(self, key_pem: bytes, chain_pem: bytes) -> CaInfo:
        """For root: replaces the CA key by an intermediate that somebody else's CA signed."""
        request = pb.ImportRequest(key_pem=key_pem, chain_pem=chain_pem)
        return _info(await self._call("Import", request))

    async def bundle(self) -> str:
        """The site's trust anchors, PEM."""
        return str((await self._call("GetBundle", pb.ListRequest())).pem)

    async def info(self) -> CaInfo:
        return _info(await self._call("GetInfo", pb.ListRequest()))


def _answered(answer: pb.Answer) -> Signed | ApplianceError:
    if answer.code:
        return BY_CODE.get(answer.code, ApplianceError)(answer.error)
    return Signed(answer.signed.chain_pem, answer.signed.serial, answer.signed.not_after)


def _grade_text(grade: Grade) -> str:
    if grade is Grade.NONE:
        raise InvalidInput("grade none cannot be signed or approved")
    return GRADE_TEXT[grade]


def _info(info: pb.Info) -> CaInfo:
    return CaInfo(
        trust_domain=info.trust_domain,
        not_after=info.not_after,
        pin=bytes.fromhex(info.pin),
        imported=info.imported,
        approvals=info.approvals,
        ttl_max_s=info.ttl_max_s,
        counters=dict(info.counters),
    )
