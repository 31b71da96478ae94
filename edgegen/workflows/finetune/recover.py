"""An adapter that makes INT8 images more like the full-precision ones of the same seeds.

Whether it does is measured with the runtime that ships, on seeds that nothing was trained or judged
on: before and after.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.files import publish_alone, put, to_json
from ...core.images import to_uint8
from ...core.plan import Plan
from ...core.progress import Listener, silent
from ...core.runtime import Pipeline
from ...core.seeds import RECOVERY_JUDGEMENT
from ...errors import GateFailed, UsageError
from ...evidence import reference
from ...evidence.compare import compare
from ...evidence.distances import squared_error
from ...evidence.features import feature_network
from ...evidence.full_side import FullSide
from ...evidence.looks import LookSchedule, first_look
from ...export import STAND_IN, qdq, runtime
from ...export import onnx as onnx_files
from ...export.rounding import rounding
from ..context import Context
from ..export.calibration import calibrated
from ..export.hosted import hosted
from ..export.plans import check_plan
from ..generators import LoadedGenerator, load_generator, need_torch
from ..photo_sets import fastest
from ..torch_threads import torch_threads
from .base import BaseGenerator, numbered, open_base
from .periodic_eval import FILE
from .settings import RecoverSettings

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from ...training.adapt.files import Adapter
    from ...training.adapt.recover import Course

    Models = dict[str, ModelProto]

SAMPLES = 128  # calibrated on, as export does
SIDES = ("before", "after")
BUDGET = 0.02  # of compare: nothing here hangs on it, all images are looked at once


@dataclass(frozen=True)
class RecoverResult:
    """A recovered run. out: where it lies, under rejected/ where the images came no nearer;
    recovery: both sides and their ratio, as looks.json has them.
    """

    out: Path
    recovery: Mapping[str, Any]

    @property
    def better(self) -> bool:
        """Whether the INT8 images came nearer."""
        return bool(self.recovery["better"])

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen recover --json`, but for its frame."""
        return {"out": str(self.out), "recover": dict(self.recovery)}


def recover(
    base: str | Path,
    plan: str | Path,
    out: str | Path,
    settings: RecoverSettings | None = None,
    listen: Listener = silent,
) -> RecoverResult:
    """Learn, measure, and publish the run; GateFailed where the images are not nearer: the run is
    then kept under rejected/, and the error carries the result.

    The rules of `plan`, a bundle's plan.json, say what is rounded. Scales are measured on the base,
    before and after: export does so with the same seeds.
    """
    need_torch()
    from ...training.adapt import site
    from ...training.adapt.recover import Course

    settings, plan_file, out = settings or RecoverSettings(), Path(plan), Path(out)
    context = Context.of(settings.threads, settings.feature_weights, listen)
    rules = Plan.read(plan_file)
    opened, source = open_base(str(base), listen), load_generator(str(base))
    _check(source, Path(base), out)
    course = Course(
        settings.rank or 2 * opened.family.tuning.rank,
        settings.steps,
        settings.batch,
        settings.rate,
        settings.seed,
    )
    with torch_threads(context.threads):
        weights = site.fitted(
            opened.family,
            opened.config,
            opened.tensors,
            opened.config.classes,
            course.seed,
            opened.path,
        )
        models, before, adapter, errors = _learn(
            opened, source, weights, rules, plan_file, course, context
        )
        merged = adapter.merged(weights, out)
        recovered = replace(
            source,
            generator=site.plain(opened.family, opened.config, merged),
            scales=source.generator,
        )
        graphs = recovered.generator.graphs()
        exported = {name: onnx_files.to_onnx(graph, name) for name, graph in graphs.items()}
        _, after = _quantized(recovered, exported, rules, context)
        full, *sides = (
            hosted(files, source.generator, context.threads) for files in (models, before, after)
        )
        recovery = {"student": errors, **judge(source, full, sides, context)}
    return _publish(out, opened, source, weights, adapter, course, recovery)


def _check(source: LoadedGenerator, base: Path, out: Path) -> None:
    """UsageError for a base that cannot be recovered, and for a folder that is taken."""
    if source.scales is not None:
        raise UsageError(
            "E-SOURCE",
            "this run is already the result of `edgegen recover`",
            path=base,
            hint="give the base from which it was recovered",
        )
    if not source.reference.is_file():
        raise UsageError(
            "E-FID-REF",
            "there are no reference statistics to prove the images against",
            path=source.reference,
        )
    if out.exists():
        raise UsageError(
            "E-OUT-EXISTS", "a run exists here already", path=out, hint="choose another --out"
        )


def _learn(
    base: BaseGenerator,
    source: LoadedGenerator,
    weights: Mapping[str, Tensor],
    rules: Plan,
    plan_file: Path,
    course: Course,
    context: Context,
) -> tuple[Models, Models, Adapter, Sequence[float]]:
    """FP32 models, their Q/DQ files, what was learnt against the rounding in these, and the
    student's error on the way.
    """
    from ...core.graph import torch_graphs
    from ...training.adapt.recover import recover as learn
    from ...training.adapt.student import Subject

    graphs = torch_graphs(source.generator.graphs())
    with context.listen.progress("exporting FP32 graphs"):
        traced = {name: onnx_files.traced(graph, name) for name, graph in graphs.items()}
    models = {name: model for name, (model, _) in traced.items()}
    check_plan(rules, models, plan_file)
    even, files = _quantized(source, models, rules, context)
    subjects = {
        name: Subject(graph, traced[name][1], rounding(even[name], files[name]))
        for name, graph in graphs.items()
    }
    with context.listen.progress("recovering", course.steps, "steps") as advance:
        learnt = learn(base.family, base.config, weights, subjects, course, lambda: advance(1))
    return models, files, learnt.adapter, learnt.errors


