"""appliance.registry.allocations: addresses stay a service's, and rest for a day."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import LimitReached
from appliance.registry.allocations import REUSE_AFTER_S, Allocator, Held, plan_vips
from appliance.registry.store import Store
from appliance.site import Vip

VIP = Vip(ipv4=IPv4Network("198.19.0.0/29"), ipv6=IPv6Network("fd53::/120"))
T = 1_800_000_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def give(allocator: Allocator, *keys: str, now: int = T, keep: bool = True) -> dict[str, str]:
    given = allocator.ensure(keys, [f"{key}:80" for key in keys], (), now, keep=keep)
    return {key: str(addresses[0]) for key, addresses in given.vips.items()}


def test_a_service_keeps_its_addresses_through_restarts(store: Store) -> None:
    first = give(Allocator(store, VIP), "a.x", "b.x")
    assert give(Allocator(store, VIP), "b.x", "a.x") == first
    assert set(first.values()) == {"198.19.0.1", "198.19.0.2"}


def test_both_families_are_given_and_set_numbers_rise(store: Store) -> None:
    allocator = Allocator(store, VIP)
    given = allocator.ensure(["a.x"], ["a.x:80", "a.x:80|in"], (), T, keep=True)
    assert given.vips["a.x"] == (ip_address("198.19.0.1"), ip_address("fd53::1"))
    assert sorted(given.sets.values()) == [1, 2]
    allocator.release((), (), T)
    again = allocator.ensure([], ["c.x:80"], (), T, keep=True)
    assert again.sets == {"c.x:80": 3}


def test_a_freed_address_rests_for_a_day(store: Store) -> None:
    allocator = Allocator(store, VIP)
    first = give(allocator, "a.x")
    allocator.release((), (), T)
    later = T + REUSE_AFTER_S
    assert give(allocator, "b.x", now=later - 1) != first
    assert give(allocator, "b.x", "a.x", now=later - 1)["a.x"] == first["a.x"]
    allocator.release({"b.x"}, (), T)
    assert give(allocator, "b.x", "c.x", now=later + 1)["c.x"] == first["a.x"]


def test_asking_what_would_be_keeps_nothing(store: Store) -> None:
    allocator = Allocator(store, VIP)
    would = give(allocator, "a.x", keep=False)
    assert would == {"a.x": "198.19.0.1"}
    assert store.all("SELECT * FROM vips") == []
    assert give(allocator, "b.x") == {"b.x": "198.19.0.1"}


def test_what_documents_ask_for_is_not_given_away(store: Store) -> None:
    taken = {ip_address("198.19.0.1"), ip_address("fd53::1")}
    given = Allocator(store, VIP).ensure(["a.x"], (), taken, T, keep=True)
    assert given.vips["a.x"] == (ip_address("198.19.0.2"), ip_address("fd53::2"))


def test_a_used_up_range_is_said_and_nothing_is_given(store: Store) -> None:
    allocator = Allocator(store, VIP)
    keys = [f"s{n}.x" for n in range(6)]
    assert len(set(give(allocator, *keys).values())) == 6  # .1 … .6 of a /29
    with pytest.raises(LimitReached, match=r"used up.*larger vip range"):
        give(allocator, *keys, "more.x")
    assert len(store.all("SELECT * FROM vips")) == 12


def test_what_only_peers_offer_gets_half_of_a_range_and_then_nothing(store: Store) -> None:
    allocator = Allocator(store, VIP)

    def served(keys: list[str], guests: list[str], now: int) -> list[str]:
        found = allocator.ensure(keys, (), (), now, keep=True, guests=guests).vips
        return [key for key in keys if any(address.version == 4 for address in found[key])]

    theirs = [f"p{n}.x" for n in range(6)]  # a /29 has six addresses
    assert served([*theirs, "own.x"], theirs, T) == ["p0.x", "p1.x", "own.x"]
    allocator.release(["own.x"], (), T)
    assert served(["q.x", "own.x"], ["q.x"], T + 1) == ["own.x"]  # what was freed rests, and counts
    own = ["own.x", *(f"o{n}.x" for n in range(3))]
    assert served(own, [], T + 1) == own


def test_another_range_gives_other_addresses(store: Store) -> None:
    give(Allocator(store, VIP), "a.x")
    other = Vip(ipv4=IPv4Network("198.19.7.0/24"), ipv6=VIP.ipv6)
    assert give(Allocator(store, other), "a.x") == {"a.x": "198.19.7.1"}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcdefgh")), st.integers(0, 90_000)), max_size=12)
)
def test_no_address_is_two_services_or_too_early_anothers(
    steps: list[tuple[set[str], int]],
) -> None:
    network, now = IPv4Network("198.19.0.0/28"), T
    held: list[Held] = []
    owner: dict[int, tuple[str, int]] = {}  # number: who had it last, and until when
    for keys, pause in steps:
        now += pause
        new = plan_vips(sorted(keys), held, network, (), now)
        gone = {(each.key) for each in new} | {""}
        numbers = {each.number for each in new}
        held = [h for h in held if h.key not in gone and h.number not in numbers] + new
        held = [
            Held(h.key, h.family, h.number, h.freed if h.freed is not None else now)
            if h.key not in keys
            else h
            for h in held
        ]
        live = [h for h in held if h.freed is None]
        assert {h.key for h in live} == keys
        assert len({h.number for h in live}) == len(live)
        for each in live:
            last = owner.get(each.number)
            if last is not None and last[0] != each.key:
                assert now - last[1] >= REUSE_AFTER_S
            owner[each.number] = each.key, now
