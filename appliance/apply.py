"""Changes of the documents: apply, delete, roll back, confirm. All of a change, or none of it.

Owns the order: load → verify → keep on disk → publish → make current; and the deadline after
which an unconfirmed change reverts. One change at a time. Enrolments, revocations and audit are
not documents and never revert.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.compile import Mesh, compile, leaf_needs
from appliance.config.load import Known, Source, load
from appliance.config.model import (
    Change,
    Key,
    Model,
    changes,
    diff,
    merge,
    without,
)
from appliance.config.notes import DocumentErrors, Note
from appliance.config.verify import refusals, verify
from appliance.errors import InvalidInput, LimitReached, NotFound, Unavailable
from appliance.leaves import Leaves
from appliance.observe.audit import Audit
from appliance.publish import Publisher
from appliance.registry.revisions import Pending, Revisions
from appliance.registry.view import RegistryView
from appliance.site import Site
from appliance.stopwatch import Stopwatch
from appliance.tasks import Tasks, woken

log = logging.getLogger(__name__)

CONFIRM_SECONDS_MAX = 7 * 86_400
_RETRY_S = 2.0
_LOOK_S = 15.0  # the wall clock may be set


@dataclass(frozen=True, slots=True)
class Outcome:
    revision: int  # the one that is current now; of a dry run: that was before
    changes: tuple[Change, ...] = ()
    notes: tuple[Note, ...] = ()
    diff: str = ""
    confirm_deadline: int = 0  # UNIX seconds; 0 = none
    apply_ms: float = 0.0  # from request until every worker ran it
    identities: tuple[str, ...] = ()  # that the CA must have approved first


@dataclass(frozen=True, slots=True)
class _Judged:
    """Documents with the registry, and what verify says of them."""

    mesh: Mesh
    notes: Sequence[Note]


class Applier:
    def __init__(
        self,
        site: Site,
        revisions: Revisions,
        view: RegistryView,
        publisher: Publisher,
        leaves: Leaves,
        audit: Audit,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site, self._revisions, self._view = site, revisions, view
        self._publisher, self._leaves, self._audit = publisher, leaves, audit
        self._clock = clock
        self._lock = asyncio.Lock()
        self._tasks = Tasks()
        self._wake = asyncio.Event()
        self._known = Known()
        self._judged: _Judged | None = None  # what was looked at last: it may be applied next

    # -- what may be asked -----------------------------------------------------------------------

    async def apply(
        self,
        sources: Sequence[Source],
        *,
        by: str,
        dry_run: bool = False,
        approve_first: bool = False,
        confirm_s: int = 0,
        replace: bool = False,
    ) -> Outcome:
        """approve_first: when the CA has yet to sign for an identity, changes nothing and says
        which. Raises DocumentErrors with all that is wrong, Conflict, Unavailable, LimitReached."""
        if confirm_s > CONFIRM_SECONDS_MAX:
            raise InvalidInput("a change waits for its confirmation seven days at most")
        given = await asyncio.to_thread(load, sources, self._known)
        if sources and not given.documents:
            raise InvalidInput(
                "no document is in what was given: name files that hold some; what shall go is "
                "deleted by `sluice delete`"
            )

        def wanted(before: Model) -> Model:
            return given if replace else merge(before, given)

        return await self._change(
            wanted,
            given,
            by=by,
            dry_run=dry_run,
            approve_first=approve_first,
            confirm_s=confirm_s,
        )

    async def delete(self, key: Key, *, by: str, dry_run: bool = False) -> Outcome:
        """Raises NotFound, Conflict, Unavailable."""

        def wanted(before: Model) -> Model:
            if all(doc.key != key for doc in before.documents):
                raise NotFound("there is no {} {}/{}".format(*key))
            return without(before, [key])

        return await self._change(wanted, Model(), by=by, dry_run=dry_run)

    async def rollback(self, revision: int, *, by: str, dry_run: bool = False) -> Outcome:
        """To the documents of a revision, as a new revision."""
        sources = self._revisions.sources(revision)
        model = await asyncio.to_thread(load, sources, self._known)
        return await self._change(
            lambda _: model, Model(), by=by, dry_run=dry_run, summary=f"back to revision {revision}"
        )

    async def confirm(self, *, by: str, cancel: bool = False) -> Outcome:
        """Raises Conflict when nothing waits."""
        async with self._lock:
            if cancel:
                pending = await self._revert(f"{by} cancelled it")
                return Outcome(pending.previous)
            pending = self._revisions.confirm()
            self._audit.record(by, "confirm", f"revision {pending.revision}")
            return Outcome(pending.revision)

    async def diff(self, older: int, newer: int, sources: Sequence[Source]) -> str:
        """Between two revisions (0 = the current one and the one before), or what these documents
        would change now."""
        current = self._publisher.model
        if sources:
            given = await asyncio.to_thread(load, sources, self._known)
            return diff(current, merge(current, given))
        newer = newer or self._revisions.current
        older = older or self._revisions.before(newer)
        return diff(self._revisions.model(older), self._revisions.model(newer))

    # -- the daemon's life -----------------------------------------------------------------------

    async def start(self) -> None:
        """The documents that were current when we ended; what was half done is forgotten."""
        try:
            self._recover()
        except (LimitReached, Unavailable) as error:  # a full disk: `run` tries the revert again
            log.error("%s", error)
        self._publisher.wanted(self._revisions.model(self._revisions.current))

    def _recover(self) -> None:
        for revision in self._revisions.recover():
            self._audit.record("daemon", "abandon", f"revision {revision}: we ended in the middle")
        pending = self._revisions.pending()
        if pending is not None and pending.deadline <= self._clock():
            self._revisions.revert("not confirmed in time")
            self._audit.record("daemon", "revert", _not_confirmed(pending))

    async def run(self) -> None:
        """Reverts what is not confirmed in time. Never returns."""
        while True:
            pending = self._revisions.pending()
            left = pending.deadline - self._clock() if pending else _LOOK_S
            self._wake.clear()
            if left > 0:
                await woken(self._wake, min(left, _LOOK_S))
                continue
            assert pending is not None
            try:
                async with self._lock:
                    if self._revisions.pending() == pending:
                        await self._revert("not confirmed in time")
            except (LimitReached, Unavailable) as error:  # a full disk
                log.error("revision %d does not revert yet: %s", pending.revision, error)
                await asyncio.sleep(_RETRY_S)

    async def close(self) -> None:
        """Waits for a change that is under way."""
        async with self._lock:
            await self._tasks.close()

    # -- how -------------------------------------------------------------------------------------

    async def _change(
        self,
        wanted: Callable[[Model], Model],
        given: Model,
        *,
        by: str,
        dry_run: bool = False,
        approve_first: bool = False,
        confirm_s: int = 0,
        summary: str = "",
    ) -> Outcome:
        """Goes on to its end when the caller goes away."""
        work = self._locked(
            wanted,
            given,
            by=by,
            dry_run=dry_run,
            approve_first=approve_first,
            confirm_s=confirm_s,
            summary=summary,
        )
        return await self._tasks.finish(work, "change")

    async def _locked(
        self,
        wanted: Callable[[Model], Model],
        given: Model,
        *,
        by: str,
        dry_run: bool,
        approve_first: bool,
        confirm_s: int,
        summary: str,
    ) -> Outcome:
        async with self._lock:
            watch = Stopwatch()
            before = self._publisher.model
            after = wanted(before)
            if not dry_run:
                self._revisions.refuse_while_pending()
            judged = await asyncio.to_thread(self._verified, before, after, given)
            watch.lap("verified")
            mine = {doc.key for doc in given.documents}
            files = {doc.file for doc in given.documents}
            told = tuple(note for note in judged.notes if note.file in files)
            what = tuple(
                each
                for each in changes(before, after)
                if each.what != "unchanged" or (each.kind, each.namespace, each.name) in mine
            )
            if dry_run:
                return await self._dry(before, judged.mesh, what, told)
            if all(each.what == "unchanged" for each in what):
                return Outcome(self._revisions.current, what, told)
            if approve_first and (new := self._unsigned(judged.mesh)):
                return Outcome(self._revisions.current, what, told, identities=new)
            now = int(self._clock())
            deadline = now + confirm_s if confirm_s else 0
            summary = summary or _summary(what)
            revision = self._revisions.begin(
                after, before, now=now, by=by, summary=summary, deadline=deadline
            )
            watch.lap("kept")
            await self._go(revision, judged.mesh, before)
            self._wake.set()
            self._audit.record(by, "apply", f"revision {revision}: {summary}")
            watch.lap("published")
            log.info("revision %d: %s", revision, watch)
            return Outcome(revision, what, told, confirm_deadline=deadline, apply_ms=watch.ms)

    def _verified(self, before: Model, after: Model, given: Model) -> _Judged:
        """Raises DocumentErrors for what is wrong with the given ones, and for what this change
        makes wrong with others. What hosts that went have left behind refuses no other change."""
        judged = self._judge(after)
        if bad := refusals(judged.notes):
            known = set(refusals(verify(Mesh.of(before, judged.mesh.registry, self._site))))
            files = {doc.file for doc in given.documents}
            if bad := [note for note in bad if note.file in files or note not in known]:
                raise DocumentErrors(bad)
        return judged

    def _judge(self, model: Model) -> _Judged:
        registry, last = self._view.now, self._judged
        if last is None or last.mesh.registry is not registry or not _same(last.mesh.model, model):
            mesh = Mesh.of(model, registry, self._site)
            last = self._judged = _Judged(mesh, verify(mesh))
        return last

    def _unsigned(self, mesh: Mesh) -> tuple[str, ...]:
        """Identities without a leaf."""
        needs = self._leaves.missing(leaf_needs(mesh))
        return tuple(dict.fromkeys(need.spiffe_id for need in needs))

    async def _go(self, revision: int, after: Mesh, before: Model) -> None:
        try:
            await self._publisher.replace(after)
        except BaseException as error:
            self._revisions.abandon(revision, str(error) or type(error).__name__)
            raise
        try:
            self._revisions.finish(revision)
        except BaseException:
            self._publisher.wanted(before)
            await self._publisher.settle()
            raise

    async def _dry(
        self, before: Model, after: Mesh, what: tuple[Change, ...], notes: tuple[Note, ...]
    ) -> Outcome:
        plan = await self._publisher.plan(after)
        await asyncio.to_thread(compile, plan.mesh, {}, 1)
        return Outcome(
            self._revisions.current,
            what,
            notes,
            diff=await asyncio.to_thread(diff, before, after.model),
            identities=self._unsigned(after),
        )

    async def _revert(self, reason: str) -> Pending:
        pending = self._revisions.revert(reason)
        self._audit.record("daemon", "revert", f"revision {pending.revision}: {reason}")
        log.warning("revision %d reverted to %d: %s", pending.revision, pending.previous, reason)
        sources = self._revisions.sources(pending.previous)
        self._publisher.wanted(await asyncio.to_thread(load, sources))
        await self._publisher.settle()
        return pending


def _same(one: Model, other: Model) -> bool:
    """The very same documents, read from the same places."""
    return len(one.documents) == len(other.documents) and all(
        a is b for a, b in zip(one.documents, other.documents, strict=True)
    )


def _not_confirmed(pending: Pending) -> str:
    return f"revision {pending.revision}: not confirmed in time"


def _summary(what: Sequence[Change]) -> str:
    counts = Counter(each.what for each in what if each.what != "unchanged")
    if sum(counts.values()) == 1:
        (one,) = (each for each in what if each.what != "unchanged")
        return f"{one.kind} {one.namespace}/{one.name} {one.what}"
    return ", ".join(f"{counts[word]} {word}" for word in sorted(counts))
