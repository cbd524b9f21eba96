"""wire: decode ∘ encode = id for every snapshot; foreign bytes raise WireError and nothing else."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane import snapshot as s
from dataplane import wire
from dataplane._gen import dataplane_pb2 as pb

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
port = st.integers(0, 65535)
address = st.ip_addresses(v=4) | st.ip_addresses(v=6)


def network(a: s.Address, prefix: int) -> s.Network:
    kind = s.IPv4Network if a.version == 4 else s.IPv6Network
    return kind((a.packed, prefix % (a.max_prefixlen + 1)), strict=False)


networks = st.builds(network, address, st.integers(0, 128))


def tuples(each: st.SearchStrategy) -> st.SearchStrategy:  # type: ignore[type-arg]
    return st.lists(each, max_size=3).map(tuple)


matches = st.builds(
    s.Match,
    st.sampled_from(s.Part),
    u32,
    st.sampled_from(s.Field),
    st.sampled_from(s.MatchOp),
    st.booleans(),
    text,
    st.none() | networks,
    port,
    u32,
)
sets = st.builds(
    s.EndpointSet,
    u32,
    text,
    tuples(
        st.builds(
            s.Endpoint,
            text,
            st.sampled_from(s.EndpointKind),
            address,
            port,
            u32,
            u32,
            st.booleans(),
            port,
            text,
            tuples(text),
        )
    ),
    st.sampled_from(s.Balance),
    u32,
    u32,
    u32,
    u32,
    u32,
)
snapshots = st.builds(
    s.Snapshot,
    version=u64,
    trust_domain=text,
    zones=tuples(text),
    own_addresses=tuples(address),
    appliance_leaf=st.none() | text,
    bundles=tuples(st.builds(s.Bundle, text, text)),
    leaves=tuples(st.builds(s.Leaf, text, text, text, text)),
    hosts=tuples(
        st.builds(
            s.Host,
            text,
            st.sampled_from(s.Grade),
            st.none() | text,
            st.none() | address,
            st.none() | text,
        )
    ),
    services=tuples(
        st.builds(
            s.Service,
            text,
            text,
            port,
            tuples(address),
            st.none() | u32,
            st.none() | text,
            st.sampled_from(s.MtlsMode),
            st.sampled_from(s.Grade),
            st.sampled_from(s.SourceAddress),
            tuples(text),
            u32,
            u32,
            u32,
            u32,
        )
    ),
    inbound=tuples(st.builds(s.Inbound, text, text, port, u32)),
    sets=tuples(sets),
    policies=tuples(st.builds(s.Policy, text, st.sampled_from(s.Action), tuples(tuples(matches)))),
    names=tuples(st.builds(s.Name, text, tuples(address))),
    denied=tuples(st.builds(s.Denied, text, st.none() | text, st.none() | text)),
    offload=st.none()
    | st.builds(
        s.Offload,
        st.sampled_from(s.Prefer),
        st.sampled_from(s.Tls12),
        st.integers(0, 7).map(s.Ciphers),
        u64,
    ),
)


@settings(max_examples=200, deadline=None)
@given(snapshots)
def test_a_snapshot_comes_back_as_it_was(snapshot: s.Snapshot) -> None:
    assert wire.decode_snapshot(wire.encode_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize(
    "fields", [{"prefer": 5}, {"tls12": 3}, {"ciphers": 8}, {"ciphers": 2**32 - 1}]
)
def test_an_offload_profile_with_foreign_numbers_is_refused(fields: dict[str, int]) -> None:
    message = pb.Snapshot(format=wire.FORMAT, offload=pb.Offload(**fields))
    with pytest.raises(wire.WireError):
        wire.decode_snapshot(message.SerializeToString())


@settings(max_examples=100, deadline=None)
@given(u64, u64, sets)
def test_a_set_update_comes_back(version: int, sequence: int, each: s.EndpointSet) -> None:
    update = wire.SetUpdate(version, sequence, each)
    assert wire.decode_set_update(wire.encode_set_update(update)) == update


@settings(max_examples=100, deadline=None)
@given(st.lists(st.ip_addresses(), min_size=1, max_size=wire.LOST_MAX), u64)
def test_lost_links_come_back(addresses: list[s.Address], seen_ns: int) -> None:
    lost = wire.LostLinks(tuple(addresses), seen_ns)
    assert wire.decode_lost_links(wire.encode_lost_links(lost)) == lost


@pytest.mark.parametrize("addresses", [[], [bytes(4)] * (wire.LOST_MAX + 1), [bytes(5)]])
def test_lost_links_that_do_not_fit_are_refused(addresses: list[bytes]) -> None:
    message = pb.LostLinks(format=wire.FORMAT, addresses=addresses)
    with pytest.raises(wire.WireError, match="address"):
        wire.decode_lost_links(message.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_only(body: bytes) -> None:
    for decode in (wire.decode_snapshot, wire.decode_set_update, wire.decode_lost_links):
        try:
            decode(body)
        except wire.WireError:
            continue


@settings(max_examples=200, deadline=None)
@given(snapshots, st.data())
def test_damage_raises_wire_error_only(snapshot: s.Snapshot, data: st.DataObject) -> None:
    body = bytearray(wire.encode_snapshot(snapshot))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire.decode_snapshot(bytes(body))
    except wire.WireError:
        return


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (s.Snapshot, pb.Snapshot),
        (s.Leaf, pb.Leaf),
        (s.Bundle, pb.Bundle),
        (s.Host, pb.Host),
        (s.Service, pb.Service),
        (s.Inbound, pb.Inbound),
        (s.EndpointSet, pb.EndpointSet),
        (s.Endpoint, pb.Endpoint),
        (s.Policy, pb.Policy),
        (s.Match, pb.Match),
        (s.Name, pb.Name),
        (s.Denied, pb.Denied),
    ],
)
def test_each_shape_has_a_message_with_the_same_fields(shape: type, message: type) -> None:
    of_shape = {field.name for field in fields(shape)}
    assert of_shape == set(message.DESCRIPTOR.fields_by_name) - {"format", "prefix_len"}
