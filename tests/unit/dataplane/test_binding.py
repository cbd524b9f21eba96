"""binding: what cannot be made native is refused and named; what did not change is not parsed."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from dataplane import binding
from dataplane import snapshot as s
from tests.unit.dataplane.material import authority, endpoint_set, small

LEAF = authority().leaf("ns/default/sa/db")
GOOD = small(1, (LEAF,))
NUMBERS = (s.Field.IP, s.Field.REMOTE_IP, s.Field.PORT, s.Field.GRADE)


def test_a_good_snapshot_is_built() -> None:
    native = binding.build(GOOD, binding.Certificates())
    assert list(native.leaves) == [LEAF]


@pytest.mark.parametrize("prefer", s.Prefer)
@pytest.mark.parametrize("tls12", s.Tls12)
def test_every_offload_profile_is_built(prefer: s.Prefer, tls12: s.Tls12) -> None:
    offload = s.Offload(prefer, tls12, s.Ciphers.AES_128_GCM | s.Ciphers.CHACHA20, (1 << 64) - 1)
    binding.build(replace(GOOD, offload=offload), binding.Certificates())


def test_every_kind_of_match_is_built() -> None:
    matches = tuple(
        s.Match(s.Part.FROM, 0, field, op, negated, text="x", port=80, number=2,
                network=ip_network(network))
        for field in s.Field
        for op in s.MatchOp
        for negated in (False, True)
        for network in ("198.18.0.0/24", "fd53::/64", "0.0.0.0/0")
        if op == s.MatchOp.EXACT or field not in NUMBERS
    )  # fmt: skip
    policy = replace(GOOD.policies[0], rules=(matches, ()))
    binding.build(replace(GOOD, policies=(policy,)), binding.Certificates())


def service(**fields: object) -> s.Snapshot:
    return replace(GOOD, services=(replace(GOOD.services[0], **fields),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("snapshot", "says"),
    [
        (service(leaf="none"), "service db.default:5432: no leaf none"),
        (service(policies=("none",)), "service db.default:5432: no policy none"),
        (service(name="db\0default"), "NUL"),
        (service(outbound_set=9), ""),
        (service(vips=(IPv4Address("198.19.0.1"),) * 2), "198.19.0.1"),
        (replace(GOOD, services=GOOD.services * 2), "service db.default:5432"),
        (replace(GOOD, services=()), "no service db.default"),
        (replace(GOOD, appliance_leaf="none"), "no leaf none"),
        (replace(GOOD, leaves=(*GOOD.leaves, replace(LEAF, chain_pem=LEAF.chain_pem + "\n"))),
         "twice"),
        (replace(GOOD, leaves=(replace(LEAF, key_pem=authority().leaf("x").key_pem),)),
         LEAF.key),
        (replace(GOOD, leaves=(replace(LEAF, spiffe_id="spiffe://a.example/x"),)), LEAF.key),
        (replace(GOOD, leaves=(replace(LEAF, chain_pem="nonsense"),)), LEAF.key),
        (replace(GOOD, bundles=(s.Bundle("a.example", "nonsense"),)), "a.example"),
        (replace(GOOD, sets=(), ), ""),
        (replace(GOOD, sets=(endpoint_set(1, 1), endpoint_set(1, 1))), "endpoint set 1"),
        (replace(GOOD, denied=(s.Denied("a.example", serial="xyz"),)), "xyz"),
        (replace(GOOD, policies=GOOD.policies * 2), "twice"),
        (replace(GOOD, inbound=GOOD.inbound * 2), "SNI"),
        (service(connect_timeout_ms=1 << 33), ""),
        (replace(GOOD, offload=s.Offload(tls12=s.Tls12.ALLOW, ciphers=s.Ciphers.CHACHA20)),
         "the offload profile"),
        (replace(GOOD, offload=s.Offload(bytes_min=1 << 64)), ""),
    ],
)  # fmt: skip
def test_what_is_not_good_is_refused_by_name(snapshot: s.Snapshot, says: str) -> None:
    with pytest.raises((binding.Rejected, binding.NativeError)) as caught:
        binding.build(snapshot, binding.Certificates())
    assert says in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_a_mesh_endpoint_needs_expected_identities() -> None:
    endpoint = replace(
        endpoint_set(1, 1).endpoints[0], kind=s.EndpointKind.MESH, sni="_.1.db.default.b.example"
    )
    for expected, good in (((), False), (("spiffe://b.example/ns/default/sa/db",), True)):
        value = replace(
            GOOD, sets=(s.EndpointSet(1, "db.default", (replace(endpoint, expected=expected),)),)
        )
        value = replace(value, inbound=())
        if good:
            binding.build(value, binding.Certificates())
        else:
            with pytest.raises((binding.Rejected, binding.NativeError)):
                binding.build(value, binding.Certificates())


def test_what_did_not_change_is_not_parsed_again() -> None:
    certificates = binding.Certificates()
    first = binding.build(GOOD, certificates)
    certificates.keep(first)
    again = authority().leaf("ns/default/sa/db")
    second = binding.build(small(2, (LEAF,)), certificates)
    third = binding.build(small(3, (again,)), certificates)
    assert second.leaves[LEAF] is first.leaves[LEAF]
    assert third.leaves[again] is not first.leaves[LEAF]
    assert third.bundles[GOOD.bundles[0]] is first.bundles[GOOD.bundles[0]]


def test_expired_leaves_are_found() -> None:
    old = authority().leaf("ns/default/sa/old", seconds=-5)
    certificates = binding.Certificates()
    now = time.time()
    assert binding.expired_leaves(certificates, (LEAF, old), now) == {old.key}
    assert binding.expired_leaves(certificates, (LEAF, old), now - 60) == set()
    assert binding.expired_leaves(certificates, (LEAF,), now + 7200) == {LEAF.key}


def test_the_settings_are_the_headers() -> None:
    engine = binding.Engine(binding.Settings(workers=1))
    assert not engine.started
    assert engine.live == 0
    assert engine.read_events() == b""
    assert set(engine.histograms()) == {"connect_ns", "handshake_ns", "duration_ns"}
    assert all(value == 0 for value in engine.counters().values())
    with pytest.raises(binding.NativeError, match="engine"):
        binding.Engine(binding.Settings(workers=0))
    with pytest.raises(binding.NativeError, match="listener"):
        engine.add_mesh(-1, 0)
    with pytest.raises(binding.Rejected):
        engine.set_ticket_keys(bytes(81))
    engine.close()


def test_bounds_rise() -> None:
    bounds = binding.histogram_bounds()
    assert list(bounds) == sorted(set(bounds))
    assert bounds[-1] == 2**64 - 1
