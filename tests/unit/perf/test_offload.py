"""What the guest says of costs, and the verdict on what the product chooses by itself."""

from __future__ import annotations

import pytest

from perf.process import BenchError
from perf.scenarios.offload import parse, verdict


def said(user: float, auto: float) -> list[str]:
    return [
        "# a loop of 8 instructions took 8 ticks",
        f"cost user layer 3 total {user} card 0.0000",
        "cost nic layer 5 total 88.0 card 85.5",
        f"cost auto layer 4 total {auto} card 0.0000",
        "ok every_layer",
    ]


def test_runs_come_by_way() -> None:
    rounds, chosen = parse(said(4.0, 4.5) + said(4.1, 4.6))
    assert [each["minsn_mib"] for each in rounds["user"]] == [4.0, 4.1]
    assert rounds["nic"][0] == {"minsn_mib": 2.5, "card_minsn_mib": 85.5}
    assert chosen == "ktls"


def test_a_guest_without_figures_is_refused() -> None:
    with pytest.raises(BenchError, match="said nothing"):
        parse(said(4.0, 4.5)[:3])


@pytest.mark.parametrize(
    ("auto", "want"), [(3.0, "not dearer"), (4.06, "not dearer"), (4.1, "dearer")]
)
def test_two_percent_are_allowed(auto: float, want: str) -> None:
    assert f"auto chose ktls, {want} than user" in verdict(*parse(said(4.0, auto)))
