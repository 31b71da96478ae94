"""Show which part of a layer's features draws which region of an image: one seed is decomposed into
primitives, published as a report or as an edited picture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.progress import Advance, Listener, silent
from ..errors import UsageError
from .context import cores
from .generators import LoadedGenerator
from .limits import check_numbers
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from ..core.graph import Exportable
    from ..explain.lattice import Floats
    from ..explain.primitives import Edit, Primitives, Settings
    from ..explain.report import Explained
    from ..explain.split import CutLayer, Split

REPORT = "report.json"
DEMANDS = ("gated", "optimised")


@dataclass(frozen=True)
class ExplainSettings:
    """Say which image is decomposed, at which layer, and what is measured of its primitives."""

    seed: int = 0
    label: int | None = None  # class of the image; None: seed modulo the number of classes
    layer: str = "mid"  # where to cut: a name of list_layers, a part of one, or "mid"
    step: int | None = None  # step of the sampler, from 1; None: the middle one
    regions: str = "3x3"  # a grid, rows x columns, or a mask PNG with one colour for each part
    # one of DEMANDS: gated takes seconds; optimised takes minutes and is closest to the paper
    demands: str = "gated"
    baseline: int = 1000  # seeds whose mean features are the baseline
    others: int = 0  # further seeds to compare the strongest primitives with
    # optimised demands: solve again from another start to measure how stable they are
    repeat: bool = False
    show: int = 12  # number of primitives to show
    edits: tuple[str, ...] = ()  # "S=2,5:0.0" sets a strength, "S=2,5:seed11" takes that seed's
    threads: int = 0  # CPU threads; 0 takes all cores
    overwrite: bool = False  # replace an earlier report

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.demands not in DEMANDS:
            raise UsageError(
                "E-USAGE", f"--demands must be {' or '.join(DEMANDS)}, got {self.demands!r}"
            )
        if self.repeat and self.demands == "gated":
            raise UsageError(
                "E-USAGE",
                "--repeat needs --demands optimised: gated demands have no random starting point "
                "and would not change",
            )


@dataclass(frozen=True)
class ExplainResult:
    """Hold a published report; `explained` has its numbers, vectors and images as arrays."""

    out: Path
    about: Mapping[str, Any]
    explained: Explained

    def report(self) -> dict[str, Any]:
        """Return the content of report.json, without its schema version."""
        from ..explain.report import to_json

        return {"about": dict(self.about), **to_json(self.explained)}

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen explain --json` prints, without its outer frame."""
        return {"out": str(self.out), **self.report()}


