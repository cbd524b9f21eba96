"""The admin API's handlers: thin. Who may call, what is asked, whom of the daemon's parts to ask.

Owns the mapping of errors to statuses and the streams of those who watch (bounded; what does not
fit is counted). Decides nothing: auth.py says who may, the parts do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import grpc

from appliance import instructions
from appliance.agent.build import join_line
from appliance.api import messages, offload_messages
from appliance.api._gen import admin_pb2 as pb
from appliance.api._gen import admin_pb2_grpc
from appliance.api.auth import Caller, Context, need_write
from appliance.apply import Applier
from appliance.catalog import Catalog
from appliance.compile import hosts
from appliance.compile.hosts import host_id, leaf_key
from appliance.compile.offload import profile
from appliance.config.load import Source
from appliance.config.model import KINDS, dump_document
from appliance.errors import ApplianceError, InvalidInput, LimitReached, NotFound
from appliance.leaves import Leaves
from appliance.membership import Membership
from appliance.observe.audit import Audit, Entry
from appliance.observe.flows import Flow, Flows
from appliance.publish import Publisher
from appliance.registry.hosts import host_of
from appliance.registry.model import Endpoint, HostState
from appliance.registry.revisions import Revisions
from appliance.registry.view import RegistryView
from appliance.report import Reporter, Supervisor
from appliance.site import Site
from appliance.system.offload import Offload, worker_cpus
from appliance.system.offload_plan import Outcome, Step
from appliance.tasks import woken

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 64 << 20
CALLS_MAX = 128
DETAILS_MAX = 4000  # what HTTP/2 trailers surely carry
FLOWS_MAX = 5_000
WATCHERS_MAX = 32
WATCH_QUEUE_MAX = 2_000
INTERVAL_MIN_MS, INTERVAL_MAX_MS = 100, 60_000
SOURCES_MAX = 10_000
# With an error that we answer: so that the client can tell it from its own transport's.
ANSWERED = (("sluice-answered", "1"),)
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)

R = TypeVar("R")
Call = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Any, Call], Awaitable[R]]


def answers(write: bool = False) -> Callable[[Handler[R]], Handler[R]]:
    """A handler that may raise ApplianceError; `write`: only for callers that may write."""

    def decorate(handler: Handler[R]) -> Handler[R]:
        @wraps(handler)
        async def answer(self: AdminService, request: Any, context: Call) -> R:
            try:
                caller = self.caller(context)
                if write:
                    need_write(caller)
                return await handler(self, request, context)
            except ApplianceError as error:
                await context.abort(grpc.StatusCode[error.code], details(error), ANSWERED)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("%s failed", handler.__name__)
                await context.abort(grpc.StatusCode.INTERNAL, "a fault of the daemon: see its log")

        return answer

    return decorate


def details(error: ApplianceError) -> str:
    """As many whole lines as fit."""
    text = str(error)
    if len(text.encode()) <= DETAILS_MAX:
        return text
    kept: list[str] = []
    lines = text.splitlines()
    for line in lines:
        if len("\n".join([*kept, line]).encode()) > DETAILS_MAX - 40:
            break
        kept.append(line)
    more = len(lines) - len(kept)
    return "\n".join([*kept, f"… and {more} more"]) if kept else text[: DETAILS_MAX // 4]


def kind_of(text: str) -> str:
    """ "destinationrules" -> "DestinationRule". Raises InvalidInput."""
    for _, kind in KINDS:
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        if text.lower() in (kind.lower(), plural.lower()):
            return kind
    known = ", ".join(sorted(kind for _, kind in KINDS))
    raise InvalidInput(f"{text[:80]!r} is no kind of document: write one of {known}")


class AdminService(admin_pb2_grpc.AdminServicer):
    def __init__(
        self,
        site: Site,
        caller: Callable[[Context], Caller],
        *,
        applier: Applier,
        membership: Membership,
        publisher: Publisher,
        revisions: Revisions,
        view: RegistryView,
        catalog: Catalog,
        leaves: Leaves,
        flows: Flows,
        audit: Audit,
        reporter: Reporter,
        supervisor: Supervisor,
        peer_detail: Callable[[str], str],
        dropped: Callable[[], int],
        offload: Offload,
    ) -> None:
        self.caller = caller
        self._site, self._applier, self._membership = site, applier, membership
        self._publisher, self._revisions, self._view = publisher, revisions, view
        self._catalog, self._leaves, self._flows = catalog, leaves, flows
        self._audit, self._reporter, self._supervisor = audit, reporter, supervisor
        self._peer_detail, self._dropped, self._offload = peer_detail, dropped, offload
        self._watchers = 0

    # -- read ------------------------------------------------------------------------------------

    @answers()
    async def GetStatus(self, request: pb.GetStatusRequest, context: Call) -> pb.Status:
        return await self._reporter.status()

    @answers()
    async def ListHosts(self, request: pb.ListRequest, context: Call) -> pb.HostList:
        offered: dict[str, list[str]] = {}
        for view in self._catalog.views():
            for endpoint in view.endpoints:
                offered.setdefault(endpoint.host, []).append(view.key)
        return pb.HostList(
            hosts=[
                self._host(host, offered.get(host.name, []))
                for host in hosts(self._publisher.model, self._view.now)
            ]
        )

    def _host(self, host: Any, offered: list[str]) -> pb.Host:
        spiffe_id = host_id(host, self._site.trust_domain)
        held = self._leaves.get(leaf_key(spiffe_id, host.grade)) if spiffe_id else None
        not_after = held.not_after if held is not None else None
        return messages.host(host, self._site, sorted(set(offered)), not_after)

    @answers()
    async def ListServices(self, request: pb.ListRequest, context: Call) -> pb.ServiceList:
        published = self._publisher.published
        modes: dict[str, set[str]] = {}
        for service in published.snapshot.services if published else ():
            modes.setdefault(service.name, set()).add(service.mtls.name.lower())
        known = {host.name: host for host in hosts(self._publisher.model, self._view.now)}
        revoked: dict[str, list[Endpoint]] = {}
        for each in self._view.now.endpoints:
            if known[each.host].state is HostState.REVOKED:
                revoked.setdefault(each.service, []).append(each)
        return pb.ServiceList(
            services=[
                messages.service(
                    view,
                    self._site,
                    known,
                    self._flows.ejected,
                    "/".join(sorted(modes.get(view.key, ()))),
                    revoked.get(view.key, ()),
                )
                for view in self._catalog.views()
            ]
        )

    @answers()
    async def ListPeers(self, request: pb.ListRequest, context: Call) -> pb.PeerList:
        exports = len(self._catalog.exports())
        return pb.PeerList(
            peers=[
                messages.peer(peer, exports, self._peer_detail(peer.name))
                for peer in self._view.now.peers
            ]
        )

    @answers()
    async def GetDocuments(self, request: pb.GetDocumentsRequest, context: Call) -> pb.DocumentList:
        current = self._revisions.current
        generations = self._revisions.generations(current)
        waits = self._revisions.pending()
        status = "waits to be confirmed" if waits and waits.revision == current else "applied"
        kind = kind_of(request.kind) if request.kind else ""
        documents = [
            messages.document(doc, dump_document(doc), generations.get(doc.key, 0), status)
            for doc in self._publisher.model.documents
            if kind in ("", doc.kind)
            and request.namespace in ("", doc.namespace)
            and request.name in ("", doc.name)
        ]
        if request.name and not documents:
            raise NotFound(f"there is no {kind} {request.name[:80]!r}: see `sluice get`")
        return pb.DocumentList(revision=current, documents=documents)

    @answers()
    async def History(self, request: pb.ListRequest, context: Call) -> pb.RevisionList:
        return pb.RevisionList(revisions=map(messages.revision, self._revisions.list()))

    @answers()
    async def Diff(self, request: pb.DiffRequest, context: Call) -> pb.DiffReply:
        older = getattr(request, "from")
        text = await self._applier.diff(older, request.to, _sources(request.sources))
        return pb.DiffReply(diff=text)

    @answers()
    async def ListFlows(self, request: pb.ListFlowsRequest, context: Call) -> pb.FlowList:
        if request.state not in ("", "open", "closed", "refused"):
            raise InvalidInput(f"{request.state[:40]!r} is no state: open, closed or refused")
        limit = min(request.limit or 200, FLOWS_MAX)
        found = self._flows.select(request.service, request.state, limit)
        return pb.FlowList(flows=map(messages.flow, found), dropped_events=self._dropped())

    @answers()
    async def Doctor(self, request: pb.ListRequest, context: Call) -> pb.FindingList:
        return pb.FindingList(findings=await self._reporter.doctor())

    @answers()
    async def ListAudit(self, request: pb.ListRequest, context: Call) -> pb.AuditList:
        return pb.AuditList(entries=map(messages.audit, self._audit.entries()))

    @answers()
    async def GetOffload(self, request: pb.ListRequest, context: Call) -> pb.OffloadStatus:
        return offload_messages.status(
            profile(self._publisher.model),
            self._reporter.ledger(),
            await self._offload.nics(),
            worker_cpus(self._site),
            await self._offload.drifted(),
        )

    @answers()
    async def PlanOffload(self, request: pb.ListRequest, context: Call) -> pb.OffloadSteps:
        return offload_messages.steps(await self._offload.plan())

    async def Watch(self, request: pb.WatchRequest, context: Call) -> AsyncIterator[pb.Update]:
        try:
            self.caller(context)
            if not (request.status or request.flows or request.audit):
                raise InvalidInput("say what to watch: status, flows or audit")
            if self._watchers >= WATCHERS_MAX:
                raise LimitReached(f"{WATCHERS_MAX} watch already: close a console")
        except ApplianceError as error:
            await context.abort(grpc.StatusCode[error.code], details(error), ANSWERED)
        self._watchers += 1
        news = _News(request, self._flows, self._audit)
        wait_ms = min(max(request.interval_ms or 1000, INTERVAL_MIN_MS), INTERVAL_MAX_MS)
        try:
            while True:
                self.caller(context)  # revoked meanwhile?
                if request.status:
                    yield pb.Update(status=await self._reporter.status())
                for update in news.take(self._dropped()):
                    yield update
                await news.wait(wait_ms / 1000)
        except ApplianceError as error:
            await context.abort(grpc.StatusCode[error.code], details(error), ANSWERED)
        finally:
            news.close()
            self._watchers -= 1

    # -- write -----------------------------------------------------------------------------------

    def _changes(self, context: Call, dry_run: bool) -> str:
        """Who it is. A dry run is a read. Raises Denied."""
        caller = self.caller(context)
        if not dry_run:
            need_write(caller)
        return caller.name

    @answers()
    async def Apply(self, request: pb.ApplyRequest, context: Call) -> pb.ApplyReply:
        outcome = await self._applier.apply(
            _sources(request.sources),
            by=self._changes(context, request.dry_run),
            dry_run=request.dry_run,
            approve_first=request.approve_first,
            confirm_s=request.confirm_seconds,
            replace=request.replace,
        )
        return messages.outcome(outcome)

    @answers()
    async def Delete(self, request: pb.DeleteRequest, context: Call) -> pb.ApplyReply:
        by = self._changes(context, request.dry_run)
        key = kind_of(request.kind), request.namespace or "default", request.name
        return messages.outcome(await self._applier.delete(key, by=by, dry_run=request.dry_run))

    @answers()
    async def Rollback(self, request: pb.RollbackRequest, context: Call) -> pb.ApplyReply:
        by = self._changes(context, request.dry_run)
        return messages.outcome(
            await self._applier.rollback(request.revision, by=by, dry_run=request.dry_run)
        )

    @answers(write=True)
    async def Confirm(self, request: pb.ConfirmRequest, context: Call) -> pb.ApplyReply:
        by = self.caller(context).name
        return messages.outcome(await self._applier.confirm(by=by, cancel=request.cancel))

    @answers(write=True)
    async def AddHost(self, request: pb.AddHostRequest, context: Call) -> pb.AddHostReply:
        host = host_of(
            name=request.name,
            namespace=request.namespace,
            service_account=request.service_account,
            agent=request.agent,
            addresses=request.addresses,
            mac=request.mac,
            interface=request.interface,
            labels=dict(request.labels),
            now=int(time.time()),
        )
        code = await self._membership.add_host(host, request.services, self.caller(context).name)
        offered = sorted({f"{each.split(':')[0]}.{host.namespace}" for each in request.services})
        reply = pb.AddHostReply(host=self._host(host, offered))
        if code is not None:
            reply.code, reply.code_expires = code.text, code.expires
            address = self._site.spec.hosts.addresses[0]
            reply.join_line = join_line(str(address), self._site.spec.ports.enrol)
        else:
            lines = instructions.agentless(self._site)
            reply.route_linux, reply.route_windows = lines.route_linux, lines.route_windows
            reply.route_dhcp, reply.dns = lines.route_dhcp, lines.dns
        return reply

    @answers(write=True)
    async def RemoveHost(self, request: pb.NameRequest, context: Call) -> pb.Done:
        await self._membership.remove_host(request.name, self.caller(context).name)
        return pb.Done()

    @answers(write=True)
    async def RevokeHost(self, request: pb.NameRequest, context: Call) -> pb.RevokeReply:
        known = {host.name: host for host in self._view.now.hosts}
        before = known.get(request.name)
        streams = self._open_streams(before) if before is not None else 0
        done = await self._membership.revoke_host(request.name, self.caller(context).name)
        return pb.RevokeReply(
            peers_told=done.told, peers_not_told=done.not_told, streams_closed=streams
        )

    def _open_streams(self, host: Any) -> int:
        spiffe_id = host_id(host, self._site.trust_domain) or ""
        return self._flows.open_from(spiffe_id, frozenset(map(str, host.addresses)))

    @answers(write=True)
    async def InvitePeer(self, request: pb.NameRequest, context: Call) -> pb.InvitePeerReply:
        code = await self._membership.invite_peer(request.name, self.caller(context).name)
        address = self._site.spec.mesh.addresses[0]
        host = f"[{address}]" if address.version == 6 else str(address)
        return pb.InvitePeerReply(
            code=code.text,
            code_expires=code.expires,
            address=f"{host}:{self._site.spec.ports.enrol}",
        )

    @answers(write=True)
    async def AddPeer(self, request: pb.AddPeerRequest, context: Call) -> pb.Peer:
        by = self.caller(context).name
        peer = await self._membership.add_peer(request.name, request.address, request.code, by)
        return messages.peer(peer, len(self._catalog.exports()), self._peer_detail(peer.name))

    @answers(write=True)
    async def RemovePeer(self, request: pb.NameRequest, context: Call) -> pb.Done:
        await self._membership.remove_peer(request.name, self.caller(context).name)
        return pb.Done()

    @answers(write=True)
    async def RevokeOperator(self, request: pb.RevokeOperatorRequest, context: Call) -> pb.Done:
        by = self.caller(context).name
        await self._membership.revoke_operator(request.name, request.serials, by)
        return pb.Done()

    @answers(write=True)
    async def RestartDataplane(self, request: pb.ListRequest, context: Call) -> pb.Done:
        by = self.caller(context).name
        await self._supervisor.call("restart-dataplane")
        self._audit.record(by, "restart dataplane")
        return pb.Done()

    @answers(write=True)
    async def ApplyOffload(self, request: pb.ListRequest, context: Call) -> pb.OffloadSteps:
        return self._told(context, "apply offload", await self._offload.apply())

    @answers(write=True)
    async def RevertOffload(self, request: pb.ListRequest, context: Call) -> pb.OffloadSteps:
        return self._told(context, "revert offload", await self._offload.revert())

    def _told(self, context: Call, what: str, steps: Sequence[Step]) -> pb.OffloadSteps:
        reply = offload_messages.steps(steps)
        changed = [
            f"{step.interface} {step.setting} {step.old} to {step.new}"
            for step in reply.steps
            if step.outcome == Outcome.CHANGED
        ]
        by = self.caller(context).name
        self._audit.record(by, what, ", ".join(changed) or "changed nothing")
        return reply


class _News:
    """What one watcher has not got yet."""

    def __init__(self, request: pb.WatchRequest, flows: Flows, audit: Audit) -> None:
        self._flows: dict[tuple[str, str], Flow] = {}
        self._audit: list[Entry] = []
        self._urgent = asyncio.Event()
        self.dropped = 0
        self._stops = []
        if request.flows:
            self._stops.append(flows.watch(self._flow))
        if request.audit:
            self._stops.append(audit.watch(self._entry))

    def close(self) -> None:
        for stop in self._stops:
            stop()

    def _flow(self, flow: Flow) -> None:
        """The last of each flow is enough."""
        key = flow.event.process, flow.event.flow_id
        if key not in self._flows and len(self._flows) >= WATCH_QUEUE_MAX:
            self.dropped += 1
            return
        self._flows[key] = flow

    def _entry(self, entry: Entry) -> None:
        if len(self._audit) >= WATCH_QUEUE_MAX:
            self.dropped += 1
            return
        self._audit.append(entry)
        self._urgent.set()

    def take(self, dropped: int) -> list[pb.Update]:
        flows, self._flows = self._flows, {}
        entries, self._audit = self._audit, []
        updates = [pb.Update(audit=messages.audit(entry)) for entry in entries]
        if flows:
            listed = pb.FlowList(
                flows=map(messages.flow, flows.values()), dropped_events=dropped + self.dropped
            )
            updates.append(pb.Update(flows=listed))
        return updates

    async def wait(self, seconds: float) -> None:
        if self._audit:
            return
        self._urgent.clear()
        await woken(self._urgent, seconds)


def _sources(given: Any) -> list[Source]:
    if len(given) > SOURCES_MAX:
        raise InvalidInput(f"more than {SOURCES_MAX} files: put several documents into one")
    return [Source(each.file or "-", each.text) for each in given]
