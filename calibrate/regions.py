"""Regions of a graph: convolutions that feed one another alone, so that in one precision nothing converts between them."""

from __future__ import annotations

import onnx

JOINS = frozenset({"Add", "Sum", "Concat"})  # of two paths
BREAKS = frozenset({"Resize"})               # to another resolution, and so to other costs


def regions(model: onnx.ModelProto) -> list[tuple[str, ...]]:
    """Each region's convolutions, in graph order; every convolution of the graph is in one.

    A convolution belongs to the region of the one before it when it is the only reader of that one's output, whatever stands
    between (normalization, activation, a style) but a sum or a concatenation of two paths, or a change of resolution.
    """
    sources: dict[str, frozenset[str]] = {}  # tensor -> convolutions and joins whose outputs it is made of
    readers: dict[str, set[str]] = {}        # of these -> convolutions, joins and outputs that read it
    before: dict[str, frozenset[str]] = {}   # convolution -> what its data comes from
    found: dict[str, list[str]] = {}         # convolution -> its region
    for node in model.graph.node:
        reads = [sources[t] for t in node.input if sources.get(t)]
        whole = frozenset[str]().union(*reads)
        convolves = node.op_type == "Conv"
        if convolves or node.op_type in BREAKS or (node.op_type in JOINS and len(reads) > 1):
            for source in whole:
                readers.setdefault(source, set()).add(node.name)
            if convolves:
                before[node.name] = sources.get(node.input[0], frozenset())
            whole = frozenset({node.name})
        sources |= dict.fromkeys(node.output, whole)
    for value in model.graph.output:
        for source in sources.get(value.name, frozenset()):
            readers.setdefault(source, set()).add(f"output {value.name}")
    for node in model.graph.node:
        if node.op_type == "Conv":
            above = next(iter(before[node.name]), "") if len(before[node.name]) == 1 else ""
            region = found[above] if above in found and readers[above] == {node.name} else []
            region.append(node.name)
            found[node.name] = region
    unique = {id(region): tuple(region) for region in found.values()}
    return list(unique.values())
