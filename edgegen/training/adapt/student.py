"""A graph's program with the rounding of its Q/DQ file, beside the same program without it.

Rounding passes gradients straight through (Jacob et al. 2018, arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx import GraphModule, Node

from ...core.graph import Graph
from ...core.rounding import Rounding
from ...core.tap import as_written
from ...errors import EdgegenError


@dataclass(frozen=True)
class Subject:
    """One graph with its program and its rounding."""

    graph: Graph
    program: torch.export.ExportedProgram
    rounding: Rounding


class Student:
    """A program with and without rounding.

    values: constants of the program with equalized channels; weights: names of those that the file
    rounds.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.teacher = as_written(subject.program)
        self.module, self.weights = with_rounding(subject)
        even = subject.rounding.values
        own = (*self.module.named_parameters(), *self.module.named_buffers())
        self.values = {
            name: torch.from_numpy(even[name].copy())
            if name in even and even[name].shape == tensor.shape
            # the program's own tensors are shared with the teacher
            else tensor.detach()
            for name, tensor in own
        }

    def exact(self, **inputs: Tensor) -> Tensor:
        """Return the graph's output without rounding."""
        out: Tensor = self.teacher(*self._ordered(inputs))
        return out

    def rounded(self, moved: Mapping[str, Tensor]) -> Callable[..., Tensor]:
        """Return the rounded graph with the changes `moved` added to its weights.

        The weights are rounded after that, so the steps of the rounding depend on them.
        """
        own = {
            name: round_weight(
                self.values[name] + moved[name] if name in moved else self.values[name],
                self.subject.rounding.largest_weight,
            )
            for name in self.weights
        }
        values = {**self.values, **own}

        def call(**inputs: Tensor) -> Tensor:
            out: Tensor = functional_call(self.module, values, self._ordered(inputs))
            return out

        return call

    def _ordered(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(inputs[spec.name] for spec in self.subject.graph.inputs)


def with_rounding(subject: Subject) -> tuple[GraphModule, tuple[str, ...]]:
    """Return the program with rounded activations, and the names of the weights that the file
    rounds.
    """
    module = as_written(subject.program)
    rounding, graph = subject.rounding, module.graph
    nodes, names = _named(subject, module)
    rounded: dict[str, Node] = {}
    weights = []
    for node in list(graph.nodes):
        for tensor in rounding.reads.get(names[node], ()):
            if tensor not in rounded:
                code = rounding.codes[tensor]
                with graph.inserting_before(node):
                    rounded[tensor] = graph.call_function(
                        torch.fake_quantize_per_tensor_affine,
                        (nodes[tensor], code.step, code.zero, code.low, code.high),
                    )
            if nodes[tensor] not in node.all_input_nodes:
                raise EdgegenError(
                    "E-RECOVER", f"{names[node]} does not read {tensor} as its file does"
                )
            node.replace_input_with(nodes[tensor], rounded[tensor])
        if names[node] in rounding.int8:
            weights.append(str(node.args[1].target))
    module.recompile()
    return module, tuple(weights)


def _named(subject: Subject, module: GraphModule) -> tuple[dict[str, Node], dict[Node, str]]:
    """Return the program's nodes by their names in the file, and the names by node.

    EdgegenError if the file rounds something that the program does not have.
    """
    rounding, graph = subject.rounding, module.graph
    last = next(node for node in graph.nodes if node.op == "output").all_input_nodes[0]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    nodes = {node.name: node for node in graph.nodes} | {
        spec.name: node for spec, node in zip(subject.graph.inputs, inputs, strict=True)
    }
    output = subject.graph.output.name
    names = {node: name for name, node in nodes.items()} | {last: output}
    operations = rounding.reads.keys() | rounding.int8
    if lost := sorted((operations - set(names.values())) | (rounding.codes.keys() - nodes.keys())):
        raise EdgegenError(
            "E-RECOVER", f"{output}: the program has no {lost[0]}, which its file rounds"
        )
    return nodes, names


def round_weight(weight: Tensor, largest: int) -> Tensor:
    """Round a weight as qdq.py does, in double precision: symmetric, with one step per output
    channel and integers up to `largest`; gradients pass straight through.
    """
    exact = weight.detach().double()
    step = (exact.flatten(1).abs().amax(1) / largest).clamp(min=1e-18).float()
    step = step.reshape(-1, *[1] * (weight.dim() - 1))
    # the value is rounded, but the gradient is that of the weight
    return (exact / step).round().clamp(-largest, largest).float() * step + (
        weight - weight.detach()
    )
