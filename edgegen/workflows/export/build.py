"""Generator to files: FP32 ONNX equal to torch, calibrated plan, Q/DQ and engines for each runtime,
manifest.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...cli import output
from ...core.bundle import Bundle, write_manifest
from ...core.files import to_json
from ...core.fp32_last_steps import until
from ...core.plan import Plan
from ...core.runtime import Runtime
from ...core.spec import Array
from ...errors import EdgegenError, InputError
from ...evidence import parity
from ...evidence.bench import record
from ...export import STAND_IN, qdq, runtime
from ...export import onnx as onnx_files
from ...export.lint import lint
from ...export.packages import installed
from ..generators import LoadedGenerator, torch_pipeline
from .calibration import measure
from .feeds import Feeds, Files, Trajectories
from .search import Found, Search

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...evidence.compare import Terms
    from .protect import Protect

PARITY_INPUTS = 64
Calls = Mapping[str, Sequence[Mapping[str, Array]]]  # what each graph is asked along the trajectory


@dataclass(frozen=True)
class Made:
    """An opened bundle, the models that its plans quantize, and the plans of each runtime."""

    bundle: Bundle
    models: Mapping[str, ModelProto]
    plans: Mapping[str, Found]
    calls: Calls


@dataclass(frozen=True)
class Order:
    """What an export was asked for."""

    runtimes: list[Runtime]
    terms: Terms
    threads: int
    weights: Path | None  # of the feature network, where it is no package's
    samples: int  # trajectories to calibrate on, where there are no
    feeds: Path | None  # files to calibrate on
    plan: Path | None  # to take instead of searching one
    protect: Protect | None  # which convolutions the search leaves in full precision
    most_last: int  # steps at the end that the search may leave to FP32


def build(source: LoadedGenerator, order: Order, folder: Path) -> Made:
    """Fill `folder` with everything but evidence; nothing is proven yet."""
    given = None if order.plan is None else Plan.read(order.plan)
    (folder / "graphs").mkdir()
    models = fp32_models(source)
    if given is not None and order.plan is not None:
        fits(given, models, order.plan)  # before the long work
    for name, model in models.items():
        onnx_files.write(model, folder / "graphs" / f"{name}.onnx")
    calls = record(
        torch_pipeline(source.generator),
        range(-(-PARITY_INPUTS // len(source.generator.sampler.timesteps))),
    )
    if given is not None and given.last and not until(calls, given.last):
        steps = max(map(len, calls.values()))
        raise InputError(
            "E-PLAN",
            f"the plan leaves the last {given.last} steps to FP32, and this sampler has {steps}",
            path=order.plan,
            hint='lower its "last", or search a plan',
        )
    torch_parity = _fp32_parity(source, calls, folder, order.threads)
    feeds = (
        Files(order.feeds, source.generator)
        if order.feeds
        else Trajectories(source.generator, order.samples)
    )
    measured = measure(source, models, feeds, order.threads, rounding=True)
    even, plan = measured.even, measured.plan
    trail: dict[str, Any] = {}
    protected: dict[str, Any] = {}
    if order.protect is not None:
        plan, protected = order.protect(source, even, plan, order.runtimes, order.threads)
    if given is None:
        search = Search(
            source, models, even, plan, order.terms, order.threads, order.weights, order.most_last
        )
        found = {target.name: search.plan(target) for target in order.runtimes}
        trail = search.trail
    else:
        taken = reused(given, plan)
        found = {target.name: Found((taken,), 0) for target in order.runtimes}
    built = {}
    with output.progress("building", len(order.runtimes) * len(models)) as advance:
        for target in order.runtimes:
            built[target.name] = _built(
                target, even, found[target.name].plan, calls, folder, advance
            )
    (folder / "evidence").mkdir()
    shutil.copyfile(source.reference, folder / "evidence" / "reference.safetensors")
    description = describe(source, models, built, measured.coverage, feeds, torch_parity)
    description["calibration"]["search"] = trail
    if protected:
        description["calibration"]["protected"] = protected
    write_manifest(folder, description)
    return Made(Bundle.open(folder), even, found, calls)


def rebuild(made: Made, targets: list[Runtime]) -> Made:
    """With what its plans now are for these runtimes, opened again."""
    root, description = made.bundle.root, described(made.bundle)
    with output.progress("building a safer plan", len(targets) * len(made.models)) as advance:
        for target in targets:
            shutil.rmtree(root / "int8" / target.name)
            description["runtimes"][target.name] = _built(
                target, made.models, made.plans[target.name].plan, made.calls, root, advance
            )
    write_manifest(root, description)
    return replace(made, bundle=Bundle.open(root))


def described(bundle: Bundle) -> dict[str, Any]:
    """What `write_manifest` was given."""
    return bundle.manifest.model_dump(exclude={"schema_version", "sha256", "edgegen", "files"})


def fits(plan: Plan, models: Mapping[str, ModelProto], path: Path) -> None:
    """InputError names a rule, graph or tensor of the plan that these graphs do not have."""
    nodes = [
        f"{graph}/{node.name}"
        for graph, model in models.items()
        for node in model.graph.node
        if node.op_type == "Conv"
    ]
    tensors = {graph: set(qdq.candidates(model)) for graph, model in models.items()}
    unknown = [
        pattern
        for pattern, _ in plan.rules
        if not any(fnmatchcase(node, pattern) for node in nodes)
    ]
    unknown += [
        f"{graph}/{t}"
        for graph, ranges in plan.ranges.items()
        for t in ranges
        if t not in tensors.get(graph, ())
    ]
    if unknown:
        raise InputError(
            "E-PLAN",
            f"the plan is another generator's: {unknown[0]} is not in these graphs",
            path=path,
            hint="name the plan of this generator's own bundle",
        )


def reused(given: Plan, measured: Plan) -> Plan:
    """`given` with its own ranges where it was made for the models that were measured, else with
    the `measured` ones.
    """
    if given.model == measured.model:
        return given
    output.note(
        "the plan was made for other weights: its precisions are kept, its ranges are measured "
        "again"
    )
    return replace(given, ranges=measured.ranges, model=measured.model)


def fp32_models(source: LoadedGenerator) -> dict[str, ModelProto]:
    """Each graph as FP32 ONNX."""
    graphs = source.generator.graphs()
    models = {}
    with output.progress("exporting FP32 graphs", len(graphs)) as advance:
        for name, graph in graphs.items():
            models[name] = onnx_files.to_onnx(graph, name)
            advance(1)
    return models


def _fp32_parity(
    source: LoadedGenerator, calls: Calls, folder: Path, threads: int
) -> dict[str, float]:
    """Torch against ONNX Runtime on inputs from every step of the trajectory; GateFailed beyond the
    limit.
    """
    pipeline, host = torch_pipeline(source.generator), runtime(STAND_IN)
    found = {
        name: parity.largest_difference(
            pipeline.call[name], host.load(folder / "graphs" / f"{name}.onnx", threads), inputs
        )
        for name, inputs in calls.items()
    }
    parity.check_fp32(host.name, found)
    return found


def calibrated(
    source: LoadedGenerator, models: dict[str, ModelProto], samples: int, threads: int
) -> tuple[dict[str, ModelProto], Plan]:
    """Equalized models with rounded weights and the plan of their ranges, from the sampler's own
    trajectories, as export.
    """
    found = measure(source, models, Trajectories(source.generator, samples), threads, rounding=True)
    return found.even, found.plan


def _built(
    target: Runtime,
    models: Mapping[str, ModelProto],
    plan: Plan,
    calls: Calls,
    folder: Path,
    advance: Any,
) -> dict[str, Any]:
    if plan.last and target.executable:
        output.note(
            f"{target.name} executes engines of one precision: the steps that the plan leaves to "
            "FP32 are INT8 there too"
        )
        plan = replace(plan, last=0)
    place = folder / "int8" / target.name
    place.mkdir(parents=True)
    (place / "plan.json").write_bytes(plan.to_bytes())
    load, onnx = {}, {}
    for name, model in models.items():
        quantized = qdq.quantize(model, name, plan, target.dialect)
        # of files that are built on the target nobody else would know
        check(quantized, target.name)
        file = onnx_files.write(quantized, place / f"{name}.onnx")
        paths = target.build(file, place)
        load[name], onnx[name] = (p.relative_to(folder).as_posix() for p in (paths[0], file))
        advance(1)
    return {
        "version": target.version(),
        "device": target.device(),
        "load": load,
        "onnx": onnx,
        "code": target.executable,
        "until": until(calls, plan.last),
    }


def check(model: ModelProto, name: str) -> None:
    """EdgegenError when the runtime would refuse a node of the model or compute it wrongly."""
    for found in lint(model, name):
        if found.level == "error":
            raise EdgegenError(
                "E-LINT", f"{name} cannot take {found.node}: it {found.what}", hint=found.remedy
            )


def describe(
    source: LoadedGenerator,
    models: dict[str, ModelProto],
    built: dict[str, Any],
    coverage: dict[str, Any],
    feeds: Feeds,
    torch_parity: dict[str, float],
) -> dict[str, Any]:
    """The manifest but for its files and evidence."""
    from ...core.samplers import sampler_to_json

    latent, looked_at = source.generator.latent, feeds.to_json()
    return {
        "family": source.family,
        "source": source.about,
        "embeds_training_data": source.generator.embeds_training_data,
        "start": {"shape": list(latent.noise.shape[1:]), "classes": latent.classes},
        "sampler": sampler_to_json(source.generator.sampler),
        "graphs": {name: f"graphs/{name}.onnx" for name in models},
        "scheme": "static INT8 weights (per channel, symmetric, rounded by second moments) and "
        "activations (per tensor, channels "
        "equalized) of the convolutions that each runtime's plan names; everything else FP32, and "
        "the sampler's last "
        "steps where the plan leaves them",
        "calibration": {
            # whose names are the site's
            "samples": feeds.samples,
            **{k: v for k, v in looked_at.items() if k != "files"},
            "feeds_sha256": hashlib.sha256(to_json(looked_at)).hexdigest(),
            "method": "least error of rounding and cutting",
            "samples_at_timestep": coverage,
        },
        "runtimes": built,
        "evidence": {
            "fp32_torch_max_abs": torch_parity,
            "torch": installed(("torch",)),
            "onnx": installed(("onnx",)),
        },
    }
