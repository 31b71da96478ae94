"""Show the same seeds side by side, and the worst pairs under a slider."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

import numpy as np

from ...core.html_text import escape
from ...core.images import png
from ..bench_document import BenchDocument, BenchedBundle, BenchRow, Strip, WorstSeed
from ..bench_tables import decibels
from ..pareto import Chart

GAIN = 8  # factor of the difference: a damage of one level in 32 becomes grey
LEAST, LEAST_OF_PAIRS = 96, 160  # least pixels of an image's side on the page
Pictures = Mapping[str, np.ndarray]  # file name -> (rows, columns, h, w, 3) uint8


def same_seeds(document: BenchDocument, chart: Chart, pictures: Pictures) -> Iterator[str]:
    """Yield for each bundle the images of full precision, then each row and its enlarged
    difference.
    """
    for bundle in chart.bundles:
        if bundle.seeds is None:
            continue
        if chart.has_several:
            yield f"<h3>{escape(bundle.name)}</h3>"
        yield f'<div class="box bare" tabindex=0>{_band(document, bundle, pictures)}</div>'


def _band(document: BenchDocument, bundle: BenchedBundle, pictures: Pictures) -> str:
    about = bundle.seeds
    assert about is not None
    full = pictures[about.file][0]
    rows = document.of(bundle.name)
    named = next((row.label for row in rows if row.name == bundle.reference), "full precision")
    parts = [_strip(full, f"{named}{_smaller(about)}")]
    for row in rows:
        if row.seeds is None:
            continue
        own = pictures[row.seeds.file][0]
        parts.append(_strip(own, row.label))
        if own.shape[1:] == full.shape[1:]:
            number = min(len(own), len(full))
            apart = np.abs(own[:number].astype(np.int16) - full[:number])
            difference = np.clip(apart * GAIN, 0, 255).astype(np.uint8)
            parts.append(_strip(difference, f"{row.label}: difference, {GAIN} times as strong"))
    return "".join(parts)


def _strip(images: np.ndarray, said: str) -> str:
    pixels = np.concatenate(list(images), axis=1)
    width = pixels.shape[1] * _scale(images)
    return (
        f'<figure><img alt="{escape(said)}" width="{width}" src="{_uri(pixels)}">'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )


def worst_pairs(document: BenchDocument, chart: Chart, pictures: Pictures) -> Iterator[str]:
    """Yield the worst pairs of each row that is not full precision, one image over the other."""
    rows = [row for bundle in chart.bundles for row in document.of(bundle.name)]
    for row in rows:
        if row.worst is None or row.quality is None or row.worst.rows != 2:
            continue
        name, against = escape(chart.label(row)), escape(row.quality.against)
        pairs = "".join(_pairs(row, row.worst, row.quality.worst_pairs, pictures))
        yield (
            f"<section><h3>{name}: its worst pairs</h3>"
            f"<label class=slide><span>{against}</span><input type=range min=0 max=100 value=50 "
            f'aria-label="Where {against} ends and {name} begins"><span>{name}</span></label>'
            f'<div class="tiles worst">{pairs}</div></section>'
        )


def _pairs(
    row: BenchRow, about: Strip, worst: list[WorstSeed], pictures: Pictures
) -> Iterator[str]:
    full, own = pictures[about.file]
    for one, left, right in zip(worst, full, own, strict=False):
        said = f"seed {one.seed}, {decibels(one.psnr_db)}{_smaller(about)}"
        said += ", counted as ruined" if one.ruined else ""
        scale = _scale(full, LEAST_OF_PAIRS)
        size = f'width="{left.shape[1] * scale}" height="{left.shape[0] * scale}"'
        yield (
            f'<figure><div class=pair style="width:{left.shape[1] * scale}px">'
            f'<img alt="full precision, {escape(said)}" {size} src="{_uri(left)}">'
            f'<img alt="{escape(row.label)}, {escape(said)}" {size} src="{_uri(right)}"></div>'
            f"<figcaption>{escape(said)}</figcaption></figure>"
        )


def _scale(images: np.ndarray, least: int = LEAST) -> int:
    return max(1, -(-least // max(images.shape[1:3])))


def _smaller(about: Strip) -> str:
    """Return a remark for pictures that are not shown pixel by pixel."""
    return "" if about.reduced == 1 else f", shown {about.reduced} times smaller"


def _uri(pixels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png(np.ascontiguousarray(pixels))).decode()
