"""Results as a table, and their history as a plot.

python -m perf.compare                 the newest result of each scenario and profile
python -m perf.compare --summary       the same in one table: our ratio to each peer
python -m perf.compare --plot out.svg  our ratio to each peer, over all runs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from perf.bench import OURS

RESULTS = Path(__file__).parent / "results.jsonl"
Line = Mapping[str, Any]

# What a table shows of each metric: title, unit's digits. The first found is a plot's.
COLUMNS = {
    "gbit_s": ("Gbit/s", 2),
    "cpu_s_gib": ("CPU s/GiB", 3),
    "rate": ("per s", 0),
    "cpu_us": ("CPU µs each", 2),
    "p50_us": ("p50 µs", 0),
    "p99_us": ("p99 µs", 0),
    "p999_us": ("p99.9 µs", 0),
    "kib_each": ("KiB each", 2),
    "kib_hop": ("KiB a hop", 2),
    "p99_growth": ("p99 beside / alone", 2),
    "alone_p99_us": ("p99 alone µs", 0),
    "beside_p99_us": ("p99 beside µs", 0),
    "beside_gbit_s": ("Gbit/s beside", 2),
    "beside_proxy_busy": ("proxy busy beside", 2),
    "minsn_mib": ("M instructions/MiB", 2),
    "card_minsn_mib": ("and in a card's place", 2),
    "ms": ("ms", 1),
    "load_ms": ("load", 1),
    "compile_ms": ("compile", 1),
    "publish_ms": ("publish", 1),
    "applied_ms": ("applied", 1),
    "count": ("exchanges", 0),
    "refused": ("refused", 0),
    "reset": ("reset", 0),
    "failed": ("failed", 0),
}
PLOTTED = ("cpu_s_gib", "cpu_us", "kib_each", "beside_p99_us", "p99_us")


def key(line: Line) -> tuple[str, str, str, str]:
    return line["scenario"], line["load"], line["profile"], line["records"]


def newest(lines: Iterable[Line]) -> list[Line]:
    """The last of each key, in the order in which keys first came."""
    found: dict[tuple[str, str, str, str], Line] = {}
    for line in lines:
        found[key(line)] = line
    return list(found.values())


def table(lines: Iterable[Line]) -> str:
    """Markdown. Under each figure that we can compare: ours / theirs, with its interval."""
    parts = []
    for line in lines:
        metrics = [
            name for name in COLUMNS if any(name in medians for medians in line["medians"].values())
        ]
        heads = [COLUMNS[name][0] for name in metrics]
        parts.append(
            f"\n**{line['scenario']}, {line['load']}, {line['profile']}** "
            f"({line['time'][:10]}, {line['commit']}, {line['rounds']} rounds{_control(line)}"
            + (f", {line['notes']}" if line["notes"] else "")
            + ")\n"
        )
        parts.append("| | " + " | ".join(heads) + " |")
        parts.append("|---" * (len(heads) + 1) + "|")
        for name, medians in line["medians"].items():
            cells = [_cell(line, name, metric, medians) for metric in metrics]
            parts.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(parts)


def _control(line: Line) -> str:
    """What the null came to against itself. Lines of before have no more than its own drift."""
    if line["null_spread"] is None:
        return ""
    if "null_ratio" not in line:
        return f", null relay alone ±{line['null_spread'] / 2:.1%}"
    middle, low, high = line["null_ratio"]
    return (
        f"; {line['null']} to itself ×{middle:.3f}, {low:.3f}–{high:.3f}, rounds within "
        f"{line['null_spread']:.1%}; drift {line['drift']:.0%}"
        + (f"; it can't tell {', '.join(line['unsaid'])}" if line["unsaid"] else "")
    )


def _cell(line: Line, name: str, metric: str, medians: Mapping[str, float]) -> str:
    if metric not in medians:
        return ""
    text = f"{medians[metric]:.{COLUMNS[metric][1]}f}"
    if name == OURS and (interval := line.get("own", {}).get(metric)):
        return f"{text} ({interval[1]:.2f}–{interval[2]:.2f})"
    ratio = line["ratios"].get(name, {}).get(metric)
    return f"{text} (×{ratio[0]:.2f}, {ratio[1]:.2f}–{ratio[2]:.2f})" if ratio else text


def metric_of(line: Line) -> str | None:
    """The one that says most, of those that have a ratio, or would on a machine at rest."""
    names = ("p99_us",) if line["load"] == "latency" else PLOTTED
    known = line.get("unsaid", {}).keys() | {
        name for each in line["ratios"].values() for name in each
    }
    return next((name for name in names if line["ratios"] and name in known), None)


def summary(lines: Iterable[Line]) -> str:
    """Markdown, a row a load, a column a peer: ours / theirs of one metric with its interval. A
    table for each company that we were in. Without lines of the older rule, which chose among its
    rounds: `rounds_made` is theirs."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if "rounds_made" in line or (metric := metric_of(line)) is None:
            continue
        peers = tuple(sorted(line["ratios"]))
        if peers not in tables:
            heads = ["load", "commit", "rounds", "of what", "ours", *peers]
            tables[peers] = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        title, digits = COLUMNS[metric]
        ours = line["medians"][OURS]
        cells = [
            " ".join(dict.fromkeys((line["scenario"], line["load"], line["profile"]))),
            line["commit"],
            str(line["rounds"]),
            title,
            f"{ours[metric]:.{digits}f}",
        ]
        for peer in peers:
            ratio = line["ratios"][peer].get(metric)
            nothing = "restless" if metric in line.get("unsaid", {}) else ""
            cells.append(f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})" if ratio else nothing)
        tables[peers].append("| " + " | ".join(cells) + " |")
    return "\n\n".join("\n".join(rows) for rows in tables.values())


