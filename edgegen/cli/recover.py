"""edgegen finetune --recover: an adapter that makes INT8 images more like the full-precision ones of the same seeds.

Whether it does is measured with the runtime that ships, on seeds that nothing was trained or judged on: before and after.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import publish, read_json, to_json
from ..core.images import to_uint8
from ..core.plan import Plan
from ..errors import GateFailed, InputError, UsageError
from ..evidence.bench import record
from ..evidence.distances import PairedPsnr, squared_error
from ..export import STAND_IN, qdq, runtime
from ..export import onnx as onnx_files
from ..export.rounding import rounding
from . import output
from .base import Base, open_base
from .build import calibrated
from .hosted import hosted
from .looks import FILE
from .source import Source, torch_pipeline, trained

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from ..training.adapt.files import Adapter
    from ..training.adapt.recover import Course

LEARNT_SEED = 4_000_000  # of the trajectories that are learnt from; no verdict, search or look uses these
LEARNT = 64
JUDGED_SEED = 5_000_000  # of the images that are compared
JUDGED = 128
SAMPLES = 128            # calibrated on, as export does
STEPS, BATCH, RATE = 400, 16, 5e-4


def recover(name: str, plan: Path, out: Path, rank: int | None, steps: int | None, batch: int | None, rate: float | None,
            seed: int | None, threads: int) -> None:
    """Learn, measure, and publish the run; under rejected/ and with GateFailed where the images are not nearer.

    The plan's rules say what is rounded. Ranges are measured anew, before and after: export does so with the same seeds.
    """
    import torch

    from ..training.adapt import site
    from ..training.adapt.recover import Course
    from ..training.adapt.recover import recover as learn

    given = Plan.read(plan)
    base, source = open_base(name), trained(name)
    if not source.reference.is_file():
        raise UsageError("E-FID-REF", "there are no reference statistics to prove the images against", path=source.reference)
    if out.exists():
        raise UsageError("E-OUT-EXISTS", "a run is there already", path=out, hint="choose another --out")
    course = Course(rank or 2 * base.family.tuning.rank, steps or STEPS, batch or BATCH, rate or RATE, seed or 0)
    torch.set_num_threads(threads)
    master = site.fitted(base.family, base.config, base.tensors, base.config.classes, course.seed, base.path)
    with output.progress("exporting FP32 graphs"):
        traced = {graph: onnx_files.traced(g, graph) for graph, g in source.generator.graphs().items()}
    models = {graph: model for graph, (model, _) in traced.items()}
    check(given, models, plan)
    full = hosted(models, source.generator, threads)
    even, files = _quantized(source, models, given, threads)
    seeds = range(JUDGED_SEED, JUDGED_SEED + JUDGED)
    wanted = to_uint8(full(seeds))
    before = squared_error(wanted, to_uint8(hosted(files, source.generator, threads)(seeds)))
    subjects = _subjects(source, traced, even, files)
    losses: list[float] = []
    with output.progress("recovering", course.steps, "steps") as advance:

        def after(loss: float) -> None:
            losses.append(loss)
            advance(1)

        adapter = learn(base.family, base.config, master, subjects, course, after)
    made = replace(source, generator=site.plain(base.family, base.config, adapter.merged(master, out)))
    models = {graph: onnx_files.to_onnx(g, graph) for graph, g in made.generator.graphs().items()}
    _, files = _quantized(made, models, given, threads)
    now = squared_error(wanted, to_uint8(hosted(files, made.generator, threads)(seeds)))
    itself = squared_error(wanted, to_uint8(hosted(models, made.generator, threads)(seeds)))
    found = _word(before, now, itself, losses)
    _write(out, base, source, master, adapter, course, found)
    output.result("finetune", {"out": str(out), "recover": found})
    output.table(["INT8 against full precision, same seeds", "before", "after"],
                 [["PSNR of all pixels, dB", *(f"{found[k]['pooled_db']:.2f}" for k in ("before", "after"))],
                  ["median PSNR of an image, dB", *(f"{found[k]['median_db']:.2f}" for k in ("before", "after"))]])
    print(f"recovered: {out}  squared error x {_said(found)}; next: edgegen export {out} --int8 -o out/")


def check(plan: Plan, models: Mapping[str, ModelProto], path: Path) -> None:
    """InputError names a rule, graph or tensor of the plan that these graphs do not have."""
    nodes = [f"{graph}/{node.name}" for graph, model in models.items() for node in model.graph.node if node.op_type == "Conv"]
    tensors = {graph: set(qdq.candidates(model)) for graph, model in models.items()}
    unknown = [pattern for pattern, _ in plan.rules if not any(fnmatchcase(node, pattern) for node in nodes)]
    unknown += [f"{graph}/{t}" for graph, ranges in plan.ranges.items() for t in ranges if t not in tensors.get(graph, ())]
    if unknown:
        raise InputError("E-PLAN", f"the plan is another generator's: {unknown[0]} is not in these graphs", path=path,
                         hint="name the plan of this generator's own bundle")


def _quantized(source: Source, models: dict[str, ModelProto], plan: Plan,
               threads: int) -> tuple[dict[str, ModelProto], dict[str, ModelProto]]:
    """Even graphs and their Q/DQ files: as export makes them, with the rules of `plan`."""
    even, measured, _ = calibrated(source, models, SAMPLES, threads)
    dialect, rules = runtime(STAND_IN).dialect, Plan(plan.rules, measured.ranges)
    return even, {graph: qdq.quantize(model, graph, rules, dialect) for graph, model in even.items()}


def _subjects(source: Source, traced: Mapping[str, Any], even: Mapping[str, ModelProto],
              files: Mapping[str, ModelProto]) -> dict[str, Any]:
    from ..training.adapt.recover import Subject

    calls = record(torch_pipeline(source.generator), range(LEARNT_SEED, LEARNT_SEED + LEARNT))
    return {graph: Subject(g, traced[graph][1], rounding(even[graph], files[graph]), calls[graph])
            for graph, g in source.generator.graphs().items()}


def _word(before: np.ndarray, now: np.ndarray, itself: np.ndarray, losses: list[float]) -> dict[str, Any]:
    """What looks.json keeps. ratio: of the mean squared errors, with a 95 % interval over pairs (delta method)."""
    ratio = now.mean() / before.mean() if before.mean() else float(now.mean() > 0) + 1.0
    reach = 1.96 * (now - ratio * before).std(ddof=1) / np.sqrt(len(now)) / (before.mean() or 1)
    tenth = max(1, len(losses) // 10)
    return {
        "before": _decibels(before), "after": _decibels(now), "full_precision_after": _decibels(itself),
        "ratio": {"value": float(ratio), "low": float(ratio - reach), "high": float(ratio + reach)},
        "better": bool(ratio + reach < 1),
        "loss": {"first": float(np.mean(losses[:tenth])), "last": float(np.mean(losses[-tenth:]))},
        "what": f"INT8 images by {STAND_IN} against full-precision images of the base, {len(now)} seeds from {JUDGED_SEED}",
    }


def _decibels(error: np.ndarray) -> dict[str, float | None]:
    """null: no pixel differs."""
    return {k: v if np.isfinite(v) else None for k, v in vars(PairedPsnr.of(error)).items()}


def _said(found: Mapping[str, Any]) -> str:
    ratio = found["ratio"]
    return f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def _write(out: Path, base: Base, source: Source, master: dict[str, Tensor], adapter: Adapter, course: Course,
           found: dict[str, Any]) -> None:
    """A run as a fine-tuning leaves it, without photos; GateFailed after it was kept elsewhere, where it is not better."""
    from ..training import checkpoint
    from ..training.adapt import site

    target = out if found["better"] else out.parent / "rejected" / out.name
    with publish(target, "run.json", overwrite=not found["better"]) as new:
        adapt = {"base": base.name, "origin_sha256": base.sha256, "base_sha256": site.write_base(new, master),
                 "rank": course.rank}
        site.write(new, adapter, {})
        shutil.copyfile(source.reference, new / "reference.safetensors")
        (new / FILE).write_bytes(to_json({"recover": found}))
        about = checkpoint.describe(base.family.name, base.config) | {"data": _data(source), site.ADAPTS: adapt,
                                                                      "recover": vars(course)}
        (new / "run.json").write_bytes(to_json(about))
    if not found["better"]:
        raise GateFailed("E-RECOVER", f"the INT8 images came no nearer: squared error x {_said(found)}", path=target,
                         hint="try more --steps or another --rank", details=found)


def _data(source: Source) -> dict[str, Any]:
    """Of the photos the base was trained on: none were looked at here."""
    data = source.about["data"]
    file = source.reference.with_name("run.json")
    classes = read_json(file)["data"].get("classes", []) if file.is_file() else []
    return {"sha256": data["sha256"], "images": data["images"], "classes": classes}
