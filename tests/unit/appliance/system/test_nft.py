"""The table as a value: what it holds for a site and its bindings. The kernel's side of it is
tried in tests/netns."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.registry.model import Host, HostKind, HostState
from appliance.site import Site
from appliance.system import INTERCEPTED, UPSTREAM
from appliance.system.nft import COUNTERS, Binding, bindings, removal, render
from dataplane.snapshot import Grade

SITE = Site.model_validate(
    {
        "apiVersion": "sluice.dev/v1",
        "kind": "Site",
        "metadata": {"name": "a"},
        "spec": {
            "trustDomain": "a.example",
            "appliance": "edge",
            "hosts": {"interfaces": ["hosts0", "vlan7"], "addresses": ["198.18.0.1"]},
            "mesh": {"addresses": ["198.18.255.1"]},
        },
    }
)
MAC = "02:53:00:00:00:11"


def added(ruleset: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    commands = ruleset["nftables"]
    return [c["add"][kind] for c in commands if kind in c.get("add", {})]


def elements(ruleset: dict[str, Any]) -> dict[str, list[Any]]:
    return {e["name"]: e["elem"] for e in added(ruleset, "element")}


def rules(ruleset: dict[str, Any], chain: str) -> list[str]:
    found = added(ruleset, "rule")
    return [json.dumps(rule["expr"]) for rule in found if rule["chain"] == chain]


def test_everything_is_in_our_own_table() -> None:
    for command in render(SITE, [Binding(ip_address("198.18.0.11"), MAC)])["nftables"]:
        ((verb, thing),) = command.items()
        ((kind, body),) = thing.items()
        assert verb in ("add", "flush")
        assert body["family"] == "inet"
        assert (body["name"] if kind == "table" else body["table"]) == "sluice"


def test_removal_names_our_table_only() -> None:
    assert removal()["nftables"][-1] == {"delete": {"table": {"family": "inet", "name": "sluice"}}}


def test_what_must_never_be_intercepted_is_accepted_first() -> None:
    order = rules(render(SITE), "prerouting")
    steered = min(i for i, rule in enumerate(order) if "tproxy" in rule)
    checked = min(i for i, rule in enumerate(order) if "jump" in rule)
    for wanted in ("nd-neighbor-solicit", "[67, 68, 546, 547]", "[22, 15011, 15012]"):
        place = next(i for i, rule in enumerate(order) if wanted in rule)
        assert place < checked < steered
        assert '"accept"' in order[place]
    assert '["hosts0", "vlan7"]' in order[0]
    assert '"!="' in order[0]


def test_a_closed_admin_port_is_not_let_past() -> None:
    spec = SITE.spec.model_copy(update={"ports": SITE.spec.ports.model_copy(update={"admin": 0})})
    order = rules(render(SITE.model_copy(update={"spec": spec})), "prerouting")
    assert any("[22, 15012]" in rule for rule in order)


def test_bindings_become_elements_by_what_they_bind() -> None:
    bound = [
        Binding(ip_address("198.18.0.11"), MAC),
        Binding(ip_address("198.18.0.13"), None, "vlan7"),
        Binding(ip_address("fd18::14"), "02:53:00:00:00:14", "vlan7"),
        Binding(ip_address("198.18.0.12")),
    ]
    assert elements(render(SITE, bound)) == {
        "bound_macs": [MAC, "02:53:00:00:00:14"],
        "bound_ports": ["vlan7"],
        "bound4": ["198.18.0.11", "198.18.0.12", "198.18.0.13"],
        "by_mac4": ["198.18.0.11"],
        "by_port4": ["198.18.0.13"],
        "mac_pairs4": [{"concat": ["198.18.0.11", MAC]}],
        "port_pairs4": [{"concat": ["198.18.0.13", "vlan7"]}],
        "bound6": ["fd18::14"],
        "by_mac6": ["fd18::14"],
        "by_port6": ["fd18::14"],
        "mac_pairs6": [{"concat": ["fd18::14", "02:53:00:00:00:14"]}],
        "port_pairs6": [{"concat": ["fd18::14", "vlan7"]}],
    }


def test_every_counter_is_there_and_used() -> None:
    ruleset = render(SITE)
    assert {counter["name"] for counter in added(ruleset, "counter")} == set(COUNTERS)
    text = json.dumps(added(ruleset, "rule"))
    for name in COUNTERS:
        assert f'{{"counter": "{name}"}}' in text


def test_marks_differ() -> None:
    """What is ours going out must not be delivered here."""
    assert INTERCEPTED != UPSTREAM


def host(state: HostState, *addresses: str, mac: str | None = MAC) -> Host:
    return Host(
        name="h",
        namespace="default",
        service_account="h",
        kind=HostKind.AGENTLESS,
        state=state,
        grade=Grade.L2,
        addresses=tuple(ip_address(a) for a in addresses),
        mac=mac,
    )


def test_only_hosts_in_use_are_bound() -> None:
    hosts = [
        host(HostState.ACTIVE, "198.18.0.11", "fd18::11"),
        host(HostState.PENDING, "198.18.0.12"),
        host(HostState.REVOKED, "198.18.0.13"),
    ]
    assert bindings(hosts) == (
        Binding(ip_address("198.18.0.11"), MAC),
        Binding(ip_address("fd18::11"), MAC),
    )


addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)
macs = st.none() | st.sampled_from([f"02:00:00:00:00:{n:02x}" for n in range(9)])
ports = st.none() | st.sampled_from(["hosts0", "vlan7", "vlan8"])


@given(st.lists(st.builds(Binding, addresses, macs, ports), max_size=20))
def test_the_order_of_bindings_does_not_matter(bound: list[Binding]) -> None:
    assert render(SITE, bound) == render(SITE, bound[::-1])


@pytest.mark.parametrize("version", [4, 6])
def test_a_link_without_macs_cannot_carry_an_address_bound_by_mac(version: int) -> None:
    found = rules(render(SITE), "spoofing")
    first = next(i for i, rule in enumerate(found) if f"@by_mac{version}" in rule)
    assert '"iiftype"' in found[first]
    assert '"drop"' in found[first]
