"""An export that ruins images says which layers do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from edgegen.core.images import to_uint8
from edgegen.core.plan import Layer, Plan, Precision, Range
from edgegen.evidence.judge import WorstPair
from edgegen.export import qdq, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export import blame
from edgegen.workflows.export.build import Build
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.export.search import PlanLadder

LAYERS = tuple(
    f"theta/trunk.{name}.conv"
    for name in ("down.0.0.second", "shrink.0", "up.0.0.first", "up.1.0.first")
)
SEEDS = range(3)


def cut(layer: str) -> Plan:
    """LAYERS in INT8, one of them with a range that cuts most of what it reads."""
    graph, _, name = layer.partition("/")
    ranges = tiny.plan().ranges
    tensor = next(n.input[0] for n in tiny.models()[graph].graph.node if n.name == name)
    seen = ranges[graph][tensor]
    cut = {**ranges[graph], tensor: Range(seen.low / 8, seen.high / 8)}
    return Plan(tuple((path, "int8") for path in LAYERS), {**ranges, graph: cut})


def found(monkeypatch: pytest.MonkeyPatch, plan: Plan, ruined: bool) -> list[blame.LayerBehind]:
    target = runtime("onnxruntime")
    files = {
        graph: qdq.quantize(model, graph, plan, target.dialect)
        for graph, model in tiny.models().items()
    }
    int8 = hosted(files, tiny.generator(), 1, target)
    monkeypatch.setattr(blame, "int8", lambda *_: int8)
    images = zip(to_uint8(tiny.torch_images()(SEEDS)), to_uint8(int8(SEEDS)), strict=True)
    pairs = [WorstPair(seed, 10.0, ruined, *pair) for seed, pair in zip(SEEDS, images, strict=True)]
    bundle: Any = SimpleNamespace()
    judgement: Any = SimpleNamespace(worst=tuple(pairs))
    build = Build(bundle, tiny.models(), {target.name: PlanLadder((plan,), 0)}, {})
    return blame.layers_behind(build, target, judgement, Context())


@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[2]])
def test_the_layer_that_ruins_images_is_named_first(
    monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    layers = found(monkeypatch, cut(layer), True)
    assert f"{layers[0].graph}/{layers[0].node}" == layer
    assert layers[0].psnr_db > layers[0].before_db + 3
    assert layer in blame.sentence("onnxruntime", layers).partition(":")[2].split(" (")[0]


def test_nothing_is_looked_for_where_no_image_is_ruined(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, cut(LAYERS[0]), False) == []
    assert "no single layer" in blame.sentence("onnxruntime", [])


def searched(*layers: tuple[str, Precision, float | None]) -> Plan:
    found = (Layer("theta", node, kind, "why", harm, 1.0, 1) for node, kind, harm in layers)
    return Plan((), {}, tuple(found))


def test_a_plan_that_is_not_within_names_its_most_damaging_layers() -> None:
    plan = searched(
        ("a", "int8", 0.1), ("b", "int8", 0.5), ("c", "fp32", 9.0), ("d", "int8", 0.3),
        ("e", "int8", 0.05), ("f", "int8", None), ("g", "int8", 0.05),
    )  # fmt: skip
    assert blame.most_damaging("openvino", plan) == (
        "openvino: of the damage that its layers in INT8 do, most comes from theta/b (50%), "
        "theta/d (30%), theta/a (10%)"
    )


@pytest.mark.parametrize("plan", [Plan((), {}), searched(("a", "fp32", 1.0), ("b", "int8", None))])
def test_a_plan_without_measured_damage_names_nothing(plan: Plan) -> None:
    assert blame.most_damaging("openvino", plan) == ""
