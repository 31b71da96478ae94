"""What fine-tuned runs draw is told by numbers, as far as they say whether it is a site's products.

    python -m benchmarks products runs/site runs/other --json docs/results/products.json

Of each finished run of `edgegen finetune`, from what it keeps: the seed and the threads of its
training; KID and FD of base and adapted generator to the held-out photos and where blurred photos
are (looks.json, which names features and numbers), recognition, near-copies; and of the pictures
that it keeps, how light the frame of one pixel is (median, 1 is white) and how coloured the image
(mean saturation), beside its photos.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _result import Part, Row, arguments_of, report
from PIL import Image

from edgegen.core.verdict import Interval
from edgegen.workflows.finetune.periodic_eval import interval_text, pictures

Kept = Mapping[str, Any]


def row(run: Path) -> Row:
    about = json.loads((run / "run.json").read_text("utf-8"))
    last = json.loads((run / "looks.json").read_text("utf-8"))["last"]
    shown, recognition = pictures(run), last.get("recognition")
    return {
        "run": run.name,
        "family": about["family"],
        "size": about["config"]["size"],
        "images seen": about["recipe"]["images"],
        "training seed": about["seed"],
        "threads": about["threads"],
        **{
            f"{name}, {side}": told(last[side][name])
            for name in ("KID", "FD")
            for side in ("base", "adapted")
        },
        "KID, blurred photos": told(last["scale"]["blurred"]["KID"]),
        "far": last["scale"]["far"],
        "recognised": "not told" if recognition is None else recognised(recognition),
        "near-copies": f"{last['memory']['near_copies']} of {last['images']}",
        **{
            f"{what}, {side}": round(measure(shown[side]), 2)
            for what, measure in (("border", border), ("saturation", saturation))
            for side in ("adapted", "photos")
        },
    }


def told(interval: Kept) -> str:
    return interval_text(Interval(**interval))


def recognised(found: Kept) -> str:
    share = "not told" if found["share"] is None else told(found["share"])
    return (
        f"{share}: {found['generated']:.2f} generated, {found['held_out']:.2f} held out, "
        f"{found['chance']:.2f} by chance"
    )


def border(pixels: np.ndarray) -> float:
    """Return the median of the outermost pixels of images (n, h, w, 3) uint8, from 0 for black to 1
    for white.
    """
    inside = np.zeros(pixels.shape[1:3], bool)
    inside[1:-1, 1:-1] = True
    return float(np.median(pixels[:, ~inside])) / 255


def saturation(pixels: np.ndarray) -> float:
    """Return the mean saturation (of HSV), from 0 for grey to 1."""
    found = [np.asarray(Image.fromarray(image).convert("HSV"))[..., 1].mean() for image in pixels]
    return float(np.mean(found)) / 255


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--part", default="runs", help="the name of these rows in the result")
    given = parser.parse_args(arguments)
    seeds = "the periodic evaluation's, as edgegen/core/seeds.py has them"
    report(given.json, "products", given.part, Part([row(run) for run in given.runs], seeds))


if __name__ == "__main__":
    main()
