"""appliance.registry.hosts and services: what may be added, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.errors import Conflict, InvalidInput, NotFound
from appliance.registry.hosts import host_of
from appliance.registry.model import HostState, ServicePort
from appliance.registry.services import parse
from dataplane.snapshot import Grade
from tests.unit.appliance.publish.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Web_1", "addresses": ["198.18.0.11"]}, "cannot be a name"),
        (
            {"name": "web", "namespace": "a.b", "addresses": ["198.18.0.11"]},
            "cannot be a namespace",
        ),
        ({"name": "web", "service_account": "A", "addresses": ["198.18.0.11"]}, "service account"),
        ({"name": "web"}, "give the --address"),
        ({"name": "web", "addresses": ["198.18.0"]}, "is no address: write an IPv4"),
        ({"name": "web", "addresses": ["::ffff:198.18.0.11"]}, "write 198.18.0.11$"),
        ({"name": "web", "addresses": ["fd53::1%eth0"]}, "has a zone: write"),
        ({"name": "web", "addresses": ["0.0.0.0"]}, "no machine's address"),
        ({"name": "web", "addresses": ["::"]}, "no machine's address"),
        ({"name": "web", "addresses": ["255.255.255.255"]}, "no machine's address"),
        ({"name": "web", "addresses": ["127.0.0.1"]}, "no other machine can reach"),
        ({"name": "web", "addresses": ["fe80::1"]}, "no other machine can reach"),
        ({"name": "web", "addresses": ["224.0.0.1"]}, "no machine's address"),
        ({"name": "web", "addresses": ["198.18.0.11"], "mac": "02:00"}, "no MAC address"),
        ({"name": "web", "addresses": ["198.18.0.11"], "interface": "a b"}, "no interface"),
        ({"name": "web", "agent": True, "mac": "02:00:00:00:00:01"}, "has a key of its own"),
        ({"name": "web", "addresses": ["198.18.0.1"] * 65}, "at most 64 addresses"),
        ({"name": "web", "addresses": ["198.18.0.1"], "labels": {"a b": "c"}}, "malformed"),
        ({"name": "web", "addresses": ["198.18.0.1"], "labels": {"a": "c\n"}}, "malformed"),
    ],
)
def test_bad_hosts_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        host_of(**given)


@pytest.mark.parametrize(
    ("more", "grade"),
    [
        ({}, Grade.L3),
        ({"mac": "02-00-00-00-00-0A"}, Grade.L2),
        ({"mac": "02:00:00:00:00:01", "interface": "eth1.7"}, Grade.PORT),
        ({"agent": True}, Grade.KEY),
    ],
)
def test_the_grade_is_how_it_is_bound(more: dict[str, Any], grade: Grade) -> None:
    host = host_of(name="web", addresses=["198.18.0.11"], **more)
    assert host.grade is grade
    assert host.state is (HostState.PENDING if grade is Grade.KEY else HostState.ACTIVE)


def test_services_are_read() -> None:
    assert parse("postgres:5432") == ("postgres", ServicePort(5432, 5432, "tcp"))
    assert parse("web:80>8080/http") == ("web", ServicePort(80, 8080, "http"))


@pytest.mark.parametrize(
    "text", ["", "web", "web:", "web:0", "web:65536", "web:80>0", "web:80/ftp", "W:80", "a:1:2",
             "web:80>8080>1", "-a:1", "a" * 64 + ":1", "web:99999999999"]
)  # fmt: skip
def test_bad_services_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


def test_two_hosts_offer_one_service_each_at_its_own_port(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80>8080", "web:443")
    world.add("web2", "198.18.0.12", "web:80>9090", service_account="other")
    (service,) = world.view.now.services
    assert [(p.number, p.target) for p in service.ports] == [(80, 8080), (443, 443)]
    ends = {each.host: each for each in world.view.now.endpoints}
    assert (ends["web1"].ports, ends["web2"].ports) == ({}, {80: 9090})
    assert (ends["web1"].service_account, ends["web2"].service_account) == (None, "other")


def test_a_bad_service_adds_no_host(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80/http")
    with pytest.raises(Conflict, match="as http"):
        world.hosts.add(host_of(name="web2", addresses=["198.18.0.12"]), ["web:80/tcp"])
    with pytest.raises(NotFound):
        world.hosts.get("web2")


def test_names_and_addresses_are_one_hosts(world: World) -> None:
    world.add("web1", "198.18.0.11")
    with pytest.raises(Conflict, match="there already"):
        world.add("web1", "198.18.0.12")
    with pytest.raises(Conflict, match=r"198\.18\.0\.11 is host web1's"):
        world.add("web2", "198.18.0.11")
    world.hosts.revoke("web1")
    world.add("web2", "198.18.0.11")
    with pytest.raises(Conflict, match="it first"):
        world.add("web1", "198.18.0.13")


def test_a_service_goes_with_its_last_host(world: World) -> None:
    world.add("web1", "198.18.0.11", "web:80")
    world.add("web2", "198.18.0.12", "web:80")
    world.hosts.remove("web1")
    world.view.changed()
    assert [each.key for each in world.view.now.services] == ["web.default"]
    world.hosts.remove("web2")
    world.view.changed()
    assert world.view.now.services == ()
    with pytest.raises(NotFound, match="no host 'web2'"):
        world.hosts.remove("web2")


def test_only_an_expected_agent_enrols(world: World) -> None:
    world.add("plain", "198.18.0.11")
    facts: dict[str, Any] = {
        "serial": "1", "not_after": 9, "key_hash": "k", "address": None, "now": 1,
    }  # fmt: skip
    with pytest.raises(Conflict, match="cannot enrol"):
        world.hosts.enrolled("plain", **facts)
    world.hosts.add(host_of(name="agent", agent=True), [])
    assert world.hosts.enrolled("agent", **facts).state is HostState.ACTIVE
    assert world.hosts.name_by_key("k") == "agent"
    world.hosts.revoke("agent")
    with pytest.raises(Conflict, match="revoked"):
        world.hosts.enrolled("agent", **facts)
