"""Draw latency against quality as SVG without a library, so that a device without extras can do it
too.

A point is a row; its bars are the intervals of the median and of the PSNR. Each runtime has a shape
and a colour; full precision is hollow. Rows that no other row beats are ringed and joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...core.html_text import escape
from ..bench_document import FULL, BenchDocument, BenchRow
from ..pareto import Chart, Point
from .style import CHART, COLOURS, THEME

WIDTH, HEIGHT = 760, 450
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 58, 54
BAND = 66  # height of the band for full precision itself, above the scale
LETTER = 7.4  # approximate width of a letter in pixels
LINE = 15
LOGARITHMIC = 8.0  # slowest time over fastest beyond which the scale is logarithmic
Place = tuple[float, float]
Extent = tuple[float, float, float]  # left, right and height of a place that no label may cover


@dataclass(frozen=True)
class Axis:
    """Map a number to a place on paper."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_logarithmic:
            value, low, high = (math.log(max(v, 1e-9)) for v in (value, low, high))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Return round numbers for ticks; a linear axis has at most nine."""
        if self.is_logarithmic:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            every = [step * 10.0**ten for ten in tens for step in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 6
            size = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
            step = next(size * k for k in (1, 2, 5, 10) if size * k >= rough)
            first = math.ceil(self.low / step - 1e-9)
            every = [step * (first + k) for k in range(9)]
        return [tick for tick in every if self.low <= tick * 1.000001 and tick <= self.high]


def chart_file(document: BenchDocument, chart: Chart) -> bytes:
    """Return the chart as an SVG file with its own styles."""
    return (chart_svg(document, chart, f"<style>{THEME}{CHART}</style>") + "\n").encode()


def chart_svg(document: BenchDocument, chart: Chart, style: str = "") -> str:
    """Return the chart of one full precision as SVG; it uses the page's styles unless `style` is
    given.
    """
    title = escape(chart.title)
    parts = "".join(_Drawing(document, chart).parts())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="Latency against quality of {title}">{style}'
        f"<title>Latency against quality of {title}</title>{parts}</svg>"
    )


class _Drawing:
    """Draw one chart."""

    def __init__(self, document: BenchDocument, chart: Chart) -> None:
        self.document, self.chart, self.points = document, chart, chart.points
        self.has_exact = any(math.isinf(point.psnr_db) for point in self.points)
        self.x = self._x()
        self.y = self._y()
        # edgegen and a peer on the same runtime get different marks
        names = dict.fromkeys(map(_kind, sorted(document.rows, key=lambda row: bool(row.peer))))
        self.number = {name: number for number, name in enumerate(names)}
        self.taken: list[Extent] = []

    def parts(self) -> Iterator[str]:
        yield from self._frame()
        if not self.points:
            yield _text(WIDTH / 2, HEIGHT / 2, "nothing to compare", "soft", "middle")
            return
        front = self.chart.front
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._place, front))
        yield f'<polyline class="front" points="{joined}"/>'
        # marks keep their places, so labels must avoid them
        for point in self.points:
            self.taken.append(self._extent(point))
        for point in self.points:
            yield from self._mark(point, point in front)
        for point in sorted(self.points, key=lambda p: p.ms):
            yield self._label(point)

    def _x(self) -> Axis:
        low = min((p.ms_low for p in self.points), default=0.0)
        high = max((p.ms_high for p in self.points), default=1.0)
        start, end = LEFT, WIDTH - RIGHT
        if low > 0 and high > LOGARITHMIC * low:
            return Axis(low / 1.5, high * 1.5, start, end, True)
        return Axis(0.0, (high or 1.0) * 1.4, start, end)

    def _y(self) -> Axis:
        limits = [q.psnr_limit_db for p in self.points if (q := p.row.quality)]
        ends = [v for p in self.points for v in (p.psnr_low_db, p.psnr_high_db)]
        found = [value for value in (*ends, *limits) if math.isfinite(value)] or [30.0, 50.0]
        low, high = math.floor(min(found) - 2), math.ceil(max(found) + 2)
        top = TOP + (BAND if self.has_exact else 0)
        return Axis(low, high, HEIGHT - BOTTOM, top)

    def _place(self, point: Point) -> Place:
        if math.isinf(point.psnr_db):
            return self.x(point.ms), TOP + BAND / 2
        return self.x(point.ms), self.y(point.psnr_db)

    def _frame(self) -> Iterator[str]:
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        kind = "CPU time" if self.document.compared_by == "cpu" else "Wall time"
        yield _text(LEFT, 22, f"{self.chart.title}", "", "start", "font-weight:600")
        said = "Bars: intervals of the median and of the PSNR, 95 %. Ringed: nobody beats it."
        said += " Outside: no ring." if self.chart.has_outside else ""
        yield _text(LEFT, 42, said, "soft")
        if self.has_exact:
            yield (
                f'<rect class="band" x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{BAND}"/>'
            )
            yield _text(LEFT + 8, TOP + 16, "full precision itself", "soft")
            self.taken.append((LEFT, LEFT + 8 + 21 * LETTER, TOP + 12))
        for tick in self.y.ticks:
            y = self.y(tick)
            yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(LEFT - 8, y + 4, f"{tick:g}", "soft", "end")
        for tick in self.x.ticks:
            x = self.x(tick)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 5}"/>'
            yield _text(x, floor + 20, f"{tick:g}", "soft", "middle")
        yield f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>'
        batch = next((p.row.latency[0].batch for p in self.points), 1)
        images = "one image" if batch == 1 else f"{batch} images"
        yield _text(
            (LEFT + right) / 2, HEIGHT - 12, f"{kind} of {images}, ms (median)", "", "middle"
        )
        turn = f'transform="rotate(-90 16 {(TOP + floor) / 2:.0f})"'
        yield (
            f'<text x="16" y="{(TOP + floor) / 2:.0f}" text-anchor="middle" {turn}>'
            "PSNR to full precision, dB</text>"
        )
        for limit in sorted({q.psnr_limit_db for p in self.points if (q := p.row.quality)}):
            y = self.y(limit)
            yield f'<line class="limit" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(right - 8, y - 5, f"asked: {limit:g} dB", "soft", "end")
            self.taken.append((right - 8 - 14 * LETTER, right, y - 9))

    def _mark(self, point: Point, is_on_front: bool) -> Iterator[str]:
        x, y = self._place(point)
        number = self.number[_kind(point.row)]
        colour = f"c{number % COLOURS}"
        left, right = self.x(point.ms_low), self.x(point.ms_high)
        yield _line(colour, left, y, right, y)
        if math.isfinite(point.psnr_db):
            ends = [self.y(min(v, self.y.high)) for v in (point.psnr_low_db, point.psnr_high_db)]
            yield _line(colour, x, ends[0], x, ends[1])
        hollow = " hollow" if point.row.precision == FULL else ""
        yield SHAPES[number % len(SHAPES)](x, y, f"{colour}{hollow}")
        if is_on_front:
            yield f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="12"/>'

    def _label(self, point: Point) -> str:
        """Draw a label beside, above or below its point, where no other label or mark is."""
        x, y = self._place(point)
        text, own = self.chart.label(point.row), self._extent(point)
        wide = LETTER * len(text)
        middle = min(max(x - wide / 2, LEFT + 4), WIDTH - RIGHT - wide - 4)
        sides = (own[1] + 6, own[0] - 6 - wide)
        places = [
            *((left, y) for left in sides),
            *((middle, y + step) for step in (-22, 22)),
            *((left, y + LINE * step) for step in (1, -1, 2, -2, 3, -3, 4, -4) for left in sides),
        ]
        left, height = next((p for p in places if self._is_free(*p, wide, own)), places[2])
        self.taken.append((left, left + wide, height))
        return _text(left + wide / 2, height + 4, text, "", "middle")

    def _extent(self, point: Point) -> Extent:
        """Return the extent of a point's mark and of the bar of its times."""
        x, y = self._place(point)
        return min(x - 12, self.x(point.ms_low)), max(x + 12, self.x(point.ms_high)), y

    def _is_free(self, left: float, height: float, wide: float, own: Extent) -> bool:
        right = left + wide
        if not (left > LEFT and right < WIDTH - RIGHT and TOP < height < HEIGHT - BOTTOM):
            return False
        return not any(
            left < other[1] and other[0] < right and abs(height - other[2]) < LINE - 1
            for other in self.taken
            if other != own or abs(height - other[2]) < 1
        )


def _kind(row: BenchRow) -> tuple[str, str | None]:
    return row.runtime, row.peer


def _text(x: float, y: float, text: str, name: str, anchor: str = "start", style: str = "") -> str:
    kind = f' class="{name}"' if name else ""
    own = f' style="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{own}>{escape(text)}</text>'


def _line(colour: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line class="{colour}" stroke-width="2" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" '
        f'y2="{y2:.1f}"/>'
    )


def _polygon(*corners: Place) -> Callable[[float, float, str], str]:
    def drawn(x: float, y: float, name: str) -> str:
        points = " ".join(f"{x + 7 * dx:.1f},{y + 7 * dy:.1f}" for dx, dy in corners)
        return f'<polygon class="{name}" points="{points}"/>'

    return drawn


def _circle(x: float, y: float, name: str) -> str:
    return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'


# The index is the number of a runtime, or of a peer on one, in the document.
SHAPES: Sequence[Callable[[float, float, str], str]] = (
    _circle,
    _polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),
    _polygon((0, -1.05), (0.95, 0.75), (-0.95, 0.75)),
    _polygon((0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)),
    _polygon((-0.95, -0.75), (0.95, -0.75), (0, 1.05)),
)
