"""edgegen finetune --recover: an adapter that makes INT8 images more like the full-precision ones
of the same seeds.

Whether it does is measured with the runtime that ships, on seeds that nothing was trained or judged
on: before and after.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cli import output
from ...core.files import publish, read_json, to_json
from ...core.images import to_uint8
from ...core.plan import Plan
from ...core.runtime import Pipeline
from ...core.seeds import RECOVERY_JUDGEMENT
from ...errors import GateFailed, UsageError
from ...evidence import reference
from ...evidence.compare import FullSide, compare, first_look
from ...evidence.distances import squared_error
from ...evidence.features import feature_network
from ...export import STAND_IN, qdq, runtime
from ...export import onnx as onnx_files
from ...export.rounding import rounding
from ..context import Context
from ..export.calibration import calibrated
from ..export.hosted import hosted
from ..export.plans import check_plan
from ..generators import LoadedGenerator, load_generator
from .base import Base, open_base
from .periodic_eval import FILE

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from ...training.adapt.files import Adapter
    from ...training.adapt.recover import Course

# of the images that are compared; nothing was learnt from these, calibrated on or looked at
SAMPLES = 128  # calibrated on, as export does
STEPS, BATCH, RATE = 150, 8, 2e-3
SIDES = ("before", "after")
BUDGET = 0.02  # of compare: nothing here hangs on it, all images are looked at once


def recover(
    name: str,
    plan: Path,
    out: Path,
    rank: int | None,
    steps: int | None,
    batch: int | None,
    rate: float | None,
    seed: int | None,
    threads: int,
    weights: Path | None,
) -> None:
    """Learn, measure, and publish the run; under rejected/ and with GateFailed where the images are
    not nearer.

    The plan's rules say what is rounded. Scales are measured on the base, before and after: export
    does so with the same seeds.
    """
    import torch

    from ...training.adapt import site
    from ...training.adapt.recover import Course, Subject
    from ...training.adapt.recover import recover as learn

    given = Plan.read(plan)
    base, source = open_base(name), load_generator(name)
    if source.scales is not None:
        raise UsageError(
            "E-SOURCE",
            "this run has recovered already",
            path=Path(name),
            hint="name the base it recovered from",
        )
    if not source.reference.is_file():
        raise UsageError(
            "E-FID-REF",
            "there are no reference statistics to prove the images against",
            path=source.reference,
        )
    if out.exists():
        raise UsageError(
            "E-OUT-EXISTS", "a run is there already", path=out, hint="choose another --out"
        )
    course = Course(
        rank or 2 * base.family.tuning.rank, steps or STEPS, batch or BATCH, rate or RATE, seed or 0
    )
    torch.set_num_threads(threads)
    master = site.fitted(
        base.family, base.config, base.tensors, base.config.classes, course.seed, base.path
    )
    graphs = source.generator.graphs()
    with output.progress("exporting FP32 graphs"):
        traced = {graph: onnx_files.traced(g, graph) for graph, g in graphs.items()}
    models = {graph: model for graph, (model, _) in traced.items()}
    check_plan(given, models, plan)
    even, files = _quantized(source, models, given, threads)
    subjects = {k: Subject(g, traced[k][1], rounding(even[k], files[k])) for k, g in graphs.items()}
    with output.progress("recovering", course.steps, "steps") as advance:
        learnt = learn(base.family, base.config, master, subjects, course, lambda: advance(1))
    made = replace(
        source,
        generator=site.plain(base.family, base.config, learnt.adapter.merged(master, out)),
        scales=source.generator,
    )
    _, after = _quantized(
        made,
        {k: onnx_files.to_onnx(g, k) for k, g in made.generator.graphs().items()},
        given,
        threads,
    )
    full, *sides = (hosted(m, source.generator, threads) for m in (models, files, after))
    found = {"student": learnt.looks, **_judged(source, full, sides, weights)}
    _write(out, base, source, master, learnt.adapter, course, found)
    output.result("finetune", {"out": str(out), "recover": found})
    output.table(
        ["INT8 against full precision, same seeds", "before", "after"],
        [
            ["PSNR of all pixels, dB", *(_decibels(found[k]["psnr_db"]) for k in SIDES)],
            [
                "median PSNR of an image, dB",
                *(_decibels(found[k]["psnr_median_db"]) for k in SIDES),
            ],
            ["change of the Frechet distance", *(_percent(found[k]["change"]) for k in SIDES)],
        ],
    )
    print(
        f"recovered: {out}  squared error x {_said(found)}; next: edgegen export {out} --int8 -o "
        "out/"
    )


def _quantized(
    source: LoadedGenerator, models: dict[str, ModelProto], plan: Plan, threads: int
) -> tuple[dict[str, ModelProto], dict[str, ModelProto]]:
    """Even graphs and their Q/DQ files: as export makes them, with the rules of `plan`."""
    calibration = calibrated(source, models, SAMPLES, Context(threads, None, output.terminal))
    even, measured = calibration.models, calibration.plan
    dialect, rules = runtime(STAND_IN).dialect, Plan(plan.rules, measured.ranges)
    return even, {
        graph: qdq.quantize(model, graph, rules, dialect) for graph, model in even.items()
    }


def _judged(
    source: LoadedGenerator, full: Pipeline, sides: Sequence[Pipeline], weights: Path | None
) -> dict[str, Any]:
    """What looks.json keeps. ratio: of mean squared errors of images, with a 95 % interval over
    pairs (delta method).
    """
    stored = reference.read(source.reference)
    side = FullSide(
        full,
        feature_network(stored.network, weights, stored.size),
        stored,
        RECOVERY_JUDGEMENT.first,
    )
    count, errors, found = first_look(stored), [], {}
    with output.progress("comparing images", 2 * count) as advance:
        for name, pipeline in zip(SIDES, sides, strict=True):
            seen: list[np.ndarray] = []

            def kept(
                seeds: Sequence[int], pipeline: Pipeline = pipeline, seen: list[np.ndarray] = seen
            ) -> np.ndarray:
                seen.append(pipeline(seeds))
                advance(len(seeds))
                return seen[-1]

            found[name] = compare(side, kept, BUDGET, count, count).to_json()
            errors.append(squared_error(side.pixels(0, count), to_uint8(np.concatenate(seen))))
    word: dict[str, Any] = {**found, "ratio": _ratio(*errors)}
    return {
        **word,
        "better": not refusal(word),
        "what": f"INT8 images by {STAND_IN} against full-precision images of the base, {count} "
        f"seeds from {RECOVERY_JUDGEMENT.first}",
    }


def refusal(found: Mapping[str, Any]) -> str:
    """Why a recovery is none: images must be nearer pixel by pixel and as a set; nothing where it
    is one.
    """
    if not found["ratio"]["high"] < 1:
        return f"the INT8 images came no nearer: squared error x {_said(found)}"
    before, after = (found[side]["change"] for side in SIDES)
    if not abs(after["value"]) <= abs(before["value"]):
        return (
            f"the INT8 images came nearer pixel by pixel (squared error x {_said(found)}), but not "
            "as a set: "
            f"the Frechet distance changes by {_percent(after)}, before by {_percent(before)}"
        )
    return ""


def _ratio(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Of mean squared errors of the same seeds; 1 where nothing was to be recovered."""
    if not before.mean():
        return dict.fromkeys(("value", "low", "high"), 1.0)
    value = after.mean() / before.mean()
    reach = 1.96 * (after - value * before).std(ddof=1) / np.sqrt(len(after)) / before.mean()
    return {"value": float(value), "low": float(value - reach), "high": float(value + reach)}