@dataclass(frozen=True)
class LayerList:
    """List where a generator can be cut, in the order in which its graphs run."""

    source: str
    layers: tuple[CutLayer, ...]
    steps: int  # number of sampler steps

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen layers --json` prints, without its outer frame."""
        rows = [
            {
                "layer": layer.name,
                "numbers": layer.cut.numbers,
                "maps": [list(shape) for shape in layer.cut.maps.values()],
                "beside": list(layer.cut.beside),
            }
            for layer in self.layers
        ]
        return {"source": self.source, "layers": rows, "steps": self.steps}


def list_layers(generator: LoadedGenerator) -> LayerList:
    """Return the layers at which explain_generator can decompose features."""
    from ..explain.split import layers

    model = generator.generator
    return LayerList(generator.name, tuple(layers(model.graphs())), len(model.sampler.timesteps))


def explain_generator(
    generator: LoadedGenerator,
    out: str | Path,
    settings: ExplainSettings | None = None,
    listen: Listener = silent,
) -> ExplainResult:
    """Decompose one seed's features into primitives and publish the folder `out`: pictures,
    index.html and report.json.

    Raises UsageError for a label, layer, step, region or edit that this generator does not have.
    """
    from ..core import files
    from ..explain import primitives
    from ..explain.report import Explained

    settings, out = settings or ExplainSettings(), Path(out)
    files.check_target(out, REPORT, settings.overwrite)
    with torch_threads(settings.threads or cores()):
        cut = _CutGenerator(generator.generator, settings, listen)
        split = cut.split(settings.seed)
        decomposition = cut.decomposed(split)
        edited = _edited(cut, split, decomposition) if cut.edits else None
        explained = Explained(
            cut.title(generator.name),
            cut.regions,
            split.image.numpy(),
            primitives.images(split, split.baseline[None])[0],
            decomposition,
            primitives.draw(split, decomposition, cut.regions, settings.show),
            _measured(cut, split, decomposition),
            edited,
        )
    result = ExplainResult(out, cut.about(generator.name), explained)
    _publish(result, settings.overwrite)
    return result


def edit_image(
    generator: LoadedGenerator,
    out: str | Path,
    settings: ExplainSettings,
    listen: Listener = silent,
) -> Path:
    """Write one PNG with the seed's image, the image after `settings.edits`, and their difference;
    return its path.

    Raises UsageError without edits or if the folder to write into does not exist.
    """
    from ..core import images
    from ..explain.report import before_after

    out = Path(out)
    if not settings.edits:
        raise UsageError("E-OUT", "-o must be the folder to write, or a .png file with --edit")
    if not out.parent.is_dir():
        raise UsageError("E-OUT", "the folder to write into does not exist", path=out.parent)
    with torch_threads(settings.threads or cores()):
        cut = _CutGenerator(generator.generator, settings, listen)
        split = cut.split(settings.seed)
        edited = _edited(cut, split, cut.decomposed(split))
    images.save_png(out, before_after(split.image.numpy(), edited))
    return out


def check_label(generator: Exportable, label: int | None) -> None:
    """Raise UsageError for a class that the generator does not have."""
    classes = generator.latent.classes
    if label is not None and not 0 <= label < classes:
        raise UsageError(
            "E-LABEL", f"--label {label}: this generator has {classes} classes, numbered from 0"
        )


class _CutGenerator:
    """Cut a generator at one layer and step, and compute the primitives of any of its
    seeds there.
    """

    def __init__(self, generator: Exportable, settings: ExplainSettings, listen: Listener) -> None:
        from ..explain import primitives
        from ..explain.regions import regions
        from ..explain.split import Way, layer

        check_label(generator, settings.label)
        self.settings, self.listen = settings, listen
        self.regions = regions(settings.regions, *generator.image_shape[1:])
        self.edits = [parse_edit(text, self.regions.count) for text in settings.edits]
        self.steps = len(generator.sampler.timesteps)
        self.step = (self.steps + 1) // 2 if settings.step is None else settings.step
        if not 1 <= self.step <= self.steps:
            raise UsageError("E-USAGE", f"--step {self.step}: this sampler has {self.steps}")
        self.layer = layer(generator.graphs(), settings.layer)
        self._way = Way(generator, self.layer, self.step)
        with listen.progress("baseline"):
            self._baseline = self._way.baseline(settings.baseline)
        self.decomposition = primitives.Settings(self.regions, settings.demands)

    def split(self, seed: int) -> Split:
        return self._way.split(seed, self.settings.label, self._baseline)

    def decomposed(self, split: Split, how: Settings | None = None) -> Primitives:
        """Return a seed's primitives; `how` replaces the settings that were asked for."""
        from ..explain.primitives import decompose

        running: dict[str, Advance] = {}
        with ExitStack() as stack:

            def advance(label: str, more: int, total: int) -> None:
                if label not in running:
                    running[label] = stack.enter_context(self.listen.progress(label, total))
                running[label](more)

            return decompose(split, how or self.decomposition, advance)

    def title(self, source: str) -> str:
        return (
            f"{source}, seed {self.settings.seed}: {self.layer.name}, step {self.step} of "
            f"{self.steps}, {self.regions.count} regions, {self.settings.demands} demands"
        )

    def about(self, source: str) -> dict[str, Any]:
        """Return what the report says of how it was made."""
        from ..explain.regions import LATTICE

        return {
            "source": source,
            "seed": self.settings.seed,
            "label": self.settings.label,
            "layer": self.layer.name,
            "step": self.step,
            "regions": self.regions.count,
            "baseline": self.settings.baseline,
            "demands": self.settings.demands,
            "lattice": self.regions.count <= LATTICE,
        }


def _publish(result: ExplainResult, overwrite: bool) -> None:
    from ..core import files, images
    from ..explain import report

    drawings = report.drawings(result.explained)
    with files.publish_alone(result.out, REPORT, overwrite) as folder:
        for name, pixels in drawings.items():
            files.put(folder / name, images.png(pixels))
        files.put(folder / "index.html", report.to_html(result.explained, drawings))
        document = {"schema_version": 1, **result.report()}
        files.put(folder / REPORT, files.to_json(document))


def _measured(
    cut: _CutGenerator, split: Split, decomposition: Primitives
) -> dict[str, dict[str, Any]]:
    """Return the measurements that the report shows beside the pictures, by heading."""
    from ..explain import primitives

    settings, count = cut.settings, cut.regions.count
    rng = np.random.default_rng(0)
    measured: dict[str, dict[str, Any]] = {
        "Sparsity": primitives.sparsity(decomposition),
        "Additivity (error as a share)": primitives.additivity(decomposition, count, rng),
        "PSNR on demanded regions (dB)": primitives.faithful(
            split, decomposition, cut.regions, rng
        ),
    }
    for seed in range(settings.seed + 1, settings.seed + 1 + settings.others):
        measured[f"Transfer: strongest sets found again in seed {seed}"] = primitives.shared(
            decomposition, cut.decomposed(cut.split(seed)), count
        )
    if settings.repeat:
        start = replace(cut.decomposition.solver, start=0.01, seed=2)
        again = cut.decomposed(split, replace(cut.decomposition, solver=start))
        measured["Stability: the same seed from another start"] = primitives.shared(
            decomposition, again, count
        )
    return measured


def _edited(cut: _CutGenerator, split: Split, decomposition: Primitives) -> Floats:
    """Return the image (c, h, w) after the edits. Raises UsageError if a seed lacks a primitive."""
    from ..explain import primitives
    from ..explain.regions import name_of

    seeds = sorted({edit.donor for edit in cut.edits if edit.donor is not None})
    donors = {seed: cut.decomposed(cut.split(seed)) for seed in seeds}
    for edit in cut.edits:
        known = [
            chosen
            for chosen in decomposition.order
            if edit.donor is None or chosen in donors[edit.donor].order
        ]
        if edit.chosen not in known:
            whose = f"seed {cut.settings.seed}" + (
                f" or seed {edit.donor}" if edit.donor is not None else ""
            )
            strongest = "; ".join(name_of(chosen) for chosen in known[:8])
            raise UsageError(
                "E-EDIT",
                f"--edit: {whose} has no primitive of regions {name_of(edit.chosen)}",
                hint=f"the strongest are those of regions {strongest}",
            )
    return primitives.edited(split, decomposition, cut.edits, donors)


def parse_edit(text: str, count: int) -> Edit:
    """Parse "S=2,5:0.0" as a strength or "S=2,5:seed11" as another seed's features, for a picture
    of `count` regions.

    Raises UsageError for anything else.
    """
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
            "--edit must be S=REGIONS:STRENGTH such as S=2,5:0.0 with a strength in [-100, 100], "
            f"or S=REGIONS:seedSEED such as S=2,5:seed11, got {text!r}",
        )
    donor = int(swapped[1]) if swapped else None
    return Edit(set_of(name.removeprefix("S="), count), strength, donor)
