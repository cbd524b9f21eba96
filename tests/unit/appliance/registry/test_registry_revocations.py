"""appliance.registry.revocations: the list of what is denied does not grow for ever."""

from __future__ import annotations

from pathlib import Path

from appliance.ca.issue import TTL_MAX_S
from appliance.registry.revocations import SERIAL_KEPT_S, Revocations
from appliance.registry.store import Store

WEB = "spiffe://a.example/ns/default/sa/web"


def test_leaves_that_ran_out_are_forgotten_and_identities_are_not(tmp_path: Path) -> None:
    assert SERIAL_KEPT_S > TTL_MAX_S
    revocations = Revocations(Store(tmp_path / "state.db"), "a.example")
    revocations.replace("b.example", [("0b", None)], "b", 0)
    revocations.add(serial="01", spiffe_id=None, host="web1", now=0)
    revocations.add(serial=None, spiffe_id=WEB, host="web1", now=0)
    revocations.add(serial="02", spiffe_id=None, host="web1", now=TTL_MAX_S)
    assert [each.serial for each in revocations.own()] == ["01", None, "02"]
    last = revocations.last()
    revocations.add(serial="03", spiffe_id=None, host="web1", now=SERIAL_KEPT_S + 1)
    assert [each.serial or each.spiffe_id for each in revocations.own()] == [WEB, "02", "03"]
    assert [each.serial for each in revocations.all() if each.trust_domain == "b.example"] == ["0b"]
    assert revocations.last() > last
