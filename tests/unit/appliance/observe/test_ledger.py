"""The ledger of records: every counter of the data plane's has its place, and sums agree."""

from __future__ import annotations

from itertools import product

from appliance.observe.ledger import COUNTERS, LAYERS, ledger
from appliance.observe.metrics import Numbers, families
from dataplane import binding
from dataplane._native import ffi, lib
from dataplane.events import RecordLayer

COUNTED = {
    "records_user": 5, "records_nic": 2, "records_ktls": 1, "fallback_none": 4,
    "fallback_no_kernel_tls": 3, "fallback_small": 1, "bytes_up": 9,
}  # fmt: skip


def test_the_names_are_natives() -> None:
    natives = {ffi.string(lib.dp_stat_name(each)).decode() for each in range(lib.dp_stat_count())}
    assert {name for name in natives if name.startswith(("records_", "fallback_"))} == COUNTERS
    plain = {"plain", "splice"}
    assert {layer.name.lower() for layer in RecordLayer} - plain == set(LAYERS)
    assert binding.fallback_name(0) == "none"


def test_legs_are_the_sum_of_layers_and_of_reasons() -> None:
    held = ledger(COUNTED)
    assert held.legs == sum(held.reasons.values()) == 8
    assert held.layers == {"openssl": 0, "user": 5, "ktls": 1, "nic": 2}
    assert held.reasons["no_kernel_tls"] == 3
    assert ledger({}).legs == 0


def test_a_leg_that_a_nic_lost_is_where_it_is_now() -> None:
    held = ledger({**COUNTED, "fallback_link_changed": 1})
    assert held.layers == {"openssl": 0, "user": 5, "ktls": 2, "nic": 1}
    assert (held.reasons["none"], held.reasons["link_changed"]) == (3, 1)
    assert held.legs == sum(held.reasons.values()) == 8
    early = ledger({"records_nic": 1, "fallback_none": 1, "fallback_link_changed": 2})
    assert (early.legs, early.layers["ktls"], early.reasons["link_changed"]) == (1, 1, 1)


def test_a_lost_leg_leaves_the_reason_that_it_began_with() -> None:
    counted = {"records_nic": 5, "fallback_none": 2, "fallback_seals_only": 3}
    for lost, only in ((1, 0), (1, 1), (3, 2), (5, 3)):
        held = ledger({**counted, "fallback_link_changed": lost, "seals_only_lost": only})
        assert (held.layers["nic"], held.layers["ktls"]) == (5 - lost, lost)
        assert held.reasons["none"] == 2 - (lost - only)
        assert held.reasons["seals_only"] == 3 - only
        assert held.reasons["link_changed"] == lost


def test_sums_agree_whichever_counters_were_read_late() -> None:
    names = ("records_nic", "fallback_none", "fallback_seals_only", "fallback_link_changed",
             "seals_only_lost")  # fmt: skip
    for numbers in product(range(4), repeat=len(names)):
        counted = dict(zip(names, numbers, strict=True))
        held = ledger(counted)
        assert min(*held.layers.values(), *held.reasons.values()) >= 0, counted
        assert held.legs == counted["records_nic"]
        began = counted["fallback_none"] + counted["fallback_seals_only"]
        assert sum(held.reasons.values()) == began


def test_metrics_have_it_by_layer_and_by_reason_and_nowhere_else() -> None:
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(Numbers("a", COUNTED))
        for sample in family.samples
    }
    assert found["sluice_records_total", "user"] == 5
    assert found["sluice_records_total", "openssl"] == 0
    assert found["sluice_record_fallbacks_total", "no_kernel_tls"] == 3
    assert found["sluice_dataplane_bytes_up_total",] == 9
    assert not [key for key in found if "dataplane_records" in key[0] or "fallback_" in key[0]]
