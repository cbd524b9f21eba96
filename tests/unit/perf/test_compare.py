"""The table and the plot, from lines as run.py writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from perf import compare
from perf.bench import Result


def line(commit: str, ours: float, load: str = "bulk") -> dict[str, Any]:
    rounds = {
        "sluice": [{"gbit_s": 20.0, "cpu_s_gib": ours}] * 3,
        "haproxy <2.6>": [{"gbit_s": 10.0, "cpu_s_gib": 1.0}] * 3,
    }
    facts = {"time": "2026-11-23T02:00:00+00:00", "commit": commit, "scenario": "l4-plain"}
    return {**facts, "records": "", **Result(load, "bare", rounds).as_json()}


def test_newest_is_the_last_of_each_load() -> None:
    lines = [line("one", 0.5), line("one", 0.4, "other"), line("two", 0.3)]
    assert [(each["load"], each["commit"]) for each in compare.newest(lines)] == [
        ("bulk", "two"),
        ("other", "one"),
    ]


def test_table_shows_figures_and_our_ratio() -> None:
    text = compare.table([line("one", 0.25)])
    assert "| sluice | 20.00 | 0.250 |" in text
    assert "| haproxy <2.6> | 10.00 (×2.00, 2.00–2.00) | 1.000 (×0.25, 0.25–0.25) |" in text


def test_table_tells_the_control_in_lines_of_now_and_before() -> None:
    now = {**line("one", 0.25), "null": "null-splice", "null_ratio": [1.01, 0.99, 1.02]}
    now |= {"null_spread": 0.06, "drift": 0.3, "unsaid": {"gbit_s": "it varied"}}
    text = compare.table([now])
    assert "null-splice to itself ×1.010, 0.990–1.020, rounds within 6.0%; drift 30%" in text
    assert "; it can't tell gbit_s)" in text
    before = {**line("one", 0.25), "null_spread": 0.14}
    del before["null_ratio"], before["unsaid"]
    assert "null relay alone ±7.0%" in compare.table([before])
    assert compare.summary([{**before, "rounds_made": 9}]) == ""
    compare.plot([before])


def test_table_shows_the_interval_of_a_ratio_in_itself() -> None:
    found = {**line("one", 0.25), "own": {"gbit_s": [20.0, 19.0, 21.0]}}
    assert "| sluice | 20.00 (19.00–21.00) | 0.250 |" in compare.table([found])


def test_summary_says_what_the_machine_could_not_tell() -> None:
    restless = {**line("one", 0.25), "unsaid": {"cpu_s_gib": "it varied"}}
    restless["ratios"] = {"haproxy <2.6>": {"gbit_s": [2, 2, 2]}}
    restless["medians"] = {"null again": {"cpu_s_gib": 9.0}, **restless["medians"]}
    assert compare.summary([restless]).endswith("| CPU s/GiB | 0.250 | restless |")


def test_summary_has_a_row_a_load_and_a_table_for_each_company() -> None:
    alone = {**line("one", 0.5), "ratios": {}}
    later = {**line("one", 0.5, "latency"), "scenario": "publishes"}
    later["ratios"] = {"no publishes": {"cpu_us": [2, 2, 2], "p99_us": [1.04, 1.0, 1.1]}}
    later["medians"] = {"no publishes": {"p99_us": 100.0}, "sluice": {"p99_us": 104.0}}
    assert compare.summary([line("one", 0.25), alone, line("one", 0.2, "other"), later]) == (
        "| load | commit | rounds | of what | ours | haproxy <2.6> |\n|---|---|---|---|---|---|\n"
        "| l4-plain bulk bare | one | 3 | CPU s/GiB | 0.250 | 0.25 (0.25–0.25) |\n"
        "| l4-plain other bare | one | 3 | CPU s/GiB | 0.200 | 0.20 (0.20–0.20) |\n\n"
        "| load | commit | rounds | of what | ours | no publishes |\n|---|---|---|---|---|---|\n"
        "| publishes latency bare | one | 3 | p99 µs | 104 | 1.04 (1.00–1.10) |"
    )


def test_plot_is_whole_svg_with_a_line_for_each_peer() -> None:
    root = ElementTree.fromstring(compare.plot([line("one", 0.5), line("two", 0.25)]))
    (drawn,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (x1, y1), (x2, y2) = (point.split(",") for point in drawn.attrib["points"].split())
    assert float(x1) < float(x2)
    assert float(y1) < float(y2)  # a smaller ratio is lower
    assert "haproxy <2.6>" in {each.text for each in root.iter() if each.text}


def test_results_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert compare.load(path) == []
    path.write_text("".join(json.dumps(line(name, 1.0)) + "\n" for name in "ab"))
    assert [each["commit"] for each in compare.load(path)] == ["a", "b"]
