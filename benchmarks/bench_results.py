"""Pages under docs/results from reports of `edgegen bench`, one a kind of processor.

    edgegen bench --zoo --steps 1,2,4,10,50 --peer nncf=A/bin/python --report report
    python -m benchmarks bench_results report

writes zoo-<kind>.md into docs/results, zoo-<kind>.svg with the speeds, and zoo-<kind>-<n>.svg with
latency against quality of each family, which README can show; kind is amx, vnni or avx2. Every row
is in it, the ones that lose too, with the machine and the commit.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgegen.core.html_text import escape
from edgegen.evidence.bench_document import (
    FULL,
    BenchDocument,
    BenchedBundle,
    BenchRow,
    read_document,
)
from edgegen.evidence.bench_page.charts import chart_file
from edgegen.evidence.bench_page.style import CHART, COLOURS, THEME
from edgegen.evidence.bench_peers import fastest_peer, is_sound, own_rows, times_as_fast
from edgegen.evidence.bench_tables import MARKS, decibels, number
from edgegen.evidence.pareto import charts

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"amx_int8": "amx", "avx512_vnni": "vnni", "avx_vnni": "vnni", "avx2": "avx2"}
# Goal of a kind of processor, from seed to image, as times as fast as the fastest full precision:
# the geometric mean of a runtime, and below that of one family alone.
MEANS = {("amx", "openvino"): 4.0, ("vnni", "openvino"): 2.5}
MEANS |= {(kind, "onnxruntime"): 1.6 for kind in ("amx", "vnni")}
ALONE = {("vnni", "openvino", "isc-gan"): 1.7}
HEADS = (
    *("bundle", "steps", "candidate", "state", "ms an image", "speed", "PSNR", "ruined"),
    "fastest sound peer takes",
)


def kind_of(document: BenchDocument) -> str:
    flags = document.machine.get("flags", "").split(", ")
    return next((kind for flag, kind in KINDS.items() if flag in flags), "other")


def own_steps(document: BenchDocument) -> list[BenchedBundle]:
    """Return the bundles at their generators' own steps; the zoo's other bundles end with their
    number of steps.
    """
    made = [one for one in document.bundles if one.manifest_sha256]
    return [one for one in made if not re.search(rf"-{one.steps}-steps?$", one.name)]


def speeds(document: BenchDocument, runtime: str) -> dict[str, BenchRow]:
    """Return edgegen's rows on a runtime that keep all limits and have a speed, by generator."""
    return {
        one.source: row
        for one in own_steps(document)
        for row in own_rows(document, one.name)
        if row.runtime == runtime and is_sound(row) and row.first and row.first.speed
    }


def mean_of(rows: dict[str, BenchRow]) -> float:
    found = [row.first.speed for row in rows.values() if row.first and row.first.speed]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan


def goals(document: BenchDocument) -> Iterator[Sequence[str]]:
    """Yield what is measured, the goal, the result, and whether it is met."""
    kind = kind_of(document)
    for runtime in dict.fromkeys(row.runtime for row in document.rows):
        rows = speeds(document, runtime)
        if rows or (kind, runtime) in MEANS:
            every = f"geometric mean of {', '.join(rows) or 'no generator'}"
            yield _goal(f"{runtime}, {every}", MEANS.get((kind, runtime)), mean_of(rows))
        for (on, name, source), goal in ALONE.items():
            if (on, name) == (kind, runtime):
                one = {source: rows[source]} if source in rows else {}
                yield _goal(f"{runtime}, {source}", goal, mean_of(one))


def _goal(what: str, goal: float | None, found: float) -> Sequence[str]:
    said = "-" if math.isnan(found) else f"{found:.2f} x"
    if goal is None:
        return what, "-", said, "no goal"
    return what, f">= {goal:g} x", said, "met" if found >= goal else "**missed**"


def line(document: BenchDocument, row: BenchRow) -> Sequence[str]:
    first, quality = row.first, row.quality
    peer = None if row.peer or row.precision == FULL else fastest_peer(document, row.bundle)
    ratio = None if peer is None else times_as_fast(document, row, peer)
    speed = "-"
    if first and first.speed is not None:
        ends = f"{number(first.speed_low, 2)} to {number(first.speed_high, 2)}"
        speed = f"{first.speed:.2f} x ({ends})"
    against = "-"
    if peer is not None and ratio is not None:
        behind = "" if ratio.value >= 1 else ", **behind**"
        against = f"{ratio.value:.2f} x the time ({peer.peer}){behind}"
    return (
        row.bundle,
        str(document.bundle(row.bundle).steps or "-"),
        row.label,
        f"{row.state} (unstable)" if first and first.unstable else row.state,
        number(document.compared(first).p50, 2) if first else "-",
        speed,
        decibels(quality.psnr_db) if quality else "-",
        f"{quality.ruined} of {quality.pairs}" if quality else "-",
        against,
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = {key: mark for key, mark in MARKS.items() if chr(key) != "*"}
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(cell.translate(marks) for cell in row)} |" for row in rows),
        "",
    ]


