"""One seed's primitives, from the generator to the report: what `edgegen explain` does without
--against.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import output
from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.graph import Generator
    from ..explain.primitives import Edit, Primitives, Settings
    from ..explain.split import Split, Way

MARK = "report.json"


@dataclass(frozen=True)
class Asked:
    """Which image, where it is cut, and what is shown; as the flags of `edgegen explain` say it."""

    what: str
    seed: int
    label: int | None
    layer: str
    step: int | None
    regions: str
    demands: str
    baseline: int
    others: int
    repeat: bool
    show: int
    edits: Sequence[str]


class Taken:
    """A generator's way to one cut, and the primitives of any seed there."""

    def __init__(self, made: Generator, asked: Asked) -> None:
        from ..explain import primitives
        from ..explain.regions import regions
        from ..explain.split import Way, layer

        if asked.label is not None and not 0 <= asked.label < made.latent.classes:
            raise UsageError(
                "E-LABEL",
                f"--label {asked.label}: this generator has {made.latent.classes} classes, from 0 "
                "on",
            )
        self.asked, self.parts = asked, regions(asked.regions, *made.image_shape[1:])
        self.edits = [edit_of(text, self.parts.count) for text in asked.edits]
        self.steps = len(made.sampler.timesteps)
        self.step = (self.steps + 1) // 2 if asked.step is None else asked.step
        if self.step > self.steps:
            raise UsageError("E-USAGE", f"--step {self.step}: this sampler has {self.steps}")
        self.place = layer(made.graphs(), asked.layer)
        self.way: Way = Way(made, self.place, self.step)
        with output.progress("baseline"):
            self.mean = self.way.baseline(asked.baseline)
        self.settings = primitives.Settings(self.parts, asked.demands)

    def split(self, seed: int) -> Split:
        return self.way.split(seed, self.asked.label, self.mean)

    def decomposed(self, split: Split, settings: Settings | None = None) -> Primitives:
        from ..explain.primitives import decompose

        bars: dict[str, Any] = {}
        with ExitStack() as stack:

            def advance(label: str, more: int, total: int) -> None:
                if label not in bars:
                    bars[label] = stack.enter_context(output.progress(label, total))
                bars[label](more)

            return decompose(split, settings or self.settings, advance)


def report(made: Generator, asked: Asked, out: Path, overwrite: bool) -> None:
    """Write the report, or the edited picture alone where `out` is a .png."""
    from ..core import files, images
    from ..explain import primitives
    from ..explain import report as pages
    from ..explain.regions import LATTICE

    taken = Taken(made, asked)
    split = taken.split(asked.seed)
    found = taken.decomposed(split)
    edited = _edited(taken, split, found) if taken.edits else None
    if out.suffix.lower() == ".png" and edited is not None:
        images.save_png(out, pages.before_after(split.image.numpy(), edited))
        output.result("explain", {"out": str(out)})
        print(f"before, after, difference: {out}")
        return
    parts, step = taken.parts, taken.step
    title = (
        f"{asked.what}, seed {asked.seed}: {taken.place.name}, step {step} of {taken.steps}, "
        f"{parts.count} regions, "
        f"{asked.demands} demands"
    )
    measured = _measured(taken, split, found)
    shown = primitives.draw(split, found, parts, asked.show)
    base = primitives.images(split, split.baseline[None])[0]
    whole = pages.Explained(title, parts, split.image.numpy(), base, found, shown, measured, edited)
    about = {
        "source": asked.what,
        "seed": asked.seed,
        "label": asked.label,
        "layer": taken.place.name,
        "step": step,
        "regions": parts.count,
        "baseline": asked.baseline,
        "demands": asked.demands,
        "lattice": parts.count <= LATTICE,
    }
    document: dict[str, Any] = {"schema_version": 1, "about": about, **pages.to_json(whole)}
    drawn = pages.drawings(whole)
    with files.publish(out, MARK, overwrite) as folder:
        for name, pixels in drawn.items():
            (folder / name).write_bytes(images.png(pixels))
        (folder / "index.html").write_bytes(pages.to_html(whole, drawn))
        (folder / MARK).write_bytes(files.to_json(document))
    rows = [
        [one["regions"], f"{one['strength']:.3g}", _share(one["inside"]), _share(one["area"])]
        for one in document["shown"]
    ]
    output.table(["regions", "strength", "change inside", "area"], rows)
    output.result(
        "explain",
        {
            "out": str(out),
            **{name: document[name] for name in document if name != "schema_version"},
        },
    )
    print(f"report: {out / 'index.html'}")


def _measured(taken: Taken, split: Split, found: Primitives) -> dict[str, dict[str, Any]]:
    """What the report says beside the pictures, by heading."""
    from dataclasses import replace

    import numpy as np

    from ..explain import primitives

    asked, parts, rng = taken.asked, taken.parts, np.random.default_rng(0)
    measured: dict[str, dict[str, Any]] = {
        "Sparsity": primitives.sparsity(found),
        "Additivity (error as a share)": primitives.additivity(found, parts.count, rng),
        "PSNR on demanded regions (dB)": primitives.faithful(split, found, parts, rng),
    }
    for seed in range(asked.seed + 1, asked.seed + 1 + asked.others):
        theirs = taken.decomposed(taken.split(seed))
        measured[f"Transfer: strongest sets found again in seed {seed}"] = primitives.shared(
            found, theirs, parts.count
        )
    if asked.repeat:
        start = replace(taken.settings.solver, start=0.01, seed=2)
        again = taken.decomposed(split, replace(taken.settings, solver=start))
        measured["Stability: the same seed from another start"] = primitives.shared(
            found, again, parts.count
        )
    return measured


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _edited(taken: Taken, split: Split, found: Primitives) -> Any:
    from ..explain import primitives
    from ..explain.regions import name_of

    seeds = sorted({edit.donor for edit in taken.edits if edit.donor is not None})
    donors = {seed: taken.decomposed(taken.split(seed)) for seed in seeds}
    for edit in taken.edits:
        known = [s for s in found.order if edit.donor is None or s in donors[edit.donor].order]
        if edit.chosen not in known:
            whose = f"seed {taken.asked.seed}" + (
                f" or seed {edit.donor}" if edit.donor is not None else ""
            )
            raise UsageError(
                "E-EDIT",
                f"--edit: {whose} has no primitive of regions {name_of(edit.chosen)}",
                hint="the strongest are those of regions "
                f"{'; '.join(name_of(s) for s in known[:8])}",
            )
    return primitives.edited(split, found, taken.edits, donors)


def edit_of(text: str, count: int) -> Edit:
    """ "S=2,5:0.0" is a strength, "S=2,5:seed11" another seed's; UsageError for anything else."""
    from ..explain.primitives import Edit
    from ..explain.regions import set_of

    name, _, value = text.partition(":")
    swapped = re.fullmatch(r"seed([0-9]{1,18})", value)
    try:
        strength = 1.0 if swapped else float(value)
    except ValueError:
        strength = math.nan
    if not name.startswith("S=") or not abs(strength) <= 100:
        raise UsageError(
            "E-EDIT",
            "--edit is S=REGIONS:STRENGTH such as S=2,5:0.0 with a strength in [-100, 100], or "
            f"S=REGIONS:seedSEED such as S=2,5:seed11, got {text!r}",
        )
    return Edit(
        set_of(name.removeprefix("S="), count), strength, int(swapped[1]) if swapped else None
    )
