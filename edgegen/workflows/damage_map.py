"""What INT8 damaged in a bundle's images, by layer, timestep and region: predicted, and checked by
putting layers back.

The INT8 side is the bundle's own Q/DQ files, on their runtime or the stand-in; a plan with one rule
more puts a layer back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calibrate.choose import multiplications
from ..cli import output
from ..core.plan import Plan
from ..core.samplers import sampler_from_json
from ..errors import InputError, UsageError
from ..export import onnx as onnx_files
from ..export import runtime
from .export.build import calibrated
from .export.hosted import hosted
from .export.quantized import Quantized
from .generators import LoadedGenerator, open_bundle

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..core.bundle import Bundle


@dataclass(frozen=True)
class Compared:
    """Which bundle, and which images of it; as the flags of `edgegen explain` say it."""

    bundle: str
    runtime: str | None
    regions: str
    seeds: Sequence[int]
    label: int | None
    quick: bool


def damage_map(
    source: LoadedGenerator, asked: Compared, out: Path, threads: int, overwrite: bool
) -> None:
    """Write the map; InputError for a bundle that was not made of this source."""
    from ..core import files, images
    from ..explain import damage_page
    from ..explain.agreement import Check
    from ..explain.regions import regions

    generator = source.generator
    if asked.label is not None and not 0 <= asked.label < generator.latent.classes:
        raise UsageError(
            "E-LABEL",
            f"--label {asked.label}: this generator has {generator.latent.classes} classes, from 0 "
            "on",
        )
    parts = regions(asked.regions, *generator.image_shape[1:])
    bundle = open_bundle(asked.bundle)
    if bundle.manifest.source != source.about:
        raise InputError(
            "E-SOURCE", f"the bundle was not exported from {source.name}", path=asked.bundle
        )
    if sampler_from_json(bundle.manifest.sampler) != generator.sampler:
        raise InputError(
            "E-SOURCE",
            f"the bundle samples otherwise than {source.name} does: it was exported with --steps",
            path=asked.bundle,
        )
    name = asked.runtime or next(iter(bundle.manifest.runtimes))
    plan, shipped = _shipped(bundle, name)
    models = {k: onnx_files.to_onnx(g, k) for k, g in generator.graphs().items()}
    even, measured = calibrated(source, models, bundle.manifest.calibration["samples"], threads)
    if plan.model not in ("", measured.model):
        output.note(
            "the bundle was calibrated otherwise than this source is now: layers are put back in "
            "graphs unlike its own"
        )
    if plan.last:
        output.note(
            f"of the bundle's steps {output.steps_in_fp32(plan.last)}; the map is of INT8 at all "
            "of them"
        )
    quantized = Quantized(source, even, plan, runtime(name), threads, output.terminal)
    full = hosted(models, generator, threads)(asked.seeds, asked.label)
    int8 = hosted(shipped, generator, threads, quantized.host)
    layers, found = quantized.attributed(parts.masks, asked.seeds, asked.label)
    removed = (
        None
        if asked.quick
        else quantized.removed(layers, int8, full, parts.masks, asked.seeds, asked.label)
    )
    check = None if removed is None else Check(found.parts.sum(1), removed)
    cost = {k: multiplications(m) for k, m in even.items()}
    total = sum(sum(one.values()) for one in cost.values())
    title = f"{source.name}: what INT8 on {name} damages" + (
        " where all steps run in it" if plan.last else ""
    )
    made = damage_page.Damaged(
        title,
        parts,
        asked.seeds,
        full,
        int8(asked.seeds, asked.label),
        layers,
        [cost[one.graph][one.name] / total for one in layers],
        found,
        check,
    )
    about = {
        "source": source.name,
        "runtime": name,
        "executed_by": quantized.host.name,
        "first_seed": asked.seeds[0],
        "seeds": len(asked.seeds),
        "label": asked.label,
        "regions": asked.regions,
        "weights_sha256": bundle.manifest.source.get("weights_sha256"),
    }
    document: dict[str, Any] = {"schema_version": 1, "about": about, **made.to_json()}
    drawn = made.drawings()
    with files.publish(out, "report.json", overwrite) as folder:
        for file, pixels in drawn.items():
            (folder / file).write_bytes(images.png(pixels))
        (folder / "index.html").write_bytes(made.to_html(drawn))
        (folder / "report.json").write_bytes(files.to_json(document))
    output.table(*made.table(10))
    output.result(
        "explain",
        {"out": str(out), **{key: document[key] for key in document if key != "schema_version"}},
    )
    print(f"report: {out / 'index.html'}")


def _shipped(bundle: Bundle, name: str) -> tuple[Plan, dict[str, ModelProto]]:
    """A runtime's plan and its Q/DQ files by graph."""
    import onnx

    built = bundle.manifest.runtimes.get(name)
    if built is None:
        known = ", ".join(bundle.manifest.runtimes)
        raise UsageError(
            "E-BUNDLE-RUNTIME",
            f"the bundle has no INT8 files for {name}; it has {known}",
            path=bundle.root,
        )
    plan = Plan.read(bundle.path(f"int8/{name}/plan.json"))
    return plan, {graph: onnx.load(bundle.path(file)) for graph, file in built.onnx.items()}