def _decibels(value: float | None) -> str:
    return "no pixel differs" if value is None else f"{value:.2f}"


def _percent(change: Mapping[str, float]) -> str:
    return f"{change['value']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})"


def _said(found: Mapping[str, Any]) -> str:
    ratio = found["ratio"]
    return f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def _write(
    out: Path,
    base: Base,
    source: LoadedGenerator,
    master: dict[str, Tensor],
    adapter: Adapter,
    course: Course,
    found: dict[str, Any],
) -> None:
    """A run as a fine-tuning leaves it, without photos; GateFailed after it was kept elsewhere,
    where it is not better.
    """
    from ...training import checkpoint
    from ...training.adapt import site

    target = out if found["better"] else out.parent / "rejected" / out.name
    with publish(target, "run.json", overwrite=not found["better"]) as new:
        adapt = {
            "base": base.name,
            "origin_sha256": base.sha256,
            "base_sha256": site.write_base(new, master),
            "rank": course.rank,
        }
        site.write(new, adapter, {})
        shutil.copyfile(source.reference, new / "reference.safetensors")
        (new / FILE).write_bytes(to_json({"recover": found}))
        about = checkpoint.describe(base.family.name, base.config) | {
            "data": _data(source),
            site.ADAPTS: adapt,
            site.RECOVERS: vars(course),
        }
        (new / "run.json").write_bytes(to_json(about))
    if not found["better"]:
        raise GateFailed(
            "E-RECOVER",
            refusal(found),
            path=target,
            hint="try more --steps or another --rank",
            details=found,
        )


def _data(source: LoadedGenerator) -> dict[str, Any]:
    """Of the photos the base was trained on: none were looked at here."""
    data = source.about["data"]
    file = source.reference.with_name("run.json")
    classes = read_json(file)["data"].get("classes", []) if file.is_file() else []
    return {"sha256": data["sha256"], "images": data["images"], "classes": classes}
