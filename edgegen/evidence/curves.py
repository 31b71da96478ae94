"""Draw the looks of a training as curves over its steps: distance with its interval, novelty,
membership and near-copies. It needs Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .memory import Limits
from .stopping import Look

FINE = 2  # lines are drawn at this multiple of the size, so that they are smooth when reduced
WIDTH, PANEL, LEFT, RIGHT, HEAD, FOOT, GAP = 760, 130, 64, 24, 22, 40, 14
INK, QUIET, GRID, LINE, BAND, LIMIT, BEST = (
    (30, 30, 30),
    (110, 110, 110),
    (228, 228, 228),
    (0, 90, 181),
    (205, 223, 243),
    (200, 70, 20),
    (0, 130, 90),
)

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """Describe one quantity: its values, and `low` and `high` around them if it has a band.

    `limit` is drawn as a dashed line; `bars` stand on 0.
    """

    title: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    limit: float | None = None
    bars: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """Return the range of the vertical axis."""
        parts = [
            *self.values,
            *(self.low or ()),
            *(self.high or ()),
            *(() if self.limit is None else (self.limit,)),
        ]
        low, high = min(parts), max(parts)
        if self.bars:
            return 0.0, max(high, 1.0) * 1.1
        reach = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return low - reach, high + reach


def curves(looks: Sequence[Look], limits: Limits, best: int | None = None) -> np.ndarray:
    """Draw one picture (h, w, 3) uint8; `best` is a step to mark. Raises ValueError
    without a look.
    """
    if not looks:
        raise ValueError("curves need a look")
    steps = [seen.step for seen in looks]
    panels = [
        Panel(
            "KID to held-out photos, 95 % interval (lower is better)",
            [seen.kid.value for seen in looks],
            [seen.kid.low for seen in looks],
            [seen.kid.high for seen in looks],
        ),
        Panel(
            "novelty: distance to training photos, over that of held-out photos",
            [seen.novelty for seen in looks],
            limit=limits.novelty,
        ),
        Panel(
            "membership: AUC of telling training photos from others, 95 % interval",
            [seen.membership.value for seen in looks],
            [seen.membership.low for seen in looks],
            [seen.membership.high for seen in looks],
            limits.membership,
        ),
        Panel("near-copies of training photos", [seen.near_copies for seen in looks], bars=True),
    ]
    tall = len(panels) * (HEAD + PANEL + GAP) + FOOT
    image = Image.new("RGB", (WIDTH * FINE, tall * FINE), "white")
    draw = Sheet(ImageDraw.Draw(image), steps)
    for k, panel in enumerate(panels):
        draw.panel(panel, GAP // 2 + k * (HEAD + PANEL + GAP), best, named=k == 0)
    draw.steps_below(tall - FOOT)
    return np.asarray(image.reduce(FINE))


class Sheet:
    """Draw panels with one horizontal axis; all places are in pixels of the reduced picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, steps: Sequence[int]) -> None:
        self._draw, self._steps = draw, steps
        self._first, self._last = steps[0], max(steps[-1], steps[0] + 1)

    def panel(self, panel: Panel, top: int, best: int | None, named: bool) -> None:
        low, high = panel.range
        upper, lower = top + HEAD, top + HEAD + PANEL

        def y(value: float) -> float:
            return lower - (value - low) / (high - low) * PANEL

        self._text(LEFT, top + HEAD / 2 - 2, panel.title, INK, "lm", 13)
        for tick in ticks(low, high, whole=panel.bars):
            self._line([(LEFT, y(tick)), (WIDTH - RIGHT, y(tick))], GRID)
            self._text(LEFT - 7, y(tick), f"{tick:.6g}", QUIET, "rm")
        places = [
            (self._x(step), y(value)) for step, value in zip(self._steps, panel.values, strict=True)
        ]
        if panel.low is not None and panel.high is not None:
            ends = [
                [(self._x(s), y(v)) for s, v in zip(self._steps, side, strict=True)]
                for side in (panel.low, panel.high)
            ]
            self._band(*ends)
        if panel.limit is not None:
            for dash in range(LEFT, WIDTH - RIGHT, 9):
                self._line(
                    [(dash, y(panel.limit)), (min(dash + 5, WIDTH - RIGHT), y(panel.limit))], LIMIT
                )
            self._text(WIDTH - RIGHT, top + HEAD / 2 - 2, f"limit {panel.limit:g}", LIMIT, "rm")
        if best is not None:
            self._line([(self._x(best), upper), (self._x(best), lower)], BEST, 1.5)
            if named:
                self._text(WIDTH - RIGHT, top + HEAD / 2 - 2, f"best: step {best:,}", BEST, "rm")
        if panel.bars:
            for x, end in places:
                self._box(
                    (x - 3, min(end, lower - 1), x + 3, lower), LIMIT if end < lower - 1 else QUIET
                )
        else:
            self._line(places, LINE, 2)
            for x, middle in places:
                self._draw.ellipse(
                    [FINE * v for v in (x - 2.6, middle - 2.6, x + 2.6, middle + 2.6)], LINE
                )
        self._line([(LEFT, lower), (WIDTH - RIGHT, lower)], QUIET)

    def steps_below(self, top: int) -> None:
        for tick in ticks(self._first, self._last, most=8, whole=True):
            self._line(
                [(self._x(tick), top - GAP // 2 - 3), (self._x(tick), top - GAP // 2)], QUIET
            )
            self._text(self._x(tick), top + 4, f"{tick:,.0f}", QUIET, "mm")
        self._text((LEFT + WIDTH - RIGHT) / 2, top + 22, "step", INK, "mm", 13)

    def _x(self, step: float) -> float:
        return (
            LEFT
            + 8
            + (step - self._first) / (self._last - self._first) * (WIDTH - LEFT - RIGHT - 16)
        )

    def _line(self, places: Sequence[tuple[float, float]], color: Color, wide: float = 1) -> None:
        self._draw.line(
            [(FINE * x, FINE * y) for x, y in places], color, round(FINE * wide), "curve"
        )

    def _band(
        self, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]]
    ) -> None:
        around = [(FINE * x, FINE * y) for x, y in [*low, *reversed(high)]]
        if len(low) > 1:
            self._draw.polygon(around, BAND)
        else:
            self._draw.line(around, BAND, 6 * FINE)

    def _box(self, place: tuple[float, float, float, float], color: Color) -> None:
        self._draw.rectangle([FINE * v for v in place], color)

    def _text(
        self, x: float, y: float, text: str, color: Color, anchor: str, size: int = 11
    ) -> None:
        self._draw.text(
            (FINE * x, FINE * y), text, color, ImageFont.load_default(size * FINE), anchor=anchor
        )


def ticks(low: float, high: float, most: int = 4, whole: bool = False) -> list[float]:
    """Return round numbers between low and high, at most `most` + 1, with a step of 1, 2 or 5 times
    a power of ten.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    if whole:
        step = max(step, 1.0)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
