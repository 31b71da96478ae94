"""Make plans from statistics. Full precision stays where INT8 costs most and saves least: first at
a graph's ends, then by damage.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from edgegen.core.layers import CONVOLUTIONS, LINEAR, is_layer
from edgegen.core.plan import Layer, Plan, Precision
from edgegen.core.weights import GraphConstants

from .observe import ActivationStats

# Least share of all that int8 saves which each rung of the ladder gives up.
SHARES = (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

# Multiplications for one image from which a matrix product is worth its Q/DQ pair. Measured on one
# thread (docs/runtimes.md): one of 128 x 128 gains nothing on ONNX Runtime, one of 256 x 256 a
# third, one of 1024 x 1024 two thirds.
LEAST = 1 << 16


def plan(models: Mapping[str, onnx.ModelProto], stats: Mapping[str, ActivationStats]) -> Plan:
    """Return the plan of `fastest` with the ranges that were seen."""
    return replace(fastest(models), ranges={name: stats[name].ranges() for name in sorted(stats)})


def fastest(models: Mapping[str, onnx.ModelProto]) -> Plan:
    """Return a plan without ranges: int8 for every convolution and large matrix product except each
    graph's first (it reads the noise itself) and last (it writes the pixels), unless there is
    nothing else.
    """
    counts = {name: multiplications(models[name]) for name in sorted(models)}
    operators = {name: _operators(models[name]) for name in counts}
    # a generator that only has matrix products quantizes small ones too
    alone = all(operators[name][node] in LINEAR for name in counts for node in counts[name])
    large = {
        name: [
            node
            for node, count in of_graph.items()
            if operators[name][node] in LINEAR and (alone or count >= LEAST)
        ]
        for name, of_graph in counts.items()
    }
    kept = {name: ends(models[name], large[name]) for name in counts}
    left = any(
        node not in kept[name] and (operators[name][node] in CONVOLUTIONS or node in large[name])
        for name in counts
        for node in counts[name]
    )
    rules: list[tuple[str, Precision]] = []
    for name in counts if left else ():
        rules += [(f"{name}/{node}", "fp32") for node in kept[name]]
    linear = tuple(f"{name}/{node}" for name in counts for node in large[name])
    return Plan((*rules, ("*", "int8")), {}, linear=linear)


def _operators(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.op_type for node in model.graph.node}


def ends(model: onnx.ModelProto, products: Collection[str] = ()) -> list[str]:
    """Return the layers with no layer before them and those with none behind them, in graph order,
    among convolutions and the matrix products of these names.
    """
    nodes = list(model.graph.node)
    layers = {n.name for n in nodes if n.op_type in CONVOLUTIONS} | set(products)
    first = _unreached(nodes, [(set(n.input), set(n.output)) for n in nodes], layers)
    last = _unreached(nodes[::-1], [(set(n.output), set(n.input)) for n in nodes[::-1]], layers)
    return [n.name for n in nodes if n.name in first | last]


def _unreached(
    nodes: list[onnx.NodeProto], ports: list[tuple[set[str], set[str]]], layers: set[str]
) -> set[str]:
    """Return the layers that no other layer's tensors reach, walking `nodes` in order along (reads,
    writes).
    """
    reached: set[str] = set()
    names: set[str] = set()
    for node, (reads, writes) in zip(nodes, ports, strict=True):
        touched = bool(reads & reached)
        if node.name in layers and not touched:
            names.add(node.name)
        if node.name in layers or touched:
            reached |= writes - {""}
    return names


@dataclass(frozen=True)
class Measured:
    """Hold a convolution whose precision is open, with the damage and the saving of int8 there; all
    convolutions use one unit.
    """

    graph: str
    node: str
    damage: float
    saved: float
    multiplications: int


def ladder(base: Plan, measured: Sequence[Measured], unit: str) -> tuple[Plan, ...]:
    """Return plans from the fastest to the safest: each keeps in FP32 what damages most for what it
    saves, up to its share.

    A layer that saves nothing in int8 is FP32 in all of them. No rung keeps every layer that saves
    something.
    """
    idle = [layer for layer in measured if layer.saved <= 0]
    order = sorted(
        (layer for layer in measured if layer.saved > 0),
        key=lambda layer: (-layer.damage / layer.saved, layer.graph, layer.node),
    )
    whole = sum(layer.saved for layer in order)
    counts: list[int] = []
    count, spent = 0, 0.0
    for share in SHARES:
        while spent < share * whole and count + 1 < len(order):
            spent += order[count].saved
            count += 1
        counts.append(count)
    plans = []
    for count in dict.fromkeys(counts):
        why = {id(layer): "int8 saves no time here" for layer in idle} | {
            id(layer): "most damage for the time it saves" for layer in order[:count]
        }
        rules: tuple[tuple[str, Precision], ...] = tuple(
            sorted((f"{layer.graph}/{layer.node}", "fp32") for layer in [*idle, *order[:count]])
        )
        layers = tuple(
            Layer(
                layer.graph,
                layer.node,
                "fp32" if id(layer) in why else "int8",
                why.get(id(layer), "within the budget"),
                layer.damage,
                layer.saved,
                layer.multiplications,
            )
            for layer in measured
        )
        plans.append(replace(base, rules=rules + base.rules, layers=layers, unit=unit))
    return tuple(plans)


@dataclass(frozen=True)
class Whole:
    """Hold the cost of all of a graph's calls in a trajectory, with every convolution of the base
    plan in int8 and in FP32.

    `calls` is their number; 1 for a graph whose steps cannot change.
    """

    int8: float
    fp32: float
    calls: int


def cost(plan: Plan, graphs: Mapping[str, Whole]) -> float:
    """Return the cost of a trajectory under a searched plan, between the costs of its
    whole graphs.

    The savings of single convolutions only say which share of the whole a plan gives up: their sum
    exceeds what they save together, because each one alone pays for the change to FP32 and back.
    """
    total = 0.0
    for name, graph in graphs.items():
        saved = {
            p: sum(
                max(layer.saved or 0.0, 0.0)
                for layer in plan.layers
                if layer.graph == name and layer.precision == p
            )
            for p in ("int8", "fp32")
        }
        share = saved["fp32"] / sum(saved.values()) if any(saved.values()) else 0.0
        exact = plan.last / graph.calls if graph.calls > plan.last else 0.0
        total += graph.int8 + (graph.fp32 - graph.int8) * (exact + (1 - exact) * share)
    return total


def damage(plan: Plan) -> float:
    """Return the damage of a searched plan, the sum of what its int8 convolutions damage alone."""
    return sum(layer.damage or 0.0 for layer in plan.layers if layer.precision == "int8")


def multiplications(model: onnx.ModelProto) -> dict[str, int]:
    """Return the multiplications for one image of each layer with a constant weight.

    The resolution comes from shape inference; an axis that it does not know counts once.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = GraphConstants(model.graph)
    return {
        node.name: math.prod(weights.shape(node.input[1])) * _places(node, shapes)
        for node in model.graph.node
        if is_layer(node, weights)
    }


def _places(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return how often an image multiplies the whole weight: at every pixel, or with every row."""
    if node.op_type in LINEAR:
        axes = shapes.get(node.output[0], ())[1:-1]
    else:
        pixels = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        axes = shapes.get(pixels, ())[2:]
    return math.prod(max(axis, 1) for axis in axes)


def kinds(model: onnx.ModelProto) -> dict[str, str]:
    """Return, for each layer with a constant weight, a text of what its time depends on: its shapes
    and attributes, and the operators before and behind it.

    Two layers of one kind take the same time.
    """
    counts = multiplications(model)
    weights = GraphConstants(model.graph)
    writers = {tensor: node for node in model.graph.node for tensor in node.output}
    described = {}
    for node in model.graph.node:
        if node.name not in counts:
            continue
        before = writers.get(node.input[0])
        behind = sorted(
            other.op_type for other in model.graph.node if node.output[0] in other.input
        )
        attributes = sorted(
            f"{a.name}={onnx.helper.get_attribute_value(a)}" for a in node.attribute
        )
        shape = list(weights.shape(node.input[1]))
        described[node.name] = (
            f"{node.op_type} {counts[node.name]} x {shape} {attributes} "
            f"{before.op_type if before else 'input'} {behind}"
        )
    return described
