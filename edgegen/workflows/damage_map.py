"""Map what INT8 damaged in a bundle's images by layer, timestep and region. The damage is
predicted, and the prediction is checked by putting layers back to FP32.

The INT8 side is the bundle's own Q/DQ files, on their runtime or the stand-in; a plan with one more
rule puts a layer back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibrate.choose import multiplications
from ..core import files
from ..core.fp32_last_steps import steps_in_fp32
from ..core.plan import Plan
from ..core.progress import Listener, silent
from ..core.runtime import Runtime
from ..core.samplers import sampler_from_json
from ..core.seeds import DAMAGE_MAP
from ..errors import InputError, TrustError, UsageError
from ..export import onnx as onnx_files
from ..export import runtime
from .bundles import read_bundle
from .context import Context, cores
from .explain import REPORT, check_label
from .export.attempts import weights_of
from .export.calibration import calibrated
from .export.hosted import hosted
from .export.quantized import Quantized
from .generators import LoadedGenerator
from .limits import check_numbers
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..core.bundle import Bundle
    from ..explain.damage_page import Damaged
    from ..explain.regions import Regions


@dataclass(frozen=True)
class DamageSettings:
    """Say which runtime's INT8 files are examined, and on which images."""

    runtime: str | None = None  # None: the bundle's first runtime
    regions: str = "3x3"  # a grid, rows x columns, or a mask PNG with one colour for each part
    first_seed: int = DAMAGE_MAP.first
    seeds: int = 16  # number of images
    label: int | None = None  # class of the images; None: seed modulo the number of classes
    quick: bool = False  # skip the check of the prediction by putting layers back
    threads: int = 0  # CPU threads; 0 takes all cores
    overwrite: bool = False  # replace an earlier map

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class DamageMap:
    """Hold a published map; `damaged` has its numbers and images as arrays."""

    out: Path
    about: Mapping[str, Any]
    damaged: Damaged

    def report(self) -> dict[str, Any]:
        """Return the content of report.json, without its schema version."""
        return {"about": dict(self.about), **self.damaged.to_json()}

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen damage --json` prints, without its outer frame."""
        return {"out": str(self.out), **self.report()}


def map_damage(
    generator: LoadedGenerator,
    bundle: str | Path,
    out: str | Path,
    settings: DamageSettings | None = None,
    listen: Listener = silent,
) -> DamageMap:
    """Compare a bundle's INT8 with the generator it was exported from, on the same seeds, and
    publish the folder `out`: pictures, index.html and report.json.

    Raises InputError for a bundle that was not made from this generator, and UsageError for a
    runtime, label or region that does not exist.
    """
    from ..explain.regions import regions

    settings, out = settings or DamageSettings(), Path(out)
    files.check_target(out, REPORT, settings.overwrite)
    check_label(generator.generator, settings.label)
    parts = regions(settings.regions, *generator.generator.image_shape[1:])
    opened = _opened(generator, str(bundle))
    name = settings.runtime or next(iter(opened.manifest.runtimes))
    plan, shipped = _shipped(opened, name)
    threads = settings.threads or cores()
    with torch_threads(threads):
        models, quantized = _quantized(generator, opened, plan, runtime(name), threads, listen)
        damaged = _damaged(quantized, models, shipped, parts, settings)
    about = {
        "source": generator.name,
        "runtime": name,
        "executed_by": quantized.host.name,
        "first_seed": settings.first_seed,
        "seeds": settings.seeds,
        "label": settings.label,
        "regions": settings.regions,
        "weights_sha256": opened.manifest.source.get("weights_sha256"),
    }
    result = DamageMap(out, about, damaged)
    _publish(result, settings.overwrite)
    return result


def _quantized(
    source: LoadedGenerator,
    bundle: Bundle,
    plan: Plan,
    target: Runtime,
    threads: int,
    listen: Listener,
) -> tuple[dict[str, ModelProto], Quantized]:
    """Return the source's ONNX models in full precision, and the bundle's plan applied to
    them.

    Raises TrustError if the manifest's number of calibration samples is not a positive integer.
    """
    models = {k: onnx_files.to_onnx(g, k) for k, g in source.generator.graphs().items()}
    samples = bundle.manifest.calibration.get("samples")
    if type(samples) is not int or samples < 1:
        raise TrustError(
            "E-MANIFEST", f"calibration.samples: it says {samples!r}", path=bundle.root
        )
    calibration = calibrated(source, models, samples, Context(threads, None, listen))
    even, measured = calibration.models, calibration.plan
    if plan.model not in ("", measured.model):
        listen.note(
            "this source differs from the one on which the bundle was calibrated, so the layers "
            "are put back in graphs that differ from the bundle's"
        )
    if plan.last:
        listen.note(
            f"of the bundle's steps {steps_in_fp32(plan.last)}; the map is of INT8 at all of them"
        )
    return models, Quantized(source, even, plan, target, threads, listen)


def _damaged(
    quantized: Quantized,
    models: Mapping[str, ModelProto],
    shipped: Mapping[str, ModelProto],
    parts: Regions,
    settings: DamageSettings,
) -> Damaged:
    """Measure the damage; `models` are in full precision, `shipped` are the bundle's INT8 files by
    graph.
    """
    from ..explain.agreement import Check
    from ..explain.damage_page import Damaged

    source, label = quantized.source, settings.label
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    full = hosted(models, source.generator, quantized.threads)(seeds, label)
    int8 = hosted(shipped, source.generator, quantized.threads, quantized.host)
    layers, attribution = quantized.attributed(parts.masks, seeds, label)
    check = None
    if not settings.quick:
        removed = quantized.removed(layers, int8, full, parts.masks, seeds, label)
        check = Check(attribution.parts.sum(1), removed)
    cost = {graph: multiplications(model) for graph, model in quantized.even.items()}
    total = sum(sum(by_layer.values()) for by_layer in cost.values())
    return Damaged(
        f"{source.name}: what INT8 on {quantized.target.name} damages"
        + (" where all steps run in it" if quantized.plan.last else ""),
        parts,
        seeds,
        full,
        int8(seeds, label),
        layers,
        [cost[layer.graph][layer.name] / total for layer in layers],
        attribution,
        check,
    )


def _opened(source: LoadedGenerator, path: str) -> Bundle:
    """Open the bundle. Raises InputError if it was not made from this source or has another
    sampler.
    """
    bundle = read_bundle(path)
    if weights_of(bundle.manifest.source) != weights_of(source.about):
        raise InputError("E-SOURCE", f"the bundle was not exported from {source.name}", path=path)
    if sampler_from_json(bundle.manifest.sampler) != source.generator.sampler:
        raise InputError(
            "E-SOURCE",
            f"the bundle uses another sampler than {source.name}: it was exported with --steps",
            path=path,
        )
    return bundle


def _shipped(bundle: Bundle, name: str) -> tuple[Plan, dict[str, ModelProto]]:
    """Return a runtime's plan and its Q/DQ models by graph. Raises UsageError if the bundle has
    none.
    """
    from ..export.check import checked

    built = bundle.manifest.runtimes.get(name)
    if built is None:
        known = ", ".join(bundle.manifest.runtimes)
        raise UsageError(
            "E-BUNDLE-RUNTIME",
            f"the bundle has no INT8 files for {name}; it has {known}",
            path=bundle.root,
        )
    file = f"int8/{name}/plan.json"
    plan = Plan.parsed(bundle.read(file), bundle.path(file))
    sources = bundle.sources(runtime(name), "int8")
    return plan, {graph: checked(file)[1] for graph, file in sources.items()}


def _publish(result: DamageMap, overwrite: bool) -> None:
    from ..core import images

    drawings = result.damaged.drawings()
    with files.publish_alone(result.out, REPORT, overwrite) as folder:
        for name, pixels in drawings.items():
            files.put(folder / name, images.png(pixels))
        files.put(folder / "index.html", result.damaged.to_html(drawings))
        document = {"schema_version": 1, **result.report()}
        files.put(folder / REPORT, files.to_json(document))
