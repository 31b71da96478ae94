"""The finished report of one seed: its numbers, its pictures and its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import page, pictures
from .lattice import Floats
from .primitives import Drawn, Primitives
from .regions import Regions, name_of

TAUTOLOGY = (
    "What this cannot show: the sum of all components gives back every demand exactly, whatever "
    "the network does: that is "
    "algebra, 2^n - 1 components for 2^n demands. What can fail, and is measured here: that few "
    "components do, that they "
    "predict demands not used, that each changes the image only in its regions, that it does so in "
    "another context too, and "
    "that the same sets of regions are strong in another image. Each number stands beside what "
    "chance gives; for sets of "
    "regions, chance counts all sets as equally likely, and neighbouring regions are likelier than "
    "that."
)
GATED = (
    "Gated demands add up by construction too: for them, additivity is no finding, and "
    "pictures and PSNR are what counts."
)


@dataclass(frozen=True)
class Explained:
    """The results for one seed; image and base (c, h, w) are the sample and its baseline."""

    title: str
    regions: Regions
    image: Floats
    base: Floats
    primitives: Primitives
    drawn: Sequence[Drawn]
    measured: Mapping[str, Mapping[str, Any]]
    edited: Floats | None = None


def to_json(explained: Explained) -> dict[str, Any]:
    """Return all components with regions, strength and floor, and all measures, as JSON data."""
    primitives = explained.primitives
    components = [
        {"regions": name_of(int(s)), "strength": float(k), "floor": float(f)}
        for s, k, f in zip(primitives.sets, primitives.strength, primitives.floor, strict=True)
    ]
    shown = [
        {"regions": name_of(component.chosen), **component.numbers} for component in explained.drawn
    ]
    whole = {
        "found": primitives.facts,
        **explained.measured,
        "shown": shown,
        "components": components,
    }
    cleaned: dict[str, Any] = _finite(whole)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drawings(explained: Explained) -> dict[str, np.ndarray]:
    """Return the pictures by file name, each (h, w, 3) uint8."""
    regions, image = explained.regions, explained.image
    out = {
        "image.png": pictures.plain(image),
        "baseline.png": pictures.plain(explained.base),
        "regions.png": pictures.outlined(pictures.plain(image), regions, numbers=True),
        "strength.png": pictures.outlined(_by_region(explained), regions, numbers=True),
    }
    out |= {
        f"primitive-{k + 1:02}.png": _primitive(explained, component)
        for k, component in enumerate(explained.drawn)
    }
    if explained.edited is not None:
        out["edited.png"] = before_after(image, explained.edited)
    return out


def before_after(image: Floats, edited: Floats) -> np.ndarray:
    """Return a picture of the sample, of the edited sample, and of their difference."""
    apart = pictures.change(image, edited)
    return pictures.beside(
        [
            pictures.plain(image),
            pictures.plain(edited),
            pictures.heat(image, apart, float(apart.max())),
        ]
    )


def _by_region(explained: Explained) -> np.ndarray:
    """Draw each region's total strength; a component counts in equal parts for its regions."""
    total = np.zeros(explained.regions.count)
    for s, strength in zip(explained.primitives.sets, explained.primitives.strength, strict=True):
        inside = [j for j in range(explained.regions.count) if int(s) >> j & 1]
        total[inside] += strength / len(inside)
    labels = explained.regions.labels
    values = np.where(labels >= 0, total[np.maximum(labels, 0)], 0)
    return pictures.heat(explained.image, values, float(values.max()))


def _primitive(explained: Explained, component: Drawn) -> np.ndarray:
    """Draw the baseline with a component, its change there, the sample without it, and that change,
    with a bar for its strength.
    """
    added, lost = (
        pictures.change(explained.base, component.added),
        pictures.change(explained.image, component.without),
    )
    row = [
        pictures.plain(component.added),
        pictures.heat(explained.base, added, float(added.max())),
        pictures.plain(component.without),
        pictures.heat(explained.image, lost, float(lost.max())),
    ]
    whole = pictures.beside(
        [pictures.outlined(picture, explained.regions, component.chosen) for picture in row]
    )
    strongest = float(explained.primitives.strength.max())
    return pictures.below(
        [whole, pictures.bar(component.numbers["strength"] / strongest, whole.shape[1])]
    )


def to_html(explained: Explained, drawn: Mapping[str, np.ndarray]) -> bytes:
    top = [
        ("image.png", "the image"),
        (
            "baseline.png",
            "the baseline, from mean features: what is right here already, no primitive drew",
        ),
        ("regions.png", "the regions"),
        ("strength.png", "strength of the primitives, by region"),
    ]
    parts = [page.figure(drawn[name], caption) for name, caption in top]
    if "edited.png" in drawn:
        parts += [
            page.heading("Edited"),
            page.figure(drawn["edited.png"], "before, after, and where they differ"),
        ]
    parts += [
        page.heading("Primitives, strongest first"),
        page.words(
            "In each row: the baseline with the primitive, what that changes, the image without "
            "the primitive, what that changes. "
            "Its regions are outlined; the bar is its strength."
        ),
    ]
    for k, component in enumerate(explained.drawn):
        n = component.numbers
        caption = (
            f"regions {name_of(component.chosen)}: strength {page.number(n['strength'])}; "
            f"{_percent(n['inside'])} of its change "
            f"lies in them ({_percent(n['area'])} of the image; random vectors "
            f"{_percent(n['inside, random vectors'])})"
        )
        parts.append(page.figure(drawn[f"primitive-{k + 1:02}.png"], caption))
    if not explained.drawn:
        parts.append(page.words("No component is above its noise floor."))
    parts += [page.heading("What was measured"), page.words(TAUTOLOGY, note=True)]
    parts += (
        [page.words(GATED, note=True)] if explained.primitives.facts["demands"] == "gated" else []
    )
    for name, values in explained.measured.items():
        parts += [page.heading(name), page.facts(values)]
    if explained.drawn:
        columns = list(explained.drawn[0].numbers)
        parts += [
            page.heading("Boundedness and consistency of what is shown"),
            page.table(
                ("regions", *columns),
                [
                    (name_of(component.chosen), *component.numbers.values())
                    for component in explained.drawn
                ],
            ),
        ]
    parts += [page.heading("How it was found"), page.facts(explained.primitives.facts)]
    return page.page(explained.title, parts)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"
