"""The enrolment listener: HTTPS where hosts join and renew, and where peers join.

Owns the routes, who asked, rates and statuses. Decides nothing (admit.py), keeps nothing (the
store), signs nothing (the CA). GET /ca.pem and /agent are public; all else proves a code, a
current leaf, or the enrolled key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import IPv6Address, ip_address
from typing import Any, Self

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.ca.issue import TTL_MAX_S, Signed, check_csr, key_hash
from appliance.enroll import admit, code
from appliance.enroll.admit import EnrolStore, HostRecord
from appliance.enroll.credentials import Signer
from appliance.enroll.listener import Listener
from appliance.enroll.messages import (
    BODY_BYTES_MAX,
    STATUS,
    Empty,
    JoinRequest,
    Offer,
    PeerReply,
    PeerRequest,
    RenewRequest,
    read,
    unbase64,
)
from appliance.enroll.nonce import Nonces
from appliance.errors import ApplianceError, Denied, InvalidInput, LimitReached
from appliance.rate import Bucket, Buckets, Rate
from appliance.site import Site
from appliance.tasks import Tasks
from dataplane.snapshot import Address, Leaf

log = logging.getLogger(__name__)

RATE_EACH = Rate(burst=60, per_second=1)
RATE_TOTAL = Rate(burst=1_000, per_second=100)
RATE_AUDITED = Rate(burst=100, per_second=0.1)  # strangers cannot wash out what admins did
PUBLISHED_S = 5.0
REFUSAL_COSTS = 5.0  # of a source's own burst
PROOF_PREFIX = b"sluice renew\0"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EnrolServer:
    """Async context manager; raises OSError when it cannot listen. `set_leaf` before it starts,
    and at each renewal of the leaf. published: waits until the data plane has what is stored."""

    def __init__(
        self,
        site: Site,
        store: EnrolStore,
        ca: Signer,
        bundle_pem: str,
        agent: bytes,
        published: Callable[[], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.time,
        addresses: tuple[str, ...] | None = None,
        port: int | None = None,
    ) -> None:
        spec = site.spec
        self._site, self._store, self._ca, self._clock = site, store, ca, clock
        self._bundle_pem, self._agent, self._published = bundle_pem, agent, published
        self._addresses = addresses or tuple(
            str(a) for a in (*spec.hosts.addresses, *spec.mesh.addresses)
        )
        self._port = spec.ports.enrol if port is None else port
        self._rates = Buckets(RATE_EACH, RATE_TOTAL)
        self._refusals = Bucket(RATE_AUDITED)
        self._nonces = Nonces()
        self._tasks = Tasks()
        self._listener: Listener | None = None
        self._context: ssl.SSLContext | None = None
        self.counters: Counter[str] = Counter()

    def set_leaf(self, leaf: Leaf) -> None:
        """The appliance's own leaf, for connections from now on."""
        self._context = server_context(leaf, self._bundle_pem)
        if self._listener is not None:
            self._listener.context = self._context

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(port for _, port in self._listener.addresses) if self._listener else ()

    @property
    def connections_refused(self) -> int:
        return self._listener.refused if self._listener else 0

    async def __aenter__(self) -> Self:
        assert self._context is not None, "set_leaf comes first"
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/ca.pem", self._get_ca),
                web.get("/agent", self._get_agent),
                web.post("/v1/join", self._join),
                web.post("/v1/nonce", self._nonce),
                web.post("/v1/renew", self._renew),
                web.post("/v1/config", self._config),
                web.post("/v1/peer", self._peer),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=5)
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(self._runner.server, self._context)
        try:
            self._listener.start(self._addresses, self._port)
        except OSError:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._runner.cleanup()
        await self._tasks.close()

    # -- around every request --------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        source = request.remote or "?"
        known = request.match_info.http_exception is None
        what = request.path.rpartition("/")[2].partition(".")[0] if known else "other"
        try:
            if not self._rates.take(source):
                raise LimitReached("too many requests: wait a minute, then try again")
            answer = await handler(request)
            self.counters[f"answered_{what}"] += 1
            return answer
        except web.HTTPException as error:
            return _error(error.status, error.reason)
        except ApplianceError as error:
            self.counters[f"refused_{what}"] += 1
            self._rates.charge(source, REFUSAL_COSTS)
            log.warning("refused %s from %s: %s", what, source, error)
            if isinstance(error, LimitReached):
                pass
            elif not self._refusals.take():
                self.counters["refusals_not_audited"] += 1
            else:
                await self._store.audit(source, f"refused {what}", str(error))
            return _error(STATUS.get(error.code, 500), str(error))
        except Exception:
            self.counters[f"failed_{what}"] += 1
            log.exception("%s from %s failed", what, source)
            return _error(500, "the appliance failed to answer: see its log")

    async def _read(self, request: web.Request) -> bytes:
        if request.content_type != "application/json":
            raise InvalidInput("send a JSON object as application/json")
        return await request.read()

    def _now(self) -> int:
        return int(self._clock())

    # -- public ----------------------------------------------------------------------------------

    async def _get_ca(self, request: web.Request) -> web.Response:
        return web.Response(text=self._bundle_pem, content_type="application/x-pem-file")

    async def _get_agent(self, request: web.Request) -> web.Response:
        return web.Response(body=self._agent, content_type="application/octet-stream")

    # -- hosts -----------------------------------------------------------------------------------

    async def _join(self, request: web.Request) -> web.Response:
        asked = read(JoinRequest, await self._read(request))
        csr = unbase64(asked.csr, "csr")
        key = key_hash(csr)
        wanted = code.secret_hash(code.HOST, bytes.fromhex(asked.secret))
        record = admit.check_code(
            await self._store.code(wanted), wanted, code.HOST, key, self._now()
        )
        host = admit.check_host(await self._store.host(record.subject))
        name, address = host.host.name, _address(request.remote)
        check_csr(csr, host.spiffe_id)  # before the code is gone, and anything signed
        await self._store.check_joins(name, address)
        if not await self._store.consume(wanted, key):
            raise Denied("the code was used already: ask for a new one, and find out by whom")
        signed = await self._ca.sign(csr, host.spiffe_id, None, TTL_MAX_S)
        await self._store.joined(name, key, signed.serial, signed.not_after, address)
        await self._store.audit(
            request.remote or "?", "join", f"host {name} {host.spiffe_id} serial {signed.serial}"
        )
        await self._in_force()
        return self._leaf_answer(await self._again(name), signed)

    async def _in_force(self) -> None:
        """What a host does first is to connect: the data plane should know it by then."""
        try:
            publishing = self._tasks.finish(self._published(), "publish who joined")
            async with asyncio.timeout(PUBLISHED_S):
                await publishing
        except TimeoutError:
            self.counters["answered_unpublished"] += 1

    async def _nonce(self, request: web.Request) -> web.Response:
        read(Empty, await self._read(request))
        return web.json_response({"nonce": self._nonces.make()})

    async def _renew(self, request: web.Request) -> web.Response:
        asked = read(RenewRequest, await self._read(request))
        csr = unbase64(asked.csr, "csr")
        certificate = _client_certificate(request)
        if certificate is not None:
            host = await self._host_of(certificate)
            if key_hash(csr) != host.key_hash:
                raise Denied("the CSR holds another key than the certificate")
            how = "renew"
        else:
            host = await self._late(asked, csr)
            how = "renew late"
        name = host.host.name
        check_csr(csr, host.spiffe_id)
        await self._store.check_joins(name, None)
        signed = await self._ca.sign(csr, host.spiffe_id, None, TTL_MAX_S)
        await self._store.renewed(name, signed.serial, signed.not_after)
        await self._store.audit(
            request.remote or "?", how, f"host {name} {host.spiffe_id} serial {signed.serial}"
        )
        return self._leaf_answer(await self._again(name), signed)

    async def _late(self, asked: RenewRequest, csr: bytes) -> HostRecord:
        if asked.nonce is None or asked.signature is None:
            raise Denied("show the current certificate, or prove the enrolled key")
        self._nonces.use(asked.nonce)
        check_proof(csr, asked.nonce, unbase64(asked.signature, "signature"))
        key = key_hash(csr)
        record = await self._store.host_by_key(key)
        return admit.check_late(record, key, self._now(), self._site.spec.enrol.late_seconds)

    async def _config(self, request: web.Request) -> web.Response:
        read(Empty, await self._read(request))
        certificate = _client_certificate(request)
        if certificate is None:
            raise Denied("show the current certificate")
        host = await self._host_of(certificate)
        config = admit.agent_config(self._site, self._bundle_pem, host)
        return web.json_response({"config": config.model_dump(mode="json")})

    async def _host_of(self, certificate: x509.Certificate) -> HostRecord:
        """The host that a verified certificate is of. The key tells, for hosts share identities."""
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key = hashlib.sha256(spki).hexdigest()
        denied = await self._store.serial_denied(f"{certificate.serial_number:x}")
        return admit.check_renewal(await self._store.host_by_key(key), key, denied)

    async def _again(self, name: str) -> HostRecord:
        return admit.check_host(await self._store.host(name))

    def _leaf_answer(self, host: HostRecord, signed: Signed) -> web.Response:
        config = admit.agent_config(self._site, self._bundle_pem, host)
        return web.json_response(
            {
                "chain_pem": signed.chain_pem,
                "not_after": signed.not_after,
                "now": self._now(),
                "config": config.model_dump(mode="json"),
            }
        )

    # -- peers -----------------------------------------------------------------------------------

    async def _peer(self, request: web.Request) -> web.Response:
        asked = read(PeerRequest, await self._read(request))
        secret = bytes.fromhex(asked.secret)
        wanted = code.secret_hash(code.PEER, secret)
        offer_hash = hashlib.sha256(asked.offer.encode()).hexdigest()
        record = admit.check_code(
            await self._store.code(wanted), wanted, code.PEER, offer_hash, self._now()
        )
        mac = code.transcript_mac(secret, "join", asked.offer.encode())
        if not hmac.compare_digest(mac.encode(), asked.mac.encode()):
            raise Denied("what the peer offers was changed on its way: ask for a new code")
        name = record.subject
        peers = await self._store.peer_trust_domains()
        offer = admit.check_offer(read(Offer, asked.offer), self._site, peers, name)
        if not await self._store.consume(wanted, offer_hash):
            raise Denied("the code was used already: ask for a new one, and find out by whom")
        await self._store.peer_joined(name, offer)
        await self._store.audit(
            request.remote or "?", "peer join", f"peer {name} {offer.trust_domain}"
        )
        own = admit.own_offer(self._site, self._bundle_pem).model_dump_json()
        mac = code.transcript_mac(secret, "admit", asked.offer.encode(), own.encode())
        reply = PeerReply(offer=own, mac=mac)
        return web.json_response(reply.model_dump(mode="json"))


