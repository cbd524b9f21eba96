"""The only client of the admin API; the command line and the console use nothing else.

Owns the connection, the order of the calls that need the CA's approval first, and turning gRPC
errors into ApplianceError. Holds no state of the site.

Approving an identity is the admin's own act: the daemon cannot do it (see appliance.ca), so
adding a host or applying documents asks the CA directly, over its own socket, before it asks the
daemon. That needs the box: over mTLS from elsewhere, identities must be approved already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import grpc

from appliance.api._gen import admin_pb2 as pb
from appliance.api._gen import admin_pb2_grpc
from appliance.api.channel import Client, answered, to
from appliance.api.remote import Remote
from appliance.ca.client import CaClient
from appliance.compile.accounts import accounts
from appliance.config.load import Source, load
from appliance.config.tree import BYTES_MAX
from appliance.errors import (
    ApplianceError,
    Conflict,
    Denied,
    InvalidInput,
    LimitReached,
    Unavailable,
)
from appliance.identity import parse, workload_id
from appliance.paths import Paths
from dataplane.snapshot import Grade

__all__ = ["AdminClient", "ApplianceError", "Paths", "Remote", "pb", "read_sources"]

CALL_TIMEOUT_S = 60.0
CHARS_MAX = BYTES_MAX + 1  # of a file: what is longer is refused when it is loaded


def _raise(error: grpc.aio.AioRpcError, where: str) -> ApplianceError:
    # The published types of gRPC know no pairs here.
    metadata = cast("Iterable[tuple[str, str]]", error.trailing_metadata() or ())
    by_daemon = any(key == "sluice-answered" for key, _ in metadata)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not by_daemon:
        return Unavailable(f"the daemon does not answer at {where}: is `sluice up` running?")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not by_daemon:
        return Unavailable(
            f"the daemon did not answer within {CALL_TIMEOUT_S:.0f} s: see `sluice status` whether "
            "it was done"
        )
    return answered(error)


class AdminClient(Client):
    """Async context manager. Each method is one call; replies are the API's messages."""

    def __init__(self, paths: Paths | None = None, remote: Remote | None = None) -> None:
        """remote: another machine's daemon, by mTLS, instead of the one at paths."""
        self._paths = paths or Paths()
        self._remote = remote
        self._where = remote.address if remote else str(self._paths.admin_socket)
        super().__init__(
            remote.channel if remote else to(self._paths.admin_socket), admin_pb2_grpc.AdminStub
        )
        self.left_undone: list[str] = []  # of calls that were done else: what remains to do

    async def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return await method(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise _raise(error, self._where) from error

    async def _approve(
        self, identities: Sequence[str], grade: Grade, named: Set[tuple[str, str]]
    ) -> dict[str, Grade]:
        """At least grade for each; an approval that is stronger already stays. The CA is not
        needed for none. Returns what was approved and its grade before (NONE = not approved).

        named: (namespace, service account) that the admin wrote. The daemon says what it needs,
        and a daemon in wrong hands would ask for more. Raises Denied.
        """
        if not identities or self._remote is not None:
            return {}  # from elsewhere the CA cannot be asked: the box must have approved before
        async with CaClient(self._paths.ca_socket) as ca:
            known = {each.spiffe_id: each.max_grade for each in await ca.approvals()}
            wanted = [each for each in identities if known.get(each, Grade.NONE) < grade]
            strange = [each for each in wanted if parse(each).workload not in named]
            if strange:
                raise Denied(
                    f"the daemon wants {strange[0]} approved, which what you give does not name: "
                    f"if it should be, run `sluice ca approve {strange[0]}`"
                )
            await ca.approve_each(wanted, grade)
            return {spiffe_id: known.get(spiffe_id, Grade.NONE) for spiffe_id in wanted}

    async def _approve_no_more(self, before: Mapping[str, Grade]) -> None:
        """Takes back what `_approve` did."""
        async with CaClient(self._paths.ca_socket) as ca:
            for spiffe_id, grade in before.items():
                if grade is Grade.NONE:
                    await ca.withdraw(spiffe_id)
                else:
                    await ca.approve(spiffe_id, grade)

    async def _withdraw(self, name: str, hosts: Sequence[pb.Host]) -> None:
        """Has the CA sign no more for the host name, unless another host is the same workload.

        hosts: all, from before name went. Who may not ask the CA was refused by the daemon. The
        host is gone already: a CA that does not answer is told in `left_undone`.
        """
        gone = {host.spiffe_id for host in hosts if host.name == name}
        kept = {host.spiffe_id for host in hosts if host.name != name and host.state != "revoked"}
        kept |= {
            service.spiffe_id
            for service in await self.services()
            if any(endpoint.name != name for endpoint in service.endpoints)
        }
        if not gone - kept:
            return
        if self._remote is not None:
            self.left_undone += [
                f"on the box, run `sluice ca withdraw {each}`" for each in sorted(gone - kept)
            ]
            return
        try:
            async with CaClient(self._paths.ca_socket) as ca:
                known = {each.spiffe_id for each in await ca.approvals()}
                for spiffe_id in (gone - kept) & known:
                    await ca.withdraw(spiffe_id)
        except Unavailable as error:
            self.left_undone += [
                f"{error}; when it does, run `sluice ca withdraw {each}`"
                for each in sorted(gone - kept)
            ]

    # -- reading ---------------------------------------------------------------------------------

    async def status(self) -> pb.Status:
        return await self._call(self._stub.GetStatus, pb.GetStatusRequest())

    async def hosts(self) -> Sequence[pb.Host]:
        return (await self._call(self._stub.ListHosts, pb.ListRequest())).hosts

    async def services(self) -> Sequence[pb.Service]:
        return (await self._call(self._stub.ListServices, pb.ListRequest())).services

    async def peers(self) -> Sequence[pb.Peer]:
        return (await self._call(self._stub.ListPeers, pb.ListRequest())).peers

    async def documents(
        self, kind: str = "", namespace: str = "", name: str = ""
    ) -> Sequence[pb.Document]:
        request = pb.GetDocumentsRequest(kind=kind, namespace=namespace, name=name)
        return (await self._call(self._stub.GetDocuments, request)).documents

    async def history(self) -> Sequence[pb.Revision]:
        return (await self._call(self._stub.History, pb.ListRequest())).revisions

    async def diff(
        self, older: int = 0, newer: int = 0, sources: Sequence[tuple[str, str]] = ()
    ) -> str:
        """Between two revisions, or (with sources: file, text) between now and those."""
        request = pb.DiffRequest(to=newer, sources=_sources(sources))
        setattr(request, "from", older)
        return (await self._call(self._stub.Diff, request)).diff

    async def flows(self, service: str = "", state: str = "", limit: int = 200) -> pb.FlowList:
        request = pb.ListFlowsRequest(service=service, state=state, limit=limit)
        return await self._call(self._stub.ListFlows, request)

    async def doctor(self) -> Sequence[pb.Finding]:
        return (await self._call(self._stub.Doctor, pb.ListRequest())).findings

    async def audit(self) -> Sequence[pb.AuditEntry]:
        return (await self._call(self._stub.ListAudit, pb.ListRequest())).entries

    async def offload(self) -> pb.OffloadStatus:
        return await self._call(self._stub.GetOffload, pb.ListRequest())

    async def plan_offload(self) -> Sequence[pb.OffloadStep]:
        return (await self._call(self._stub.PlanOffload, pb.ListRequest())).steps

    async def watch(
        self,
        *,
        status: bool = False,
        flows: bool = False,
        audit: bool = False,
        interval_ms: int = 1000,
    ) -> AsyncIterator[pb.Update]:
        """Updates as they happen, until the caller stops or the daemon goes (Unavailable)."""
        request = pb.WatchRequest(status=status, flows=flows, audit=audit, interval_ms=interval_ms)
        call = self._stub.Watch(request)
        try:
            async for update in call:
                yield update
        except grpc.aio.AioRpcError as error:
            raise _raise(error, self._where) from error
        finally:
            call.cancel()

    # -- writing ---------------------------------------------------------------------------------

    async def apply(
        self,
        sources: Sequence[tuple[str, str]],
        *,
        dry_run: bool = False,
        confirm_seconds: int = 0,
        replace: bool = False,
    ) -> pb.ApplyReply:
        """sources: (file, text). Has the CA approve identities that are new with them."""
        request = pb.ApplyRequest(
            sources=_sources(sources),
            dry_run=dry_run,
            approve_first=not dry_run and self._remote is None,
            confirm_seconds=confirm_seconds,
            replace=replace,
        )
        if not request.approve_first:
            return await self._call(self._stub.Apply, request)
        # Read while the daemon reads it too: should it want approvals, they are asked for at once.
        named = asyncio.get_running_loop().run_in_executor(None, _named, sources)
        try:
            reply: pb.ApplyReply = await self._call(self._stub.Apply, request)
            if not reply.identities:
                return reply
            # Documents make no agents, so nothing they name is ever surer than a port of its own.
            await self._approve(reply.identities, Grade.PORT, await named)
        finally:
            named.cancel()
        request.approve_first = False
        return await self._call(self._stub.Apply, request)

    async def delete(
        self, kind: str, namespace: str, name: str, *, dry_run: bool = False
    ) -> pb.ApplyReply:
        request = pb.DeleteRequest(kind=kind, namespace=namespace, name=name, dry_run=dry_run)
        return await self._call(self._stub.Delete, request)

    async def rollback(self, revision: int, *, dry_run: bool = False) -> pb.ApplyReply:
        request = pb.RollbackRequest(revision=revision, dry_run=dry_run)
        return await self._call(self._stub.Rollback, request)

    async def confirm(self, *, cancel: bool = False) -> pb.ApplyReply:
        return await self._call(self._stub.Confirm, pb.ConfirmRequest(cancel=cancel))

    async def add_host(self, request: pb.AddHostRequest) -> pb.AddHostReply:
        """Approves the host's identity at the CA, then adds it. The reply's code is shown once."""
        trust_domain = (await self.status()).trust_domain
        namespace = request.namespace or "default"
        account = request.service_account or request.name
        identity = workload_id(trust_domain, namespace, account)
        before = await self._approve([identity], _grade(request), {(namespace, account)})
        try:
            return await self._call(self._stub.AddHost, request)
        except (InvalidInput, Conflict, Denied, LimitReached):
            await self._approve_no_more(before)
            raise

    async def remove_host(self, name: str) -> None:
        hosts = await self.hosts()
        await self._call(self._stub.RemoveHost, pb.NameRequest(name=name))
        await self._withdraw(name, hosts)

    async def revoke_host(self, name: str) -> pb.RevokeReply:
        hosts = await self.hosts()
        reply = await self._call(self._stub.RevokeHost, pb.NameRequest(name=name))
        await self._withdraw(name, hosts)
        return reply

    async def invite_peer(self, name: str) -> pb.InvitePeerReply:
        return await self._call(self._stub.InvitePeer, pb.NameRequest(name=name))

    async def add_peer(self, name: str, address: str, code: str) -> pb.Peer:
        request = pb.AddPeerRequest(name=name, address=address, code=code)
        return await self._call(self._stub.AddPeer, request)

    async def remove_peer(self, name: str) -> None:
        await self._call(self._stub.RemovePeer, pb.NameRequest(name=name))

    async def revoke_operator(self, name: str, serials: Sequence[str]) -> None:
        """Of an admin's or a viewer's certificates; the CA knows the serials."""
        request = pb.RevokeOperatorRequest(name=name, serials=serials)
        await self._call(self._stub.RevokeOperator, request)

    async def apply_offload(self) -> Sequence[pb.OffloadStep]:
        return (await self._call(self._stub.ApplyOffload, pb.ListRequest())).steps

    async def revert_offload(self) -> Sequence[pb.OffloadStep]:
        return (await self._call(self._stub.RevertOffload, pb.ListRequest())).steps

    async def restart_dataplane(self) -> None:
        await self._call(self._stub.RestartDataplane, pb.ListRequest())


def _grade(request: pb.AddHostRequest) -> Grade:
    """How sure the site can be of that host: the most that the CA should sign for it."""
    if request.agent:
        return Grade.KEY
    if request.interface:
        return Grade.PORT
    return Grade.L2 if request.mac else Grade.L3


def _named(sources: Sequence[tuple[str, str]]) -> Set[tuple[str, str]]:
    return accounts(load([Source(file, text) for file, text in sources]))


def _sources(sources: Sequence[tuple[str, str]]) -> list[pb.Source]:
    return [pb.Source(file=file, text=text) for file, text in sources]


def read_sources(files: Sequence[Path]) -> list[tuple[str, str]]:
    """(file, text) of each file, and of each *.yaml and *.yml in each folder, sorted."""
    found: list[Path] = []
    for path in files:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml"))
        else:
            found.append(path)
    return [(str(path), _text(path)) for path in found]


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(CHARS_MAX)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not UTF-8 text: write it in UTF-8") from error
