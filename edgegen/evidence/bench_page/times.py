"""Show where the time of an image goes, and how its samples scatter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...core.html_text import escape
from ..bench_document import BatchLatency, BenchDocument, BenchRow, StagePart
from ..pareto import Chart
from .style import COLOURS

BINS = 24
WIDTH, HEIGHT, FLOOR = 260, 104, 84


def stages(document: BenchDocument, chart: Chart) -> Iterator[str]:
    """Yield one bar for each row, all on one scale; the parts of a bar add up to its time."""
    rows = _measured(document, chart)
    if not rows:
        return
    part = _part_of(document)
    most = max(sum(map(part, latency.stages)) for _, latency in rows) or 1.0
    names = list(dict.fromkeys(one.stage for _, latency in rows for one in latency.stages))
    colour = {name: number % COLOURS for number, name in enumerate(names)}
    keys = (f'<li><i class="s{colour[name]}"></i>{escape(name)}</li>' for name in names)
    yield f"<ul class=key>{''.join(keys)}</ul>"
    lines = []
    for row, latency in rows:
        parts = []
        for one in latency.stages:
            said = f"{one.stage}: {part(one):.3f} ms in {one.calls} calls"
            parts.append(
                f'<span class="s{colour[one.stage]}" title="{escape(said)}" '
                f'style="width:{100 * part(one) / most:.2f}%"></span>'
            )
        whole = sum(map(part, latency.stages))
        numbers = ", ".join(_said(one, part(one)) for one in latency.stages)
        lines.append(
            f"<tr><td class=name>{escape(chart.label(row))}</td>"
            f"<td><div class=bar>{''.join(parts)}</div><small>{escape(numbers)}</small></td>"
            f"<td class=n>{whole:.2f} ms</td></tr>"
        )
    head = "<tr><th>candidate</th><th>stages of one image</th><th>whole</th></tr>"
    yield f'<div class="box stages" tabindex=0><table>{head}{"".join(lines)}</table></div>'


def _said(one: StagePart, ms: float) -> str:
    calls = f"{one.calls} x " if one.calls > 1 else ""
    return f"{calls}{one.stage} {ms:.2f}"


def _part_of(document: BenchDocument) -> _Part:
    return _Part(document.compared_by == "cpu")


class _Part:
    """Return the milliseconds of a stage in the clock that rows are compared by."""

    def __init__(self, is_cpu: bool) -> None:
        self.is_cpu = is_cpu

    def __call__(self, one: StagePart) -> float:
        return one.cpu_ms if self.is_cpu else one.wall_ms


def histograms(document: BenchDocument, chart: Chart) -> Iterator[str]:
    """Yield a histogram of each row's samples, one image at a time."""
    for row, latency in _measured(document, chart):
        drawn = _histogram(document.samples(latency), document.compared(latency).p50)
        known = document.compared(latency)
        said = (
            f"{chart.label(row)}: {latency.rounds} rounds, median within {known.p50_low:.2f} to "
            f"{known.p50_high:.2f} ms"
        )
        mark = " <span class=unstable>unstable</span>" if latency.unstable else ""
        yield f"<figure>{drawn}<figcaption>{escape(said)}{mark}</figcaption></figure>"


def _measured(document: BenchDocument, chart: Chart) -> list[tuple[BenchRow, BatchLatency]]:
    names = [bundle.name for bundle in chart.bundles]
    rows = (row for name in names for row in document.of(name))
    return [(row, row.first) for row in rows if row.first is not None]


def _histogram(samples: Sequence[float], middle: float) -> str:
    low, high = min(samples), max(samples)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(samples, bins=BINS, range=(low, high))
    most, wide = max(counts.max(), 1), (WIDTH - 16) / BINS
    bars = "".join(
        f'<rect class="c0" stroke="none" x="{8 + k * wide:.1f}" width="{wide - 1:.1f}" '
        f'y="{FLOOR - 70 * count / most:.1f}" height="{70 * count / most:.1f}"/>'
        for k, count in enumerate(counts.tolist())
        if count
    )
    x = 8 + (WIDTH - 16) * (middle - low) / (high - low)
    line = f'<line class="front" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{FLOOR}"/>'
    anchor = "start" if x < WIDTH / 3 else "end" if x > 2 * WIDTH / 3 else "middle"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="histogram of {len(samples)} samples">{bars}{line}'
        f'<line class="axis" x1="8" x2="{WIDTH - 8}" y1="{FLOOR}" y2="{FLOOR}"/>'
        f'<text class="soft" x="{x:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">'
        f"median {middle:.2f} ms</text></svg>"
    )