def _quantized(
    source: LoadedGenerator, models: Models, plan: Plan, context: Context
) -> tuple[Models, Models]:
    """Even graphs and their Q/DQ files: as export makes them, with the rules of `plan`."""
    calibration = calibrated(source, models, SAMPLES, context)
    even = calibration.models
    dialect, rules = runtime(STAND_IN).dialect, replace(plan, ranges=calibration.plan.ranges)
    return even, {name: qdq.quantize(model, name, rules, dialect) for name, model in even.items()}


def judge(
    source: LoadedGenerator, full: Pipeline, sides: Sequence[Pipeline], context: Context
) -> dict[str, Any]:
    """What looks.json keeps. ratio: of mean squared errors of images, with a 95 % interval over
    pairs (delta method).
    """
    stored = reference.read(source.reference)
    network = fastest(feature_network(stored.network, context.feature_weights, stored.size))
    full_side = FullSide(full, network, stored, RECOVERY_JUDGEMENT.first)
    count, errors, compared = first_look(stored), [], {}
    with context.listen.progress("comparing images", 2 * count) as advance:
        for name, pipeline in zip(SIDES, sides, strict=True):
            drawn: list[np.ndarray] = []

            def draw(
                seeds: Sequence[int], pipeline: Pipeline = pipeline, drawn: list[np.ndarray] = drawn
            ) -> np.ndarray:
                drawn.append(pipeline(seeds))
                advance(len(seeds))
                return drawn[-1]

            compared[name] = compare(full_side, draw, BUDGET, LookSchedule.once(count)).to_json()
            pixels = to_uint8(np.concatenate(drawn))
            errors.append(squared_error(full_side.pixels(0, count), pixels))
    recovery: dict[str, Any] = {**compared, "ratio": _error_ratio(*errors)}
    return {
        **recovery,
        "better": not refusal(recovery),
        "what": f"INT8 images by {STAND_IN} against full-precision images of the base, {count} "
        f"seeds from {RECOVERY_JUDGEMENT.first}",
    }


def refusal(recovery: Mapping[str, Any]) -> str:
    """Why a recovery is none: images must be nearer pixel by pixel and as a set; nothing where it
    is one.
    """
    if not recovery["ratio"]["high"] < 1:
        return (
            "the INT8 images did not come nearer to full precision: squared error x "
            f"{error_text(recovery)}"
        )
    before, after = (recovery[side]["change"] for side in SIDES)
    if not abs(after["value"]) <= abs(before["value"]):
        return (
            "the INT8 images came nearer pixel by pixel (squared error x "
            f"{error_text(recovery)}), but not as a set: INT8 now changes the Frechet distance by "
            f"{change_text(after)}, and changed it before by {change_text(before)}"
        )
    return ""


def _error_ratio(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Of mean squared errors of the same seeds; 1 where nothing was to be recovered."""
    if not before.mean():
        return dict.fromkeys(("value", "low", "high"), 1.0)
    value = after.mean() / before.mean()
    reach = 1.96 * (after - value * before).std(ddof=1) / np.sqrt(len(after)) / before.mean()
    return {"value": float(value), "low": float(value - reach), "high": float(value + reach)}


def change_text(change: Mapping[str, float]) -> str:
    """A relative change with its interval, as a table shows it."""
    return f"{change['value']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})"


def error_text(recovery: Mapping[str, Any]) -> str:
    """Squared error of images, after / before, with its interval."""
    ratio = recovery["ratio"]
    return f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def _publish(
    out: Path,
    base: BaseGenerator,
    source: LoadedGenerator,
    weights: Mapping[str, Tensor],
    adapter: Adapter,
    course: Course,
    recovery: Mapping[str, Any],
) -> RecoverResult:
    """A run as a fine-tuning leaves it, without photos; GateFailed after it was kept elsewhere,
    where it is not better.
    """
    from ...training import checkpoint
    from ...training.adapt import site

    better = bool(recovery["better"])
    result = RecoverResult(out if better else out.parent / "rejected" / out.name, recovery)
    from ...training.digests import seal

    with publish_alone(result.out, "run.json", overwrite=not better) as new:
        adapt = {
            "base": base.name,
            "origin_sha256": base.sha256,
            "base_sha256": site.write_base(new, weights),
            "rank": course.rank,
        }
        site.write(new, adapter, {})
        shutil.copyfile(source.reference, new / "reference.safetensors")
        put(new / FILE, to_json({"recover": recovery}))
        about = checkpoint.describe(base.family.name, base.config) | {
            "data": _data(source, base.config.classes),
            site.ADAPTS: adapt,
            site.RECOVERS: course.to_json(),
        }
        put(new / "run.json", to_json(about))
        seal(new)
    if not better:
        failed = GateFailed(
            "E-RECOVER",
            refusal(recovery),
            path=result.out,
            hint="try more --steps or another --rank",
            details=recovery,
        )
        failed.result = result
        raise failed
    return result


def _data(source: LoadedGenerator, classes: int) -> dict[str, Any]:
    """Of the photos the base was trained on: none were looked at here."""
    return {**source.about["data"], "classes": numbered(classes)}
