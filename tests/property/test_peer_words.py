"""Laws of what peers say: whatever of it is taken, the data plane takes the whole snapshot."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import compile as compiler
from appliance.api._gen import peering_pb2 as pb
from appliance.api.conversation import denied_of, listener_of, services_of
from appliance.compile import Mesh
from appliance.config.model import Model
from appliance.errors import InvalidInput, LimitReached
from appliance.identity import is_trust_domain
from appliance.registry.model import Peer, Registry
from dataplane import wire
from dataplane.binding import Certificates, build
from dataplane.snapshot import Bundle
from tests.unit.appliance.sites import REGISTRY, SITE, allocated

DOMAINS = st.sampled_from(
    ["b.example", "b..example", "b-.example", "-b.example", "b.-x", "b_", "1.2", "t" * 63]
)
ADDRESSES = st.sampled_from(
    ["198.18.255.2", "::ffff:198.18.255.2", "fd53::2", "FD53:0::2", "fe80::1%eth0", "fe80::1",
     "::ffff:127.0.0.1", "0.0.0.0", "::", "198.18.255.1", "198.19.0.1", "x"]
)  # fmt: skip
LABELS = st.sampled_from(["web", "db", "1", "a-", "a" * 63, "a" * 64, "A", "a.b", ""])
PORTS = st.builds(
    pb.Port, number=st.sampled_from([0, 1, 80, 65535, 65536]), protocol=st.text(max_size=3),
    name=st.text(max_size=3),
)  # fmt: skip
SERIALS = st.text("0123456789abc", min_size=1, max_size=41)


def identities(domain: str) -> st.SearchStrategy[str]:
    paths = ["", "/", "/ns/a/sa/b", "/ns/a/sa/b", "/ns/a", "/ns/./sa/b", "/ns/a/sa/" + "b" * 250]
    domains = st.sampled_from([domain, "a.example"])
    return st.builds("spiffe://{}{}".format, domains, st.sampled_from(paths))


def said(domain: str) -> st.SearchStrategy[tuple[pb.Hello, pb.Exports, pb.Revocations]]:
    services = st.builds(
        pb.Service, name=LABELS, namespace=LABELS, ports=st.lists(PORTS, max_size=2),
        identities=st.lists(identities(domain), max_size=2), subsets=st.lists(LABELS, max_size=1),
        healthy=st.booleans(),
    )  # fmt: skip
    denied = st.one_of(
        st.builds(pb.Denied, serial=SERIALS), st.builds(pb.Denied, spiffe_id=identities(domain))
    )
    return st.tuples(
        st.builds(
            pb.Hello,
            mesh_addresses=st.lists(ADDRESSES, min_size=1, max_size=3),
            mesh_port=st.sampled_from([0, 1, 15008]),
        ),
        # One at a time is taken or not: together, one bad would hide all others.
        st.builds(pb.Exports, services=st.lists(services, max_size=1)),
        st.builds(pb.Revocations, denied=st.lists(denied, max_size=3)),
    )


def taken(parse: Any, *words: Any, otherwise: Any) -> Any:
    try:
        return parse(*words)
    except (InvalidInput, LimitReached):
        return otherwise


@given(DOMAINS.flatmap(lambda domain: st.tuples(st.just(domain), said(domain))))
@settings(max_examples=400, deadline=None)
def test_no_words_of_a_peer_block_a_publish(
    words: tuple[str, tuple[pb.Hello, pb.Exports, pb.Revocations]],
) -> None:
    domain, (hello, exports, revocations) = words
    if not is_trust_domain(domain):
        return
    far = ip_address("198.18.255.2")
    addresses, port = taken(listener_of, hello, otherwise=((far,), 15008))
    services = taken(services_of, exports, otherwise=())
    denied = taken(denied_of, revocations, domain, otherwise=())
    peer = Peer("b", domain, "NO BUNDLE", addresses, port, far, 15010, imports=services)
    registry = replace(
        REGISTRY,
        peers=(peer,),
        bundle_pem="",
        denied_serials=tuple((domain, serial) for serial, _ in denied if serial),
        denied_ids=tuple(spiffe_id for _, spiffe_id in denied if spiffe_id),
    )
    model = Model(())
    snapshot = compiler.compile(Mesh.of(model, allocated(model, registry), SITE), {}, 1)
    sent = wire.decode_snapshot(wire.encode_snapshot(snapshot))
    native = build(sent, Certificates())
    assert len(native.left_out) == 1  # a bundle that is none leaves the peer without
    assert snapshot.bundles == (Bundle(domain, "NO BUNDLE"),)


@given(st.lists(ADDRESSES.filter(lambda text: text != "x"), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_address_that_was_kept_blocks_a_publish(texts: list[str]) -> None:
    """From before they were held to one spelling: a host's, its endpoint's, a peer's."""
    addresses = tuple(map(ip_address, texts))
    hosts = tuple(replace(host, addresses=addresses) for host in REGISTRY.hosts)
    endpoints = tuple(
        replace(REGISTRY.endpoints[0], host=f"h{number}", address=address)
        for number, address in enumerate(addresses)
    )
    peers = tuple(replace(peer, mesh_addresses=addresses) for peer in REGISTRY.peers)
    kept: Registry = replace(REGISTRY, hosts=hosts, endpoints=endpoints, peers=peers, bundle_pem="")
    model = Model(())
    snapshot = compiler.compile(Mesh.of(model, allocated(model, kept), SITE), {}, 1)
    build(wire.decode_snapshot(wire.encode_snapshot(snapshot)), Certificates())