# --------------------------------------------------------------------------------------- plot

WIDTH, ROW, LEFT, RIGHT = 900, 170, 60, 170
COLOURS = ("#1b6ca8", "#c8553d", "#2a9d5c", "#8a5fbf", "#b8860b", "#5f6b76")


def plot(lines: Sequence[Line]) -> str:
    """SVG: a row for each scenario; our ratio to each peer, run after run. Below 1 we use less."""
    rows = []
    for each in dict.fromkeys(key(line) for line in lines):
        history = [line for line in lines if key(line) == each]
        peers = dict.fromkeys(peer for line in history for peer in line["ratios"])
        metric = next(filter(None, map(metric_of, history)), None)
        if metric is not None:
            rows.append((each, metric, history, list(peers)))
    height = ROW * len(rows) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for number, row in enumerate(rows):
        parts += _row(20 + number * ROW, *row)
    return "\n".join([*parts, "</svg>\n"])


def _row(
    top: int,
    name: tuple[str, ...],
    metric: str,
    history: Sequence[Line],
    peers: Sequence[str],
) -> list[str]:
    values = [
        line["ratios"].get(peer, {}).get(metric, [None])[0] for line in history for peer in peers
    ]
    high = max([1.2, *(value for value in values if value is not None)]) * 1.05
    inner, bottom = ROW - 50, top + ROW - 40
    step = (WIDTH - LEFT - RIGHT) / max(len(history) - 1, 1)

    def y(value: float) -> float:
        return float(bottom - value / high * inner)

    title = " · ".join(filter(None, name))
    parts = [
        f'<text x="{LEFT}" y="{top}" font-weight="bold">{escape(title)}: ours / theirs, '
        f"{escape(COLUMNS[metric][0])}</text>",
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(1):.1f}" y2="{y(1):.1f}" '
        'stroke="#999" stroke-dasharray="4 3"/>',
        f'<text x="{LEFT - 8}" y="{y(1) + 4:.1f}" text-anchor="end">1</text>',
        f'<text x="{LEFT}" y="{bottom + 14}">{escape(history[0]["commit"])}</text>',
    ]
    if len(history) > 1:
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{bottom + 14}" text-anchor="end">'
            f"{escape(history[-1]['commit'])}</text>"
        )
    for number, peer in enumerate(peers):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            (LEFT + at * step, y(found[metric][0]))
            for at, line in enumerate(history)
            if metric in (found := line["ratios"].get(peer, {}))
        ]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{at:.1f}" for x, at in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{at:.1f}" r="3" fill="{colour}"/>' for x, at in points]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{top + 16 + 15 * number}" fill="{colour}">'
            f"{escape(peer)}</text>"
        )
    return parts


def load(path: Path) -> list[Line]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="one table of ratios")
    parser.add_argument("--plot", type=Path, help="write an SVG there")
    options = parser.parse_args()
    lines = load(options.results)
    if not lines:
        print(f"{options.results}: no results yet: make bench S=l4-plain", file=sys.stderr)
        return 1
    text = summary(newest(lines)) if options.summary else table(newest(lines))
    print(text or "no results of the present rule yet: make bench")
    if options.plot:
        options.plot.write_text(plot(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
