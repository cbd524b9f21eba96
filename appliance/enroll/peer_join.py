"""Becoming a peer, from the joiner's side: exchanges what each site tells of itself.

The inviter is known by the code's pin before anything is said; it knows the joiner by the code's
secret. Both prove by that secret that nobody changed either offer. Keeps nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import json

from appliance.ca.issue import pin_of
from appliance.enroll import admit, code, pinned
from appliance.enroll.admit import PeerOffer
from appliance.enroll.messages import STATUS, Offer, PeerReply, PeerRequest, read
from appliance.errors import BY_CODE, ApplianceError, Denied, InvalidInput, Unavailable
from appliance.site import Site

_KINDS = {status: BY_CODE[name] for name, status in STATUS.items()}


async def join_peer(
    site: Site, bundle_pem: str, peers: dict[str, str], name: str, address: str, text: str
) -> PeerOffer:
    """Asks the inviter at `address` (HOST or HOST:PORT) with the code it gave.

    site, bundle_pem: our own; peers: names by trust domain that we have already. Raises
    InvalidInput, Conflict, Denied, Unavailable.
    """
    try:
        given = code.parse(text)
        host, port = pinned.split_address(address, site.spec.ports.enrol)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    if given.purpose != code.PEER:
        raise InvalidInput("this code is for a host: ask the peer's admin for one for a peer")
    own = admit.own_offer(site, bundle_pem).model_dump_json()
    reply = await asyncio.to_thread(_ask, host, port, given, own)
    mac = code.transcript_mac(given.secret, "admit", own.encode(), reply.offer.encode())
    if not hmac.compare_digest(mac.encode(), reply.mac.encode()):
        raise Denied("what the peer offers was changed on its way: ask for a new code")
    offer = admit.check_offer(read(Offer, reply.offer), site, peers, name)
    bundle = admit.check_bundle(offer.bundle_pem, offer.trust_domain)
    if given.pin not in [pin_of(certificate) for certificate in bundle]:
        raise Denied("the peer offers a trust bundle without the CA that its code names")
    return offer


def _ask(host: str, port: int, given: code.Code, own: str) -> PeerReply:
    mac = code.transcript_mac(given.secret, "join", own.encode())
    request = PeerRequest(secret=given.secret.hex(), offer=own, mac=mac)
    try:
        theirs = pinned.fetch_site(host, port, given.pin)
        answer = pinned.post(theirs, "/v1/peer", request.model_dump(mode="json"))
    except pinned.Unreachable as error:
        raise Unavailable(str(error)) from error
    except pinned.Refused as error:
        raise _KINDS.get(error.status, ApplianceError)(f"the peer refused: {error}") from error
    return read(PeerReply, json.dumps(answer))