def page(document: BenchDocument, commit: str) -> str:
    kind, machine = kind_of(document), document.machine
    clock = "CPU time" if document.compared_by == "cpu" else "wall time"
    whys = dict.fromkeys(
        f"{row.name}: {row.why}" for row in document.rows if row.state in ("failed", "skipped")
    )
    on = ", ".join(f"{name}: {value}" for name, value in sorted(machine.items()))
    return "\n".join(
        [
            f"# The zoo from seed to image, {kind}",
            "",
            f"Made by `python -m benchmarks bench_results` at commit {commit} from a report of",
            "",
            f"    {document.command}",
            "",
            f"of {document.made}. {clock[0].upper()}{clock[1:]}, one image at a time, against the "
            "fastest full precision of the bundle, round by round; pairs against full precision "
            "made here ([what the columns mean](../guides/bench.md)).",
            "",
            f"![speeds](zoo-{kind}.svg)",
            "",
            *(f"![latency against quality]({name})" for name in pareto(document)),
            "",
            *table(("", "goal", "found", ""), list(goals(document))),
            "## All rows",
            "",
            *table(HEADS, [line(document, row) for row in document.rows]),
            *([*(f"- {why.translate(MARKS)}" for why in whys), ""] if whys else []),
            "## Machine and versions",
            "",
            on.translate(MARKS) + ".",
            "",
            ", ".join(f"{k} {v}" for k, v in sorted(document.versions.items())) + ".",
            "",
        ]
    )


def pareto(document: BenchDocument) -> dict[str, bytes]:
    """Return file name to chart of latency against quality, as on the report's page, one for each
    family.
    """
    return {
        f"zoo-{kind_of(document)}-{number}.svg": chart_file(document, one)
        for number, one in enumerate(charts(document), 1)
    }


def chart(document: BenchDocument) -> str:
    """Draw how many times as fast as full precision: a bar with its interval for each family and
    runtime.
    """
    bars = [
        (f"{source}, {row.label}", row.first)
        for runtime in dict.fromkeys(row.runtime for row in document.rows)
        for source, row in speeds(document, runtime).items()
        if row.first
    ]
    most = max((one.speed_high or 0.0 for _, one in bars), default=1.0)
    left, wide, step = 250, 440, 30
    height = 60 + step * len(bars)
    parts = []
    kinds = list(dict.fromkeys(name.partition(", ")[2] for name, _ in bars))

    def at(speed: float | None) -> float:
        return left + wide * (speed or 0.0) / max(most, 1.0)

    for place, (name, one) in enumerate(bars):
        y, colour = 44 + step * place, f"c{kinds.index(name.partition(', ')[2]) % COLOURS}"
        low, high = at(one.speed_low), at(one.speed_high)
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{colour}" x="{left}" y="{y}" width="{at(one.speed) - left:.1f}" '
            f'height="20"/><line class="ring" x1="{low:.1f}" x2="{high:.1f}" y1="{y + 10}" '
            f'y2="{y + 10}"/><text x="{high + 8:.1f}" y="{y + 15}">{one.speed:.2f} x</text>'
        )
    title = f"Seed to image in INT8, times as fast as the fastest FP32 ({kind_of(document)})"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 760 {height}" '
        f'role="img" aria-label="{title}"><style>{THEME}{CHART}</style>'
        f'<text x="16" y="24" style="font-weight:600">{title}</text>{"".join(parts)}'
        f'<line class="limit" x1="{at(1):.1f}" x2="{at(1):.1f}" y1="36" y2="{height - 10}"/>'
        "</svg>\n"
    )


def commit() -> str:
    asked = ("git", "describe", "--always", "--dirty", "--abbrev=10")
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def written(report: Path, out: Path, at: str) -> list[Path]:
    document = read_document(report)
    name = f"zoo-{kind_of(document)}"
    made = {
        f"{name}.md": page(document, at).encode(),
        f"{name}.svg": chart(document).encode(),
        **pareto(document),
    }
    for file, content in made.items():
        (out / file).write_bytes(content)
    return [out / file for file in made]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    for report in given.reports:
        print(*written(report, given.out, commit()), sep="\n")


if __name__ == "__main__":
    main()
