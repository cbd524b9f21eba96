"""Two sites become peers: bundles are exchanged, and nobody in between can change them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.enroll import admit, code, pinned
from appliance.enroll.messages import Offer, PeerReply
from appliance.enroll.peer_join import join_peer
from appliance.errors import Conflict, Denied, InvalidInput, Unavailable
from tests.unit.appliance.enroll.fakes import Site1, running_site, site_of


@pytest.fixture
async def sites(tmp_path: Path):
    async with running_site(tmp_path / "a") as a, running_site(tmp_path / "b", "b.example") as b:
        yield a, b


async def join(a: Site1, b: Site1, text: str, address: str | None = None) -> admit.PeerOffer:
    """b joins a."""
    peers = await b.store.peer_trust_domains()
    return await join_peer(b.site, b.bundle_pem, peers, "a", address or a.address, text)


async def test_each_learns_the_others_bundle(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    offer = await join(a, b, a.new_code(code.PEER, "b"))
    assert offer.bundle_pem == a.bundle_pem
    assert offer.trust_domain == "a.example"
    assert a.store.peers["b"].bundle_pem == b.bundle_pem
    assert a.store.peers["b"].peering_port == 15010
    assert a.store.audited[-1][1] == "peer join"


async def test_wrong_used_expired_and_host_codes(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    text = a.new_code(code.PEER, "b")
    with pytest.raises(Denied, match="not good"):
        await join(a, b, str(code.make(code.PEER, a.pin)))
    with pytest.raises(InvalidInput, match="for a host"):
        await join(a, b, a.add_host())
    with pytest.raises(InvalidInput, match="of 48"):
        await join(a, b, text[:-1])
    await join(a, b, text)
    await join(a, b, text)  # the answer may have been lost
    other = replace_mesh(b)
    with pytest.raises(Denied, match="used already"):
        await join_peer(other, b.bundle_pem, {}, "a", a.address, text)
    a.clock.ahead = code.TTL_S
    with pytest.raises(Denied, match="expired"):
        await join(a, b, text)


def replace_mesh(b: Site1) -> Any:
    return site_of("b.example", mesh="198.18.255.9")


async def test_a_code_of_another_site_finds_the_man_in_the_middle(
    sites: tuple[Site1, Site1],
) -> None:
    a, b = sites
    with pytest.raises(Unavailable, match="in between"):
        await join(a, b, a.new_code(code.PEER, "b"), address=b.address)


async def test_a_changed_offer_is_refused_by_the_inviter(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    given = code.parse(a.new_code(code.PEER, "b"))
    own = admit.own_offer(b.site, b.bundle_pem).model_dump_json()
    mac = code.transcript_mac(given.secret, "join", own.encode())
    swapped = own.replace("198.18.255.1", "198.18.255.2")
    with pytest.raises(pinned.Refused, match="changed on its way"):
        await a.post("/v1/peer", {"secret": given.secret.hex(), "offer": swapped, "mac": mac})
    assert a.store.peers == {}
    assert a.store.codes[given.hash()].used_by is None


async def test_a_changed_answer_is_refused_by_the_joiner(
    sites: tuple[Site1, Site1], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = sites
    honest = pinned.post

    def swap(*args: Any, **more: Any) -> dict[str, Any]:
        answer = honest(*args, **more)
        return {**answer, "offer": answer["offer"].replace("198.18.255.1", "198.18.255.2")}

    monkeypatch.setattr(pinned, "post", swap)
    with pytest.raises(Denied, match="changed on its way"):
        await join(a, b, a.new_code(code.PEER, "b"))


async def test_a_bundle_without_the_pinned_ca_is_refused(
    sites: tuple[Site1, Site1], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even from somebody who knows the code."""
    a, b = sites
    async with running_site(tmp_path / "a2") as twin:
        other = twin.bundle_pem
    text = a.new_code(code.PEER, "b")
    secret = code.parse(text).secret

    def lie(site: pinned.Site, path: str, body: dict[str, Any]) -> dict[str, Any]:
        offer = admit.own_offer(a.site, other).model_dump_json()
        mac = code.transcript_mac(secret, "admit", body["offer"].encode(), offer.encode())
        return PeerReply(offer=offer, mac=mac).model_dump(mode="json")

    monkeypatch.setattr(pinned, "post", lie)
    with pytest.raises(Denied, match="without the CA"):
        await join(a, b, text)


async def test_nobody_listening(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    with pytest.raises(Unavailable, match="does not answer"):
        await join(a, b, a.new_code(code.PEER, "b"), address="127.0.0.1:1")
    with pytest.raises(InvalidInput, match="no address"):
        await join(a, b, a.new_code(code.PEER, "b"), address="127.0.0.1:99999")


async def test_offers_that_cannot_be(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    good = admit.own_offer(b.site, b.bundle_pem)
    assert admit.check_offer(good, a.site, {}, "b").trust_domain == "b.example"

    def check(offer: Offer, peers: dict[str, str] | None = None) -> None:
        admit.check_offer(offer, a.site, peers or {}, "b")

    for change in (
        {"trust_domain": "c.example"},
        {"appliance_id": "spiffe://b.example/ns/default/sa/web"},
        {"appliance_id": "https://b.example"},
        {"bundle_pem": ""},
        {"bundle_pem": a.bundle_pem},
        {"bundle_pem": b.bundle_pem + a.bundle_pem},
        {"bundle_pem": b.bundle_pem * 9},
        {"mesh_addresses": ["localhost"]},
        {"mesh_addresses": ["127.0.0.1"]},
        {"peering_address": "0.0.0.0"},
        {"peering_address": "::ffff:198.18.0.1"},
        {"mesh_addresses": ["fe80::1%eth0"]},
    ):
        with pytest.raises(InvalidInput):
            check(good.model_copy(update=change))
    with pytest.raises(Conflict, match="peer already"):
        check(good, {"b.example": "other"})
    check(good, {"b.example": "b"})  # joins again
    with pytest.raises(Conflict, match="must differ"):
        check(admit.own_offer(a.site, a.bundle_pem))


async def test_two_joiners_race_for_one_code(sites: tuple[Site1, Site1]) -> None:
    a, b = sites
    text = a.new_code(code.PEER, "b")
    offers = (b.site, replace_mesh(b))
    results = await asyncio.gather(
        *(join_peer(site, b.bundle_pem, {}, "a", a.address, text) for site in offers),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Denied) for r in results) == 1


def test_records_show_no_secret() -> None:
    made, record = admit.new_code(code.PEER, "b", bytes(16), 100)
    assert record.expires == 100 + code.TTL_S
    assert made.secret.hex() not in repr(record)
    assert record.hash != hashlib.sha256(made.secret).hexdigest()
    assert replace(record, used_by="x").used_by == "x"
