"""Streams between this daemon and its peers': opens, accepts and keeps them.

Owns connections and who is connected. Of two sites, the one whose trust domain sorts first opens
the stream, and tries again with growing pauses; the other accepts. A new stream with a peer
replaces the one before. What is said over a stream is conversation.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from appliance.api import tls
from appliance.api._gen import peering_pb2 as pb
from appliance.api._gen import peering_pb2_grpc
from appliance.api.auth import Revoked, remote_appliance
from appliance.api.conversation import SILENCE_MAX_S, Book, Conversation, Facts
from appliance.errors import ApplianceError, Denied, InvalidInput, LimitReached
from appliance.rate import Bucket, Rate
from appliance.registry.model import Peer
from appliance.tasks import Tasks
from dataplane.snapshot import Leaf

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 16 << 20
CALLS_MAX = 64
_PAUSE_MIN_S = 0.5
_PAUSE_MAX_S = 10.0  # so long at most is a healed link not noticed
WORDS = Rate(burst=200, per_second=10)  # more than that of one peer are read more slowly
_STEADY_S = 5.0  # a stream that lasted so long has its failures forgiven
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


@dataclass(slots=True)
class _Link:
    """What we know of the way to a peer."""

    conversation: Conversation | None = None
    task: asyncio.Task[Any] | None = None  # the stream's, to replace it
    last_seen: float = 0.0
    detail: str = "not connected yet"
    words: Bucket = field(default_factory=lambda: Bucket(WORDS))  # also of the next stream


class Peering(peering_pb2_grpc.PeeringServicer):
    """The service and the client in one: both sides speak alike."""

    def __init__(
        self,
        trust_domain: str,
        facts: Callable[[], Facts],
        book: Book,
        leaf: Callable[[], Leaf | None],
        revoked: Callable[[], Revoked],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own, self._facts, self._book = trust_domain, facts, book
        self._leaf, self._revoked, self._clock = leaf, revoked, clock
        self._peers: dict[str, Peer] = {}
        self._links: dict[str, _Link] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._tasks = Tasks()
        self._server: grpc.aio.Server | None = None
        self.refused = self.held_back = self.malformed = 0

    # -- the daemon's side -----------------------------------------------------------------------

    async def serve(self, addresses: Iterable[str]) -> None:
        """Listens on these addresses ("host:port"); needs our leaf. Raises Unavailable."""
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
        peering_pb2_grpc.add_PeeringServicer_to_server(self, server)
        credentials = tls.server_credentials(self._leaf, self._roots)
        for address in addresses:
            tls.listen(server, address, credentials)
        await server.start()
        self._server = server

    async def close(self) -> None:
        await self._tasks.close()
        if self._server is not None:
            await self._server.stop(None)

    def set_peers(self, peers: Iterable[Peer]) -> None:
        """Starts with new ones, ends with those that are gone."""
        wanted = {peer.name: peer for peer in peers}
        for name in self._peers.keys() - wanted.keys():
            self._end(name)
        for name, peer in wanted.items():
            old = self._peers.get(name)
            moved = old is not None and _way(old) != _way(peer)
            if moved:
                self._end(name)
            if old is None or moved:
                self._links[name] = _Link(last_seen=peer.last_seen)
            self._peers[name] = peer
            if name not in self._dialers and self._own < peer.trust_domain:
                self._dialers[name] = self._tasks.start(self._dial(name), f"dial {name}")

    def _end(self, name: str) -> None:
        self._peers.pop(name, None)
        link = self._links.pop(name, None)
        dialer = self._dialers.pop(name, None)
        if link is not None and link.task is not None:
            link.task.cancel()
        if dialer is not None:
            dialer.cancel()

    def changed(self) -> None:
        """There may be news for the peers."""
        for link in self._links.values():
            if link.conversation is not None:
                link.conversation.changed()

    def connected(self, name: str) -> bool:
        """The peer talks to us and has said what it exports."""
        link = self._links.get(name)
        return bool(link and link.conversation and link.conversation.settled.is_set())

    def last_seen(self, name: str) -> int:
        link = self._links.get(name)
        return int(link.last_seen) if link else 0

    def detail(self, name: str) -> str:
        link = self._links.get(name)
        return link.detail if link else ""

    # -- streams ---------------------------------------------------------------------------------

    def _roots(self) -> str:
        return "".join(peer.bundle_pem for peer in self._peers.values())

    async def Converse(
        self,
        request_iterator: AsyncIterator[pb.Word],
        context: grpc.aio.ServicerContext[pb.Word, pb.Word],
    ) -> AsyncIterator[pb.Word]:
        bundles = {peer.trust_domain: peer.bundle_pem for peer in self._peers.values()}
        try:
            facts = remote_appliance(context, bundles, self._revoked())
            (peer,) = (
                each
                for each in self._peers.values()
                if each.trust_domain == facts.spiffe_id.trust_domain
            )
            if peer.appliance and not facts.spiffe_id.path.endswith(f"/{peer.appliance}"):
                raise Denied(f"{facts.spiffe_id} is not the appliance that joined")
        except Denied as error:
            self.refused += 1
            log.warning("peering refused: %s", error)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        async with contextlib.aclosing(self._words(peer, request_iterator)) as words:
            async for word in words:
                yield word

    async def _dial(self, name: str) -> None:
        pause = _PAUSE_MIN_S
        while True:
            began = self._clock()
            leaf = self._leaf()
            if leaf is not None:
                await self._call(self._peers[name], leaf)
            lasted = self._clock() - began
            pause = _PAUSE_MIN_S if lasted > _STEADY_S else min(_PAUSE_MAX_S, pause * 2)
            await asyncio.sleep(pause * random.uniform(0.5, 1))

    async def _call(self, peer: Peer, leaf: Leaf) -> None:
        where = tls.host_port(str(peer.peering_address), peer.peering_port)
        credentials = grpc.ssl_channel_credentials(
            peer.bundle_pem.encode(), leaf.key_pem.encode(), leaf.chain_pem.encode()
        )
        name = f"{peer.appliance}.sluice.{peer.trust_domain}"
        options = (*OPTIONS, ("grpc.ssl_target_name_override", name))
        async with grpc.aio.secure_channel(where, credentials, options=options) as channel:
            call = peering_pb2_grpc.PeeringStub(channel).Converse()
            try:
                async with contextlib.aclosing(self._words(peer, aiter(call))) as words:
                    async for word in words:
                        # A call that is cancelled before it has a connection never ends a write.
                        async with asyncio.timeout(SILENCE_MAX_S):
                            await call.write(word)
            except grpc.aio.AioRpcError as error:
                self._lost(peer.name, error.details() or error.code().name)
            except TimeoutError:
                self._lost(peer.name, f"no connection to {where} within {SILENCE_MAX_S:.0f} s")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not ours: gRPC's word for a call that the reader has given up.
            except asyncio.InvalidStateError:  # ended meanwhile; the reader says why
                pass
            finally:
                call.cancel()

    async def _words(
        self, peer: Peer, incoming: AsyncIterator[pb.Word]
    ) -> AsyncGenerator[pb.Word, None]:
        """What to send while incoming lasts; a conversation of either side."""
        link = self._links.get(peer.name)
        if link is None:
            return
        if link.task is not None:
            link.task.cancel()
        conversation = Conversation(peer.name, peer.trust_domain, self._facts, self._book)
        outgoing: asyncio.Queue[pb.Word | None] = asyncio.Queue(1)
        task = self._tasks.start(
            self._both(link, conversation, incoming, outgoing), f"peer {peer.name}"
        )
        link.conversation, link.task = conversation, task
        try:
            while (word := await outgoing.get()) is not None:
                yield word
        finally:
            task.cancel()
            if link.conversation is conversation:
                link.conversation = link.task = None

    async def _both(
        self,
        link: _Link,
        conversation: Conversation,
        incoming: AsyncIterator[pb.Word],
        outgoing: asyncio.Queue[pb.Word | None],
    ) -> None:
        async def seen() -> AsyncIterator[pb.Word]:
            async for word in incoming:
                link.last_seen, link.detail = self._clock(), ""
                if not link.words.take():
                    self.held_back += 1
                    await asyncio.sleep(link.words.wait_s())
                    link.words.charge(1)
                yield word

        async def speak() -> None:
            async for word in conversation.speak():
                await outgoing.put(word)

        speaking = self._tasks.start(speak(), f"tell {conversation.peer}")
        try:
            await conversation.listen(seen())
            self._lost(conversation.peer, "the peer ended the stream")
        except grpc.aio.AioRpcError as error:
            self._lost(conversation.peer, error.details() or error.code().name)
        except ApplianceError as error:
            self.malformed += isinstance(error, InvalidInput | LimitReached)
            self._lost(conversation.peer, str(error))
        finally:
            speaking.cancel()
            with contextlib.suppress(asyncio.QueueEmpty):
                outgoing.get_nowait()
            outgoing.put_nowait(None)

    def _lost(self, name: str, why: str) -> None:
        why = " ".join(why.split())[:200]
        link = self._links.get(name)
        if link is not None and link.detail != why:
            link.detail = why
            log.warning("peer %s: %s", name, why)


def _way(peer: Peer) -> tuple[object, ...]:
    """What a stream is made with."""
    return (
        peer.trust_domain,
        peer.appliance,
        peer.peering_address,
        peer.peering_port,
    )
