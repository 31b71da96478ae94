"""Find the layers that cause the images which a verdict found ruined: those whose return to FP32
brings the worst pairs closer to full precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...calibrate.choose import damage
from ...core.files import JsonObject
from ...core.fp32_last_steps import SessionWithFp32Steps
from ...core.images import to_uint8
from ...core.plan import Plan
from ...core.runtime import Runtime
from ...core.side_by_side import over_workers
from ...core.temporary import scratch
from ...evidence.distances import PairedPsnr, squared_error
from ...evidence.judge import Judgement, WorstPair
from ...export import executing, qdq
from ...export import onnx as onnx_files
from ..executor import int8
from .build import Build

if TYPE_CHECKING:
    from ..context import Context

NAMED = 3  # number of layers that a sentence names
EQUAL_DB = 999.0  # stands for infinity, the PSNR of equal images, which JSON cannot hold


@dataclass(frozen=True)
class LayerBehind:
    """Hold a layer and the PSNR of the worst pairs with only this layer back in FP32 (`psnr_db`)
    and before (`before_db`).
    """

    graph: str
    node: str
    psnr_db: float
    before_db: float

    def __str__(self) -> str:
        gain = self.psnr_db - self.before_db
        said = "equal to full precision" if self.psnr_db >= EQUAL_DB else f"{gain:+.1f} dB"
        return f"{self.graph}/{self.node} ({said})"

    def to_json(self) -> JsonObject:
        return {"layer": f"{self.graph}/{self.node}", "psnr_db": self.psnr_db}


def behind_failures(
    build: Build,
    targets: Sequence[Runtime],
    failed: Mapping[str, Judgement],
    context: Context,
) -> tuple[dict[str, list[LayerBehind]], str]:
    """Runtime -> layers behind its ruined images, for those of the failed that have some; and a
    sentence for people, which names the most damaging layers of the others.
    """
    behind, said = {}, []
    for target in targets:
        if target.name not in failed:
            continue
        if ruined_pairs(judgement := failed[target.name]):
            behind[target.name] = layers_behind(build, target, judgement, context)
            said.append(sentence(target.name, behind[target.name]))
        else:
            said.append(most_damaging(target.name, build.plans[target.name].plan))
    return behind, "; ".join(filter(None, said))


def layers_behind(
    build: Build, target: Runtime, judgement: Judgement, context: Context
) -> list[LayerBehind]:
    """Return the layers that bring the worst of the ruined pairs closer, the most
    effective first.

    The list is empty if no single layer does, or if no pair is ruined.
    """
    if not (pairs := ruined_pairs(judgement)):
        return []
    trial = _Trial(build, target, pairs)
    layers = [
        (graph, node.name)
        for graph, model in build.models.items()
        for node in qdq.int8_nodes(model, graph, trial.plan, target.dialect)
    ]
    label = f"looking for the layers behind ruined images of {target.name}"
    found = []
    with context.listen.progress(label, len(layers), "layers") as advance:
        for one in over_workers(lambda layer: trial.without(*layer), layers, context.threads):
            found.append(one)
            advance(1)
    nearer = [one for one in found if one.psnr_db > one.before_db]
    return sorted(nearer, key=lambda one: -one.psnr_db)


def ruined_pairs(judgement: Judgement) -> list[WorstPair]:
    """Return those of a verdict's worst pairs that are ruined."""
    return [pair for pair in judgement.worst if pair.is_ruined]


def sentence(name: str, layers: Sequence[LayerBehind]) -> str:
    """Return a sentence that says which layers to keep in FP32."""
    if not layers:
        return f"{name}: no single layer causes the ruined images"
    named = ", ".join(map(str, layers[:NAMED]))
    return f"{name}: the ruined images improve if one of these layers is in FP32: {named}"


def most_damaging(name: str, plan: Plan) -> str:
    """For people: which layers in INT8 damage images most, as the search measured or predicted it;
    empty for a plan that was not searched, and for one without a layer in INT8.
    """
    total = damage(plan)
    layers = [one for one in plan.layers if one.precision == "int8" and one.damage]
    if not layers or not total > 0:
        return ""
    worst = sorted(layers, key=lambda one: -(one.damage or 0.0))[:NAMED]
    named = ", ".join(
        f"{one.graph}/{one.node} ({(one.damage or 0.0) / total:.0%})" for one in worst
    )
    return f"{name}: of the damage that its layers in INT8 do, most comes from {named}"


class _Trial:
    """Try a runtime's files with one more layer in FP32, on the seeds of a verdict's
    worst pairs.
    """

    def __init__(self, build: Build, target: Runtime, pairs: Sequence[WorstPair]) -> None:
        self.models, self.target = build.models, target
        self.plan = build.plans[target.name].plan
        self.pipeline = int8(build.bundle, target.name, 1, True)  # the engines were built here
        self.seeds = [pair.seed for pair in pairs]
        self.full = np.stack([pair.full for pair in pairs])
        self.before_db = self._psnr(np.stack([pair.other for pair in pairs]))

    def without(self, graph: str, node: str) -> LayerBehind:
        """Measure the pairs with this node in FP32."""
        rules = ((f"{graph}/{node}", "fp32"), *self.plan.rules)
        plan = replace(self.plan, rules=rules)
        model = qdq.quantize(self.models[graph], graph, plan, self.target.dialect)
        # a session has read its file when load returns, so the folder may go
        with scratch() as folder:
            file = onnx_files.write(model, folder / f"{graph}.onnx")
            session = executing(self.target).load(file, 1)
        own = self.pipeline.call[graph]
        if isinstance(own, SessionWithFp32Steps):
            session = replace(own, int8=session)
        call = {**self.pipeline.call, graph: session}
        images = replace(self.pipeline, call=call)(self.seeds)
        return LayerBehind(graph, node, self._psnr(to_uint8(images)), self.before_db)

    def _psnr(self, images: np.ndarray) -> float:
        """Return the PSNR in dB, pooled over the pairs."""
        return min(PairedPsnr.of(squared_error(self.full, images)).pooled_db, EQUAL_DB)
