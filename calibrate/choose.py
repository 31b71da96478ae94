"""From statistics to a plan. Where INT8 costs most and saves least, at a graph's two ends, weights stay in full precision."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgegen.core.plan import Plan, Precision

from .observe import ActivationStats


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
