"""The CA's gRPC handlers: who may ask, what is counted, what is audited. Thin.

Decides nothing about certificates (issue.py) and keeps nothing (table.py, key.py). A refusal is
counted and audited before it is answered.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc

from appliance.api.peercred import PeerCredFront, inner_directory, peer_of
from appliance.ca._gen import ca_pb2 as pb
from appliance.ca._gen import ca_pb2_grpc
from appliance.ca.issue import (
    APPROVE_TOGETHER_MAX,
    GRADE_OF,
    GRADE_TEXT,
    SIGN_TOGETHER_MAX,
    TTL_MAX_S,
    Approval,
    Asked,
    Authority,
    Signed,
    check_csr,
    check_workload_id,
    decide,
    issue,
    random_serial,
)
from appliance.ca.key import import_intermediate
from appliance.ca.table import Issued, Table
from appliance.errors import ApplianceError, Conflict, Denied, InvalidInput, LimitReached
from appliance.identity import OPERATOR_KINDS, appliance_id, is_operator_id, operator_id
from appliance.rate import Bucket, Rate
from appliance.system.credentials import Peer, Seats
from dataplane.snapshot import Grade

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 256 * 1024
CALLS_MAX = CONNECTIONS_MAX = 256
SIGN_RATE = Rate(burst=20_000, per_second=100)  # a whole site at once, then a steady stream
REFUSAL_AUDIT_RATE = Rate(burst=100, per_second=1)  # so that asking cannot flood the audit
AUDIT_LIST_MAX = 10_000

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Roles:
    """Numeric users and groups of the site document."""

    daemon_uid: int
    admin_gid: int

    def signs(self, peer: Peer) -> None:
        if peer.uid != self.daemon_uid:
            raise Denied(f"uid {peer.uid} may not have certificates signed: the daemon does that")

    def approves(self, peer: Peer) -> None:
        if peer.uid == self.daemon_uid:
            raise Denied("the daemon may not approve: an admin does, with `sluice ca approve`")
        if peer.uid != 0 and self.admin_gid not in peer.groups:
            raise Denied(f"uid {peer.uid} is neither root nor in the admin group")

    def makes_admins(self, peer: Peer) -> None:
        if peer.uid == self.daemon_uid or (peer.uid != 0 and self.admin_gid not in peer.groups):
            raise Denied("only root and the admin group make admins: with `sluice ca admin`")

    def imports(self, peer: Peer) -> None:
        if peer.uid == self.daemon_uid or peer.uid != 0:
            raise Denied("only root may replace the CA key")


class Ca:
    """What the CA does, without gRPC. Raises ApplianceErrors."""

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        table: Table,
        roles: Roles,
        appliance: str,
        clock: Callable[[], float] = time.time,
        sign_rate: Rate = SIGN_RATE,
    ) -> None:
        self._directory = directory
        self._authority = authority
        self._table = table
        self._roles = roles
        self._clock = clock
        self._bucket = Bucket(sign_rate)
        self._refusals = Bucket(REFUSAL_AUDIT_RATE)
        self._appliance_id = appliance_id(authority.trust_domain, appliance)
        self._appliance_dns = f"{appliance}.sluice.{authority.trust_domain}"
        self.counters: Counter[str] = Counter()
        self.seats = Seats(CONNECTIONS_MAX)  # at its socket

    def _now(self) -> int:
        return int(self._clock())

    def refused(self, peer: Peer, what: str, error: ApplianceError) -> None:
        """Counts and audits, whatever the reason was."""
        self.counters[f"refused_{what}"] += 1
        log.warning("refused %s for uid %d: %s", what, peer.uid, error)
        if self._refusals.take():
            self._table.audit(self._now(), f"uid {peer.uid}", f"refused {what}", str(error))
        else:
            self.counters["refusals_not_audited"] += 1

    def sign(
        self, peer: Peer, csr_der: bytes, spiffe_id: str, grade: Grade | None, ttl_s: int
    ) -> Signed:
        operator = is_operator_id(spiffe_id, self._authority.trust_domain)
        # An admin's own certificate is the admin's to ask for: the daemon would let itself in.
        (self._roles.makes_admins if operator else self._roles.signs)(peer)
        if not self._bucket.take():
            raise LimitReached("the CA signs no faster than its limit: try again in a moment")
        now = self._now()
        own = spiffe_id == self._appliance_id
        if (own or operator) and grade is not None:
            raise Denied(f"{spiffe_id} is no workload: its leaf has no grade")
        if not (own or operator):
            check_workload_id(spiffe_id, self._authority.trust_domain)
            decide(spiffe_id, grade, self._table.approval(spiffe_id))
        csr = check_csr(csr_der, spiffe_id)
        serial = random_serial()
        dns_name = self._appliance_dns if own else None
        signed = issue(self._authority, csr, spiffe_id, grade, ttl_s, now, serial, dns_name)
        text = "own key" if grade is None else f"grade {GRADE_TEXT[grade]}"
        with self._table.together():
            self._table.issued(signed.serial, spiffe_id, grade, signed.not_after, now)
            self._table.audit(
                now, f"uid {peer.uid}", "sign", f"{spiffe_id} {text} serial {signed.serial}"
            )
        self.counters["signed"] += 1
        return signed

    def approve(self, peer: Peer, spiffe_id: str, max_grade: Grade) -> None:
        self._roles.approves(peer)
        check_workload_id(spiffe_id, self._authority.trust_domain)
        if max_grade is Grade.NONE:
            raise InvalidInput("approve for grade l3, l2, port or key")
        approval = Approval(spiffe_id, max_grade, f"uid {peer.uid}", self._now())
        known = self._table.approval(spiffe_id)
        if known is not None and known.max_grade == max_grade:
            return
        detail = f"{spiffe_id} up to grade {GRADE_TEXT[max_grade]}"
        with self._table.together():
            self._table.approve(approval)
            self._table.audit(approval.time, approval.by, "approve", detail)
        self.counters["approved"] += 1

    def withdraw(self, peer: Peer, spiffe_id: str) -> None:
        self._roles.approves(peer)
        with self._table.together():
            self._table.withdraw(spiffe_id)
            self._table.audit(self._now(), f"uid {peer.uid}", "withdraw", spiffe_id)
        self.counters["withdrawn"] += 1

    def operator_leaves(self, peer: Peer, name: str) -> tuple[Issued, ...]:
        """Certificates that live, with which name may use the admin API from elsewhere."""
        self._roles.makes_admins(peer)
        domain = self._authority.trust_domain
        ids = [operator_id(domain, kind, name) for kind in OPERATOR_KINDS]
        return self._table.leaves(ids, self._now())

    def approvals(self, peer: Peer) -> tuple[Approval, ...]:
        self._roles.approves(peer)
        return self._table.approvals()

    def sign_each(self, peer: Peer, asked: Sequence[Asked]) -> list[Signed | ApplianceError]:
        """As `sign` for each by itself; each counts against the limit."""
        self._roles.signs(peer)
        if len(asked) > SIGN_TOGETHER_MAX:
            raise InvalidInput(f"at most {SIGN_TOGETHER_MAX} are signed at once")
        answers: list[Signed | ApplianceError] = []
        with self._table.together():
            for each in asked:
                try:
                    answers.append(
                        self.sign(peer, each.csr_der, each.spiffe_id, each.grade, each.ttl_s)
                    )
                except ApplianceError as error:
                    self.refused(peer, "sign", error)
                    answers.append(error)
        return answers

    def approve_each(self, peer: Peer, wanted: Sequence[tuple[str, Grade]]) -> None:
        """As `approve`, for all or none."""
        if len(wanted) > APPROVE_TOGETHER_MAX:
            raise InvalidInput(f"at most {APPROVE_TOGETHER_MAX} are approved at once")
        before = self.counters["approved"]
        try:
            with self._table.together():
                for spiffe_id, max_grade in wanted:
                    self.approve(peer, spiffe_id, max_grade)
        except ApplianceError:
            self.counters["approved"] = before
            raise

    def import_key(self, peer: Peer, key_pem: bytes, chain_pem: bytes) -> None:
        """Only while no workload has a live leaf: they would all be strangers."""
        self._roles.imports(peer)
        now = self._now()
        live = self._table.live(now, but=self._appliance_id)
        if live:
            raise Conflict(
                f"{live} leaves of the present CA are live: import before hosts are enrolled, "
                "or wait until they have run out"
            )
        domain = self._authority.trust_domain
        self._authority = import_intermediate(self._directory, domain, key_pem, chain_pem, now)
        pin = self._authority.pin.hex()
        self._table.audit(now, f"uid {peer.uid}", "import", f"CA certificate {pin}")

    def audit_list(self, peer: Peer, limit: int) -> pb.AuditList:
        self._roles.approves(peer)
        entries = self._table.audit_entries(min(limit or 100, AUDIT_LIST_MAX))
        return pb.AuditList(
            entries=[
                pb.AuditEntry(time=e.time, who=e.who, what=e.what, detail=e.detail) for e in entries
            ]
        )

    def bundle(self) -> str:
        return self._authority.bundle_pem

    def info(self) -> pb.Info:
        return pb.Info(
            trust_domain=self._authority.trust_domain,
            not_after=int(self._authority.certificate.not_valid_after_utc.timestamp()),
            pin=self._authority.pin.hex(),
            imported=self._authority.imported,
            approvals=self._table.approvals_count(),
            ttl_max_s=TTL_MAX_S,
            counters={**self.counters, "connections_refused": self.seats.refused},
        )


def grade_from(text: str) -> Grade:
    """Raises InvalidInput."""
    try:
        return GRADE_OF[text]
    except KeyError:
        raise InvalidInput(f"{text[:20]!r} is no grade: give l3, l2, port or key") from None


class CaServicer(ca_pb2_grpc.CaServicer):
    """Messages to calls and errors to statuses."""

    def __init__(self, ca: Ca, who: Callable[[Any], Peer] = peer_of) -> None:
        self._ca = ca
        self._who = who

    async def _answer(self, context: Any, what: str, work: Callable[[Peer], Reply]) -> Reply:
        peer = Peer(uid=2**32 - 1, gid=2**32 - 1, pid=0)
        try:
            peer = self._who(context)
            return work(peer)
        except ApplianceError as error:
            self._ca.refused(peer, what, error)
            await self._abort(context, error)

    @staticmethod
    async def _abort(context: Any, error: ApplianceError) -> NoReturn:
        abort: Awaitable[NoReturn] = context.abort(grpc.StatusCode[error.code], str(error))
        await abort
        raise AssertionError("abort returned")

    async def Sign(self, request: pb.SignRequest, context: Any) -> pb.SignReply:
        def work(peer: Peer) -> pb.SignReply:
            grade = grade_from(request.grade) if request.grade else None
            signed = self._ca.sign(
                peer, request.csr_der, request.spiffe_id, grade, request.ttl_s or TTL_MAX_S
            )
            return pb.SignReply(
                chain_pem=signed.chain_pem, serial=signed.serial, not_after=signed.not_after
            )

        return await self._answer(context, "sign", work)

    async def Approve(self, request: pb.ApproveRequest, context: Any) -> pb.Done:
        def work(peer: Peer) -> pb.Done:
            self._ca.approve(peer, request.spiffe_id, grade_from(request.max_grade))
            return pb.Done()

        return await self._answer(context, "approve", work)

    async def Withdraw(self, request: pb.WithdrawRequest, context: Any) -> pb.Done:
        def work(peer: Peer) -> pb.Done:
            self._ca.withdraw(peer, request.spiffe_id)
            return pb.Done()

        return await self._answer(context, "withdraw", work)

    async def Import(self, request: pb.ImportRequest, context: Any) -> pb.Info:
        def work(peer: Peer) -> pb.Info:
            self._ca.import_key(peer, request.key_pem, request.chain_pem)
            return self._ca.info()

        return await self._answer(context, "import", work)

    async def ListApprovals(self, request: pb.ListRequest, context: Any) -> pb.ApprovalList:
        def work(peer: Peer) -> pb.ApprovalList:
            return pb.ApprovalList(
                approvals=[
                    pb.Approval(
                        spiffe_id=a.spiffe_id,
                        max_grade=GRADE_TEXT[a.max_grade],
                        by=a.by,
                        time=a.time,
                    )
                    for a in self._ca.approvals(peer)
                ]
            )

        return await self._answer(context, "list", work)

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.AuditList:
        return await self._answer(
            context, "list", lambda peer: self._ca.audit_list(peer, request.limit)
        )

    async def ListOperatorLeaves(
        self, request: pb.OperatorRequest, context: Any
    ) -> pb.OperatorLeaves:
        def work(peer: Peer) -> pb.OperatorLeaves:
            found = self._ca.operator_leaves(peer, request.name)
            return pb.OperatorLeaves(
                leaves=[
                    pb.OperatorLeaf(
                        serial=each.serial, spiffe_id=each.spiffe_id, not_after=each.not_after
                    )
                    for each in found
                ]
            )

        return await self._answer(context, "list", work)

    async def SignEach(self, request: pb.SignEachRequest, context: Any) -> pb.SignEachReply:
        def work(peer: Peer) -> pb.SignEachReply:
            asked = [
                Asked(
                    each.csr_der,
                    each.spiffe_id,
                    grade_from(each.grade) if each.grade else None,
                    each.ttl_s or TTL_MAX_S,
                )
                for each in request.requests
            ]
            return pb.SignEachReply(answers=map(_answer, self._ca.sign_each(peer, asked)))

        return await self._answer(context, "sign", work)

    async def ApproveEach(self, request: pb.ApproveEachRequest, context: Any) -> pb.Done:
        def work(peer: Peer) -> pb.Done:
            wanted = [(each.spiffe_id, grade_from(each.max_grade)) for each in request.requests]
            self._ca.approve_each(peer, wanted)
            return pb.Done()

        return await self._answer(context, "approve", work)

    async def GetBundle(self, request: pb.ListRequest, context: Any) -> pb.Bundle:
        return await self._answer(context, "read", lambda _: pb.Bundle(pem=self._ca.bundle()))

    async def GetInfo(self, request: pb.ListRequest, context: Any) -> pb.Info:
        return await self._answer(context, "read", lambda _: self._ca.info())


def _answer(answer: Signed | ApplianceError) -> pb.Answer:
    if isinstance(answer, ApplianceError):
        return pb.Answer(code=answer.code, error=str(answer))
    return pb.Answer(
        signed=pb.SignReply(
            chain_pem=answer.chain_pem, serial=answer.serial, not_after=answer.not_after
        )
    )


@asynccontextmanager
async def serve(ca: Ca, public: Path) -> AsyncIterator[PeerCredFront]:
    """Serves on the public Unix socket while the context lasts."""
    inner = inner_directory(public.parent / "inner") / "ca.sock"
    inner.unlink(missing_ok=True)
    server = grpc.aio.server(
        maximum_concurrent_rpcs=CALLS_MAX,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", 64 << 20),  # a long list of approvals
        ],
    )
    ca_pb2_grpc.add_CaServicer_to_server(CaServicer(ca), server)
    server.add_insecure_port(f"unix:{inner}")
    await server.start()
    try:
        async with PeerCredFront(public, inner, ca.seats) as front:
            yield front
    finally:
        await server.stop(grace=2)
        inner.unlink(missing_ok=True)
