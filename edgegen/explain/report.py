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
    """All that is known of one seed. numbers: finite JSON values or None; base, image (c, h, w)."""

    title: str
    regions: Regions
    image: Floats
    base: Floats
    found: Primitives
    drawn: Sequence[Drawn]
    measured: Mapping[str, Mapping[str, Any]]
    edited: Floats | None = None


def to_json(made: Explained) -> dict[str, Any]:
    """Every component's regions, strength and floor, and all that was measured."""
    found = made.found
    components = [
        {"regions": name_of(int(s)), "strength": float(k), "floor": float(f)}
        for s, k, f in zip(found.sets, found.strength, found.floor, strict=True)
    ]
    shown = [{"regions": name_of(one.chosen), **one.numbers} for one in made.drawn]
    whole = {"found": found.facts, **made.measured, "shown": shown, "components": components}
    cleaned: dict[str, Any] = _finite(whole)
    return cleaned


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drawings(made: Explained) -> dict[str, np.ndarray]:
    """Pictures by file name."""
    regions, image = made.regions, made.image
    out = {
        "image.png": pictures.plain(image),
        "baseline.png": pictures.plain(made.base),
        "regions.png": pictures.outlined(pictures.plain(image), regions, numbers=True),
        "strength.png": pictures.outlined(_by_region(made), regions, numbers=True),
    }
    out |= {f"primitive-{k + 1:02}.png": _primitive(made, one) for k, one in enumerate(made.drawn)}
    if made.edited is not None:
        out["edited.png"] = before_after(image, made.edited)
    return out


def before_after(image: Floats, edited: Floats) -> np.ndarray:
    """The sample, the edited one, and where they differ."""
    apart = pictures.change(image, edited)
    return pictures.beside(
        [
            pictures.plain(image),
            pictures.plain(edited),
            pictures.heat(image, apart, float(apart.max())),
        ]
    )


def _by_region(made: Explained) -> np.ndarray:
    """Each region's part in the strengths: a component counts in equal parts for its regions."""
    total = np.zeros(made.regions.count)
    for s, strength in zip(made.found.sets, made.found.strength, strict=True):
        inside = [j for j in range(made.regions.count) if int(s) >> j & 1]
        total[inside] += strength / len(inside)
    labels = made.regions.labels
    values = np.where(labels >= 0, total[np.maximum(labels, 0)], 0)
    return pictures.heat(made.image, values, float(values.max()))


def _primitive(made: Explained, one: Drawn) -> np.ndarray:
    """The baseline with it, what it changes there, the sample without it, what that changes; a bar
    says how strong it is.
    """
    added, lost = pictures.change(made.base, one.added), pictures.change(made.image, one.without)
    row = [
        pictures.plain(one.added),
        pictures.heat(made.base, added, float(added.max())),
        pictures.plain(one.without),
        pictures.heat(made.image, lost, float(lost.max())),
    ]
    whole = pictures.beside(
        [pictures.outlined(picture, made.regions, one.chosen) for picture in row]
    )
    strongest = float(made.found.strength.max())
    return pictures.below(
        [whole, pictures.bar(one.numbers["strength"] / strongest, whole.shape[1])]
    )


def to_html(made: Explained, drawn: Mapping[str, np.ndarray]) -> bytes:
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
    for k, one in enumerate(made.drawn):
        n = one.numbers
        caption = (
            f"regions {name_of(one.chosen)}: strength {page.number(n['strength'])}; "
            f"{_percent(n['inside'])} of its change "
            f"lies in them ({_percent(n['area'])} of the image; random vectors "
            f"{_percent(n['inside, random vectors'])})"
        )
        parts.append(page.figure(drawn[f"primitive-{k + 1:02}.png"], caption))
    if not made.drawn:
        parts.append(page.words("No component is above its noise floor."))
    parts += [page.heading("What was measured"), page.words(TAUTOLOGY, note=True)]
    parts += [page.words(GATED, note=True)] if made.found.facts["demands"] == "gated" else []
    for name, values in made.measured.items():
        parts += [page.heading(name), page.facts(values)]
    if made.drawn:
        columns = list(made.drawn[0].numbers)
        parts += [
            page.heading("Boundedness and consistency of what is shown"),
            page.table(
                ("regions", *columns),
                [(name_of(one.chosen), *one.numbers.values()) for one in made.drawn],
            ),
        ]
    parts += [page.heading("How it was found"), page.facts(made.found.facts)]
    return page.page(made.title, parts)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"
