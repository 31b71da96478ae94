"""Draw the two pictures of docs/architecture.md as SVG.

python scripts/draw_architecture.py         # writes docs/floors.svg and docs/walk.svg
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
INK, LINE, PAPER = "#1b2733", "#5b6b7a", "#ffffff"
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass
class Picture:
    """Draw boxes and arrows on white; numbers are pixels."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, w: float, h: float, colour: str, lines: tuple[str, ...]
    ) -> None:
        """Draw a box; the first line of its text is the heading."""
        self.parts.append(
            f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='6' fill='{colour}' "
            f"stroke='{LINE}' stroke-width='1.2'/>"
        )
        top = y + h / 2 - 8.5 * (len(lines) - 1) + 5
        for k, line in enumerate(lines):
            self.text(x + w / 2, top + 17 * k, line, 15 if k == 0 else 12, bold=k == 0)

    def text(
        self, x: float, y: float, words: str, size: int, bold: bool = False, anchor: str = "middle"
    ) -> None:
        weight = " font-weight='bold'" if bold else ""
        self.parts.append(
            f"<text x='{x}' y='{y}' {FONT} font-size='{size}' fill='{INK}'{weight} "
            f"text-anchor='{anchor}'>{escape(words)}</text>"
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f"<polyline points='{path}' fill='none' stroke='{LINE}' stroke-width='1.8' "
            "marker-end='url(#tip)'/>"
        )

    def save(self, path: Path) -> None:
        tip = (
            "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
            f"markerHeight='7' orient='auto'><path d='M0,0 L8,4 L0,8 z' fill='{LINE}'/>"
            "</marker></defs>"
        )
        head = (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' "
            f"width='{self.width}' height='{self.height}'>"
        )
        paper = f"<rect width='{self.width}' height='{self.height}' fill='{PAPER}'/>"
        path.write_text("\n".join([head, tip, paper, *self.parts, "</svg>"]) + "\n")


def floors() -> Picture:
    """Draw which package may import which: along the arrows, downwards only."""
    made = Picture(980, 590)
    doors, work, wing, base, core = "#fbe3cf", "#fdf3c6", "#d9ead3", "#d5e4f3", "#e3dcef"
    for y, words in ((50, "doors"), (148, "composition"), (262, "wings"), (392, "generators")):
        made.text(20, y, words, 13, anchor="start")
    made.text(20, 496, "core", 13, anchor="start")
    made.box(120, 20, 400, 56, doors, ("edgegen/cli", "parse, call a workflow, print, exit code"))
    made.box(
        550, 20, 400, 56, doors, ("import edgegen", "a program, a notebook, benchmarks, scripts")
    )
    made.box(
        120,
        116,
        830,
        60,
        work,
        ("workflows", "settings in, results out, progress to a listener; prints nothing"),
    )
    made.arrow((320, 76), (320, 116))
    made.arrow((750, 76), (750, 116))
    wings = (
        ("training", "photos, loop,", "adapters, recovery"),
        ("explain", "primitives,", "damage maps"),
        ("calibrate", "statistics,", "ranges, choice"),
        ("export", "ONNX, Q/DQ,", "runtimes"),
        ("evidence", "distances,", "intervals, timing"),
        ("machine", "sandbox, probe,", "providers"),
    )
    for k, lines in enumerate(wings):
        x = 120 + 140 * k
        made.box(x, 222, 130, 78, wing, lines)
        made.arrow((x + 65, 176), (x + 65, 222))
    made.box(
        120,
        356,
        270,
        60,
        base,
        ("families", "isc-gan, cas-dm, dkgm, lcd"),
    )
    made.arrow((185, 300), (185, 356))
    made.arrow((325, 300), (325, 356))
    made.box(475, 356, 120, 60, base, ("bring", "folders, ONNX files"))
    made.arrow((535, 176), (535, 356))
    made.arrow((535, 416), (535, 460))
    made.box(842, 356, 108, 60, base, ("zoo", "weights, cards"))
    made.arrow((950, 146), (966, 146), (966, 386), (950, 386))
    made.box(
        120,
        460,
        830,
        62,
        core,
        (
            "core",
            "numpy: spec, noise, seeds, samplers, runtime, plan, verdict, bundle  |  "
            "torch: graph, tap",
        ),
    )
    for x in (465, 605, 745, 831):
        made.arrow((x, 300), (x, 460))
    made.arrow((255, 416), (255, 460))
    made.arrow((896, 416), (896, 460))
    made.box(120, 548, 830, 30, "#eeeeee", ("errors",))
    made.arrow((535, 522), (535, 548))
    return made


def walk() -> Picture:
    """Draw the way from photos to a verdict: each stage reads what the one before it writes."""
    made = Picture(980, 520)
    files, stage = "#eef2f6", "#d9ead3"
    steps = (
        ("photos", "a folder, IDX, tar shards", files),
        ("train, finetune", "training, families", stage),
        ("run folder", "weights.safetensors, run.json", files),
        ("FP32 ONNX", "export: one file a graph, equal to torch", stage),
        ("statistics, ranges", "calibrate: on the sampler's own inputs", stage),
        ("plan", "calibrate.choose: which layers are INT8", files),
        ("Q/DQ ONNX, engines", "export: each runtime's dialect", stage),
        ("paired images", "evidence: the same seeds, FP32 and INT8", stage),
        ("verdict", "an interval against the budget", files),
    )
    places = [(30 + 320 * (k % 3), 30 + 150 * (k // 3)) for k in range(9)]
    for k, ((name, words, colour), (x, y)) in enumerate(zip(steps, places, strict=True)):
        made.box(x, y, 280, 70, colour, (name, words))
        if k % 3 < 2:
            made.arrow((x + 280, y + 35), (x + 320, y + 35))
        elif k < 8:
            turn = y + 100
            made.arrow((x + 140, y + 70), (x + 140, turn), (170, turn), (170, y + 150))
    made.box(
        670,
        440,
        280,
        56,
        "#fbe3cf",
        ("bundle", "published whole, or put under rejected/"),
    )
    made.arrow((810, 400), (810, 440))
    made.box(350, 440, 280, 56, "#fdf3c6", ("device, no torch", "generate, verify, bench"))
    made.arrow((670, 468), (630, 468))
    made.arrow((490, 330), (490, 306), (870, 306), (870, 250))
    made.text(660, 300, "a plan that fails is replaced by a safer one", 12)
    return made


if __name__ == "__main__":
    floors().save(DOCS / "floors.svg")
    walk().save(DOCS / "walk.svg")
