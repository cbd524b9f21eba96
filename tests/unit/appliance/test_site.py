"""appliance.site: the box's own settings, refused before anything starts from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.errors import InvalidInput
from appliance.site import load_site

SHIPPED = Path(__file__).parents[3] / "firmware-config" / "site.yaml"


def test_the_site_that_is_shipped_is_good() -> None:
    assert load_site(SHIPPED).spec.metrics.addresses == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ports": {"mesh": 15010}}, "spec.ports: each listener needs a port of its own"),
        ({"vip": {"ipv4": "0.0.0.0/0"}}, "spec.vip: .* give a prefix"),
        ({"vip": {"ipv4": "198.19.0.1/32"}}, "spec.vip: .* give a prefix"),
        ({"vip": {"ipv4": "224.0.0.0/16"}}, "spec.vip: .* not for connections"),
        ({"vip": {"ipv4": "240.0.0.0/16"}}, "spec.vip: .* some systems refuse"),
        ({"vip": {"ipv4": "192.0.2.0/24"}}, "192.0.2.1 is in the range of the virtual"),
        ({"vip": {"ipv4": "198.19.0.1/16"}}, "spec.vip.ipv4: "),
        ({"mesh": {"addresses": ["0.0.0.0"]}}, "nobody's address"),
        ({"hosts": {"interfaces": ["a b"], "addresses": ["192.0.2.1"]}}, "interfaces.0: "),
        ({"trustDomain": "cluster.local"}, "every site's own"),
        ({"trustDomainAliases": ["A b"]}, "no trust domain"),
        ({"zone": "a..b"}, "cannot be the zone"),
        ({"zone": "svc.cluster.local"}, "cannot be the zone"),
        ({"unknown": 1}, "spec.unknown: "),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    data = yaml.safe_load(SHIPPED.read_text())
    data["spec"].update(changes)
    file = tmp_path / "site.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(InvalidInput, match=says) as caught:
        load_site(file)
    assert str(caught.value).startswith(f"{file}: spec")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "3", "a: [", "\udcff", "a: 2024-99-99", "[" * 3000])
def test_what_is_no_site_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(InvalidInput) as caught:
        load_site(file)
    assert "\n" not in str(caught.value)


def test_where_there_is_no_file_it_says_what_to_write(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    with pytest.raises(InvalidInput) as caught:
        load_site(file)
    assert str(caught.value) == f"{file}: No such file or directory: write a Site document there"
