"""Find which rows of a bench no other beats, and which row beats which, in latency and
quality.

Only rows with the same full precision are compared: pairs against different ones say nothing about
each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .bench_document import FULL, BenchDocument, BenchedBundle, BenchRow


@dataclass(frozen=True)
class Point:
    """Hold what is compared of a row: milliseconds (the median and its interval) and the PSNR to
    full precision with its interval; infinite for full precision itself.
    """

    row: BenchRow
    ms: float
    ms_low: float
    ms_high: float
    psnr_db: float
    psnr_low_db: float
    psnr_high_db: float

    def beats(self, other: Point) -> bool:
        """Return whether this point is no worse in either and better in one beyond the
        intervals.
        """
        if self.ms > other.ms or self.psnr_db < other.psnr_db:
            return False
        return self.ms_high < other.ms_low or self.psnr_low_db > other.psnr_high_db


@dataclass(frozen=True)
class Chart:
    """Hold the rows of one full precision; `left_out` are those that cannot be compared, with the
    reason.
    """

    title: str
    bundles: Sequence[BenchedBundle]
    points: Sequence[Point]
    left_out: Sequence[tuple[BenchRow, str]]

    @property
    def front(self) -> list[Point]:
        """Return the points that no other beats, the fastest first; images that are shown to be
        damaged are no choice, however fast.
        """
        sound = [p for p in self.points if p.row.state != "outside"]
        kept = [p for p in sound if not any(other.beats(p) for other in sound)]
        return sorted(kept, key=lambda p: p.ms)

    @property
    def has_outside(self) -> bool:
        return any(point.row.state == "outside" for point in self.points)

    @property
    def has_several(self) -> bool:
        return len(self.bundles) > 1

    def label(self, row: BenchRow) -> str:
        """Return a row's label, without its bundle's name if there is only one bundle."""
        return row.name if self.has_several else row.label


def charts(document: BenchDocument) -> list[Chart]:
    """Return a chart for each full precision, in the order of the bundles."""
    groups: dict[str, list[BenchedBundle]] = {}
    for bundle in document.bundles:
        # bundles that could not be made are grouped by their generator
        key = bundle.full_sha256 or f"none of {bundle.source}"
        groups.setdefault(key, []).append(bundle)
    return [_chart(document, bundles) for bundles in groups.values()]


def _chart(document: BenchDocument, bundles: Sequence[BenchedBundle]) -> Chart:
    points, left_out = [], []
    for row in (row for bundle in bundles for row in document.of(bundle.name)):
        if why := why_not_compared(row):
            left_out.append((row, why))
        else:
            points.append(_point(document, row))
    title = f"{bundles[0].source} ({bundles[0].family})"
    if [bundle.name for bundle in bundles] != [bundles[0].source]:
        title += f": {', '.join(bundle.name for bundle in bundles)}"
    return Chart(title, bundles, points, left_out)


def why_not_compared(row: BenchRow) -> str:
    """Return why a row has no place in a chart, or "" if it has one."""
    if row.state in ("failed", "skipped"):
        return row.state
    if row.first is None or row.quality is None:
        return "not measured"
    return "unstable" if row.first.unstable else ""


def _point(document: BenchDocument, row: BenchRow) -> Point:
    latency, quality = row.first, row.quality
    assert latency is not None and quality is not None
    compared = document.compared(latency)
    ms, low, high = compared.p50, compared.p50_low, compared.p50_high
    if row.precision == FULL and row.state == "within":
        return Point(row, ms, low, high, math.inf, math.inf, math.inf)
    middle = math.inf if quality.psnr_db is None else quality.psnr_db
    ends = (quality.psnr_low_db, quality.psnr_high_db)
    least, most = (middle if end is None else end for end in ends)
    return Point(row, ms, low, high, middle, least, most)


def in_words(chart: Chart) -> list[str]:
    """Say what is on the front and which row beats which, a sentence each."""
    if not chart.points:
        why = ", ".join(dict.fromkeys(why for _, why in chart.left_out)) or "not there"
        return [f"There is nothing to compare: rows are {why}."]
    names = [chart.label(point.row) for point in chart.front]
    be = "is" if len(names) == 1 else "are"
    said = ["There is no front: every row is outside its limits."]
    if names:
        that = " that is not outside" if chart.has_outside else ""
        said = [f"On the front {be} {_listed(names)}: no other row{that} is as fast and as near."]
    for point in sorted(chart.points, key=lambda p: p.ms):
        if beaten := [other for other in chart.points if point.beats(other)]:
            labels = [f"{chart.label(other.row)}{_by(point, other)}" for other in beaten]
            said.append(f"{chart.label(point.row)} dominates {_listed(labels)}.")
    said += [f"{chart.label(row)} is not compared: it is {why}." for row, why in chart.left_out]
    return said


def _by(point: Point, other: Point) -> str:
    """Say by how much a point beats another."""
    parts = []
    if point.ms > 0:
        parts.append(f"{other.ms / point.ms:.2f} x the time")
    if math.isfinite(point.psnr_db) and math.isfinite(other.psnr_db):
        parts.append(f"{point.psnr_db - other.psnr_db:.1f} dB less near")
    elif math.isfinite(other.psnr_db):
        parts.append(f"{other.psnr_db:.1f} dB where this is full precision")
    return f" ({', '.join(parts)})" if parts else ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])