def check_proof(csr_der: bytes, nonce: str, signature: bytes) -> None:
    """The nonce, signed (ECDSA, SHA-256) by the CSR's key. Raises Denied."""
    key = x509.load_der_x509_csr(csr_der).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Denied("a late renewal needs an EC key: join again with a new code")
    said = PROOF_PREFIX + bytes.fromhex(nonce) + hashlib.sha256(csr_der).digest()
    try:
        key.verify(signature, said, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise Denied("the proof of the enrolled key is not good") from None


def server_context(leaf: Leaf, bundle_pem: str) -> ssl.SSLContext:
    """TLS 1.3; clients may show a leaf of this site's CA. No tickets: each connection proves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=bundle_pem)
    context.set_alpn_protocols(["http/1.1"])
    # The ssl module reads keys from files only: one that is in no directory.
    fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        os.write(fd, (leaf.chain_pem + leaf.key_pem).encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def _client_certificate(request: web.Request) -> x509.Certificate | None:
    transport = request.transport
    tls: Any = transport.get_extra_info("ssl_object") if transport else None
    der = tls.getpeercert(binary_form=True) if tls else None
    return x509.load_der_x509_certificate(der) if der else None


def _address(remote: str | None) -> Address | None:
    try:
        address = ip_address(remote or "")
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.is_link_local:
            return None
        return address.ipv4_mapped or address
    return address


def _error(status: int, text: str) -> web.Response:
    return web.Response(
        status=status, text=json.dumps({"error": text}), content_type="application/json"
    )
