"""appliance.address: one spelling of each address, block and port."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from appliance import address
from appliance.errors import InvalidInput

BAD_ADDRESSES = {
    "::ffff:198.18.0.11": "write 198.18.0.11$",
    "::FFFF:c612:000b": "write 198.18.0.11$",
    "fe80::1%eth0": "has a zone",
    "fd53::1%": "has a zone",
    "198.18.0": "is no address",
    "198.18.0.011": "is no address",
    "198.18.0.11 ": "is no address",
    "\uff11.2.3.4": "is no address",  # a full-width digit
    "": "is no address",
}
NO_MACHINES = ["0.0.0.0", "0.1.2.3", "::", "127.0.0.1", "127.9.9.9", "::1", "224.0.0.1", "ff02::1",
               "255.255.255.255", "169.254.0.1", "fe80::1"]  # fmt: skip


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_what_is_no_address_is_no_machines(text: str) -> None:
    for parse in (address.address, address.machine):
        with pytest.raises(InvalidInput, match=BAD_ADDRESSES[text]):
            parse(text)


@pytest.mark.parametrize("text", NO_MACHINES)
def test_some_are_nobodys_or_reach_no_further(text: str) -> None:
    assert address.address(text) == ip_address(text)
    with pytest.raises(InvalidInput, match=r"no machine's|no other machine"):
        address.machine(text)


@pytest.mark.parametrize("text", ["198.18.0.11", "10.0.0.1", "fd53::1", "2001:db8::1"])
def test_a_machines(text: str) -> None:
    assert address.machine(text) == ip_address(text)


def test_blocks() -> None:
    assert address.network("198.18.0.11/24") == ip_network("198.18.0.0/24")
    assert address.network("::/0") == ip_network("::/0")
    for bad in ("198.18.0.0/33", "fe80::%eth0/64", "", "x"):
        with pytest.raises(InvalidInput, match="an address or a block"):
            address.network(bad)
    with pytest.raises(InvalidInput, match=r"write 198\.18\.0\.0/24$"):
        address.network("::ffff:198.18.0.7/120")
    with pytest.raises(InvalidInput, match=r"write 0\.0\.0\.0/0$"):
        address.network("::ffff:0:0/96")


@pytest.mark.parametrize(
    "text", ["0", "00000170000", "080", "65536", "99999999", "+1", " 1", "1 ", "1_0", "\uff18", ""]
)
def test_bad_ports(text: str) -> None:
    with pytest.raises(InvalidInput, match="write a port, 1 to 65535"):
        address.port(text)


def test_what_was_kept_gets_one_spelling() -> None:
    kept = ["198.18.0.1", "::ffff:198.18.0.1", "fe80::1%eth0", "fd53::1"]
    assert address.plain(map(ip_address, kept)) == (ip_address("198.18.0.1"), ip_address("fd53::1"))


def test_ports() -> None:
    assert [address.port(text) for text in ("1", "80", "65535")] == [1, 80, 65535]
