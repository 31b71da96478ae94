"""From statistics to plans. Full precision stays where INT8 costs most and saves least: a graph's ends, then by damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from edgegen.core.plan import Plan, Precision

from .observe import ActivationStats

# Of all multiplications, those that each rung of the ladder keeps in FP32 at least.
SHARES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def plan(models: Mapping[str, onnx.ModelProto], stats: Mapping[str, ActivationStats]) -> Plan:
    """int8 for every convolution but each graph's first (it reads the noise itself) and last (it writes the pixels)."""
    rules: list[tuple[str, Precision]] = []
    for name in sorted(models):
        rules += [(f"{name}/{node}", "fp32") for node in ends(models[name])]
    return Plan((*rules, ("*", "int8")), {name: stats[name].ranges() for name in sorted(stats)})


def ends(model: onnx.ModelProto) -> list[str]:
    """Convolutions with no convolution before them, and those with none behind, in graph order."""
    nodes = list(model.graph.node)
    first = _unreached(nodes, [(set(n.input), set(n.output)) for n in nodes])
    last = _unreached(nodes[::-1], [(set(n.output), set(n.input)) for n in nodes[::-1]])
    return [n.name for n in nodes if n.name in first | last]


def _unreached(nodes: list[onnx.NodeProto], ports: list[tuple[set[str], set[str]]]) -> set[str]:
    """Convolutions that no other convolution's tensors reach, walking `nodes` in order along (reads, writes)."""
    reached: set[str] = set()
    found: set[str] = set()
    for node, (reads, writes) in zip(nodes, ports, strict=True):
        touched = bool(reads & reached)
        if node.op_type == "Conv" and not touched:
            found.add(node.name)
        if node.op_type == "Conv" or touched:
            reached |= writes - {""}
    return found


def ladder(base: Plan, models: Mapping[str, onnx.ModelProto], damage: Mapping[str, Mapping[str, float]]) -> tuple[Plan, ...]:
    """Plans from the fastest to the safest: each keeps in FP32 the convolutions of most damage a multiplication, up to its share.

    damage: graph -> convolution -> what is lost when it alone is int8, in one unit for all graphs. No rung keeps all of them.
    """
    costs = {name: multiplications(model) for name, model in models.items()}
    whole = sum(sum(cost.values()) for cost in costs.values())
    spent = sum(cost for name, graph in costs.items() for node, cost in graph.items() if base.precision(name, node) != "int8")
    worth = {(name, node): found / costs[name][node] for name in sorted(damage) for node, found in damage[name].items()}
    order = sorted(worth, key=lambda key: (-worth[key], key))
    plans: list[Plan] = []
    kept = 0
    for share in SHARES:
        while spent < share * whole and kept + 1 < len(order):
            name, node = order[kept]
            spent += costs[name][node]
            kept += 1
        rules: tuple[tuple[str, Precision], ...] = tuple((f"{name}/{node}", "fp32") for name, node in sorted(order[:kept]))
        found_plan = Plan(rules + base.rules, base.ranges)
        if not plans or found_plan.rules != plans[-1].rules:
            plans.append(found_plan)
    return tuple(plans)


def first_good(first: int, last: int, good: Callable[[int], bool]) -> int:
    """Of rungs first to last, which get better one after the other, the first good one; `last`, never asked about, if none is.

    Found by halving: at most `questions(first, last)` are asked.
    """
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if good(middle) else (middle + 1, last)
    return last


def questions(first: int, last: int) -> int:
    """How many rungs `first_good` asks about at most."""
    return (last - first).bit_length()


def multiplications(model: onnx.ModelProto) -> dict[str, int]:
    """Of each convolution with a constant weight, an image; resolution from shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {t.name: numpy_helper.to_array(t).size for t in model.graph.initializer}
    return {
        n.name: int(weights[n.input[1]] * np.prod(shapes[n.output[0]][2:] or [1]))
        for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights
    }
