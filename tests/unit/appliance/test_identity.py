"""Names: what parses, what is refused, how they resolve."""

import pytest

from appliance import identity
from appliance.errors import InvalidInput


def test_workload_ids_round_trip() -> None:
    text = identity.workload_id("a.example", "default", "web")
    assert text == "spiffe://a.example/ns/default/sa/web"
    parsed = identity.parse(text)
    assert (parsed.trust_domain, parsed.namespace, parsed.service_account) == (
        "a.example", "default", "web",
    )  # fmt: skip
    assert str(parsed) == text


def test_the_longest_workload_id_fits() -> None:
    longest = "spiffe://" + "t" * 63 + "/ns/" + "n" * 63 + "/sa/" + "s" * 63
    assert identity.workload_id("t" * 63, "n" * 63, "s" * 63) == longest
    assert str(identity.parse(longest)) == longest
    for parts in (("t" * 64, "n", "s"), ("t", "n" * 64, "s"), ("t", "n", "s" * 64)):
        with pytest.raises(InvalidInput):
            identity.workload_id(*parts)


def test_an_appliances_id_is_no_workloads() -> None:
    parsed = identity.parse(identity.appliance_id("a.example", "edge1"))
    assert parsed.workload is None
    assert parsed.namespace is None
    assert parsed.service_account is None


@pytest.mark.parametrize(
    "text",
    [
        "", "a.example/ns/x", "https://a.example/x", "spiffe://", "spiffe:///x", "spiffe://A/x",
        "spiffe://a/", "spiffe://a//x", "spiffe://a/./x", "spiffe://a/../x", "spiffe://a/x/",
        "spiffe://a/x?y", "spiffe://a/x#y", "spiffe://a:1/x", "spiffe://u@a/x", "spiffe://a/%41",
        "spiffe://a/\u00e9", "spiffe://a/x\n", "spiffe://" + "a" * 64 + "/x",
        "spiffe://a/" + "x" * 255,
    ],
)  # fmt: skip
def test_what_is_no_spiffe_id(text: str) -> None:
    with pytest.raises(InvalidInput):
        identity.parse(text)


@pytest.mark.parametrize(
    ("domain", "namespace", "account"),
    [("A", "b", "c"), ("a", "B", "c"), ("a", "b", "c/d"), ("a", "", "c"), ("a", "b", "x" * 64)],
)
def test_what_makes_no_identity(domain: str, namespace: str, account: str) -> None:
    with pytest.raises(InvalidInput):
        identity.workload_id(domain, namespace, account)


def test_server_names() -> None:
    assert identity.sni(None, 80, "web", "default", "b.example") == "_.80.web.default.b.example"
    assert identity.sni("v1", 80, "web", "default", "b.example").startswith("v1.80.web.")
    long = "x" * 63
    assert len(identity.sni(None, 65535, long, long, "a" * 63)) == 199
    with pytest.raises(InvalidInput, match="shorten"):
        identity.sni("y" * 63, 65535, long, long, "a" * 63)
    with pytest.raises(InvalidInput, match="shorten"):
        identity.sni("y" * 64, 1, "a", "b", "c")


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("web", "web.prod"),
        ("web.default", "web.default"),
        ("web.default.svc", "web.default"),
        ("web.default.svc.cluster.local", "web.default"),
        ("web.default.mesh", "web.default"),
        ("Web.Default.Mesh.", "web.default"),
        ("api.example.com", None),
        ("a.b.c.mesh", None),
        ("*.default", None),
        ("", None),
    ],
)
def test_hosts_resolve(host: str, key: str | None) -> None:
    assert identity.resolve(host, "prod", "mesh") == key


def test_keys_split() -> None:
    assert identity.split_key("web.default") == ("web", "default")
    for bad in ("web", "a.b.c", "A.b", ".", ""):
        with pytest.raises(InvalidInput):
            identity.split_key(bad)
