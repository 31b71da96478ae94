"""Build files from plans: the Q/DQ graphs of each runtime, what the runtime compiles from them, and
the manifest that lists all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.bundle import Bundle, write_manifest
from ...core.files import put, to_json
from ...core.fp32_last_steps import fp32_below
from ...core.plan import Plan
from ...core.progress import Advance, Listener
from ...core.runtime import Runtime
from ...core.samplers import sampler_to_json
from ...errors import EdgegenError
from ...export import onnx as onnx_files
from ...export import qdq
from ...export.lint import lint
from ...export.packages import installed
from .beginning import prompts_by_use
from .fp32 import Calls

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..generators import LoadedGenerator
    from .feeds import Feeds
    from .search import PlanLadder

Models = Mapping[str, "ModelProto"]


@dataclass(frozen=True)
class Build:
    """Hold an opened bundle, the models that its plans quantize, each runtime's plans, and the
    calls that the sampler makes of each graph.
    """

    bundle: Bundle
    models: Models
    plans: Mapping[str, PlanLadder]
    calls: Calls


def build_runtimes(
    targets: Sequence[Runtime],
    models: Models,
    plans: Mapping[str, PlanLadder],
    calls: Calls,
    folder: Path,
    listen: Listener,
) -> dict[str, Any]:
    """Write int8/RUNTIME for each target, and return the manifest's entry of each by its name."""
    built = {}
    with listen.progress("building", len(targets) * len(models)) as advance:
        for target in targets:
            plan = executable_plan(target, plans[target.name].plan, listen)
            built[target.name] = _built(target, models, plan, calls, folder, advance)
    return built


def rebuild(build: Build, targets: Sequence[Runtime], listen: Listener) -> Build:
    """Write the files of these runtimes again from their current plans, and return the build with
    the bundle opened anew.
    """
    root, description = build.bundle.root, described(build.bundle)
    for target in targets:
        shutil.rmtree(root / "int8" / target.name)
    built = build_runtimes(targets, build.models, build.plans, build.calls, root, listen)
    description["runtimes"] |= built
    write_manifest(root, description)
    return replace(build, bundle=Bundle.open(root, made_here=True))


def executable_plan(target: Runtime, plan: Plan, listen: Listener) -> Plan:
    """Return the plan as the runtime can execute it: engines cannot change to FP32
    between steps.
    """
    if plan.last and target.executable:
        listen.note(
            f"{target.name} executes engines of one precision: the steps that the plan leaves to "
            "FP32 are INT8 there too"
        )
        return replace(plan, last=0)
    return plan


def _built(
    target: Runtime, models: Models, plan: Plan, calls: Calls, folder: Path, advance: Advance
) -> dict[str, Any]:
    place = folder / "int8" / target.name
    place.mkdir(parents=True)
    put(place / "plan.json", plan.to_bytes())
    load, onnx = {}, {}
    for name, model in models.items():
        quantized = qdq.quantize(model, name, plan, target.dialect)
        # a runtime that compiles its files on the device cannot refuse them here
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
        "until": fp32_below(calls, plan.last),
    }


def check(model: ModelProto, runtime: str) -> None:
    """Raise EdgegenError if the runtime would refuse a node of the model or compute it wrongly."""
    for finding in lint(model, runtime):
        if finding.level == "error":
            raise EdgegenError(
                "E-LINT",
                f"{runtime} cannot take {finding.node}: it {finding.what}",
                hint=finding.remedy,
            )


def described(bundle: Bundle) -> dict[str, Any]:
    """Return the description from which `write_manifest` made the bundle's manifest."""
    return bundle.manifest.model_dump(exclude={"schema_version", "sha256", "edgegen", "files"})


def describe(
    source: LoadedGenerator,
    models: Models,
    built: Mapping[str, Any],
    coverage: Mapping[str, Any],
    feeds: Feeds,
    torch_parity: Mapping[str, float],
    start: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest without its files and with the evidence that is known before
    the verdict.
    """
    looked_at = feeds.to_json()
    return {
        "family": source.family,
        "source": source.about,
        "embeds_training_data": source.generator.embeds_training_data,
        "start": start,
        "sampler": sampler_to_json(source.generator.sampler),
        "graphs": {name: f"graphs/{name}.onnx" for name in models},
        "scheme": "static INT8 weights (per channel, symmetric, rounded by second moments) and "
        "activations (per tensor, channels equalized) of the convolutions that each runtime's plan "
        "names; everything else FP32, and the sampler's last steps where the plan leaves them",
        "calibration": {
            "samples": feeds.samples,
            # file names belong to the user and stay out of the bundle
            **{k: v for k, v in looked_at.items() if k != "files"},
            "feeds_sha256": hashlib.sha256(to_json(looked_at)).hexdigest(),
            **prompts_by_use(source.generator.latent),
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
