"""A graph's program with a gate at each rounding of its Q/DQ file: with all gates 0 it computes in
full precision, with all gates 1 as the file does. (torch)

The slope of an image along a gate is the effect of that one rounding on the image. Later roundings
pass slopes straight through (Jacob et al. 2018, arXiv 1712.05877).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call

from ..core.graph import Graph
from ..core.rounding import Rounding
from ..core.tap import as_written
from ..errors import EdgegenError


class Gated:
    """A graph with gates: gates (b, places) and the inputs by name -> the graph's output.

    places: those of Rounding, in the order in which they run.
    """

    def __init__(
        self, graph: Graph, program: torch.export.ExportedProgram, rounding: Rounding
    ) -> None:
        """Insert the gates into a program.

        program: the one from which the file was written, so that its nodes have the names of the
        file's tensors; EdgegenError for another.
        """
        self._names = [spec.name for spec in graph.inputs]
        self.places: tuple[tuple[str, str], ...] = ()
        self._module = self._gated(as_written(program), graph, rounding)
        own = (*self._module.named_parameters(), *self._module.named_buffers())
        even = rounding.values
        self._values = {
            name: torch.from_numpy(even[name].copy())
            if name in even and even[name].shape == tensor.shape
            else tensor.detach()
            for name, tensor in own
        }

    def __call__(self, gates: Tensor, **inputs: Tensor) -> Tensor:
        out: Tensor = functional_call(
            self._module, self._values, (gates, *(inputs[name] for name in self._names))
        )
        return out

    def _gated(self, module: fx.GraphModule, graph: Graph, rounding: Rounding) -> fx.GraphModule:
        made = module.graph
        made.set_codegen(fx.graph.CodeGen())  # plain arguments, not the exporter's tree of them
        inputs = [n for n in made.nodes if n.op == "placeholder"]
        end = next(n for n in made.nodes if n.op == "output")
        last = end.all_input_nodes[0]
        end.args = (last,)
        named = {n.name: n for n in made.nodes} | {
            s.name: n for s, n in zip(graph.inputs, inputs, strict=True)
        }
        operations = {n.name: n for n in made.nodes} | {graph.output.name: last}
        asked = {op for op, _ in rounding.places}
        if lost := sorted((asked - operations.keys()) | (rounding.codes.keys() - named.keys())):
            raise EdgegenError(
                "E-EXPLAIN",
                f"{graph.output.name}: the program has no {lost[0]}, which its file rounds",
            )
        with made.inserting_before(inputs[0]):
            gates = made.placeholder("gates")
        order = {n: k for k, n in enumerate(made.nodes)}
        for op in sorted(asked, key=lambda op: order[operations[op]]):
            node = operations[op]
            for tensor in rounding.reads.get(op, ()):
                code = rounding.codes[tensor]
                if named[tensor] not in node.all_input_nodes:
                    raise EdgegenError(
                        "E-EXPLAIN",
                        f"{graph.output.name}: {op} does not read {tensor} as its file does",
                    )
                with made.inserting_before(node):
                    soft = made.call_function(
                        _rounded,
                        (
                            named[tensor],
                            gates,
                            len(self.places),
                            code.step,
                            code.zero,
                            code.low,
                            code.high,
                        ),
                    )
                node.replace_input_with(named[tensor], soft)
                self.places += ((op, tensor),)
            if op in rounding.weights:
                named[op] = self._weight(module, node, gates, rounding.weights[op])
                self.places += ((op, ""),)
        return fx.GraphModule(module, made)

    def _weight(self, module: fx.GraphModule, node: fx.Node, gates: fx.Node, whole: Any) -> fx.Node:
        """Add what rounding its weight changes to the layer `node`, and return the new node."""
        name = f"rounded_{len(self.places)}"
        module.register_buffer(name, torch.from_numpy(whole))
        x, weight, _, *rest = (*node.args, None)[: max(3, len(node.args))]
        with node.graph.inserting_after(node):
            buffer = node.graph.get_attr(name)
        with node.graph.inserting_after(buffer):
            layer: Any = node.target
            made = node.graph.call_function(
                _added, (node, gates, len(self.places), layer, x, weight, buffer, *rest)
            )
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        return made


def _rounded(
    x: Tensor, gates: Tensor, place: int, step: float, zero: int, low: int, high: int
) -> Tensor:
    return x + _gate(gates, place, x) * (
        torch.fake_quantize_per_tensor_affine(x, step, zero, low, high) - x
    )


def _added(
    y: Tensor, gates: Tensor, place: int, layer: Any, x: Tensor, weight: Tensor, *more: Any
) -> Tensor:
    """Return y plus the gated change by the rounded weight.

    more: the rounded weight, and the layer's other arguments.
    """
    whole, *rest = more
    change: Tensor = layer(x, whole - weight, None, *rest)
    return y + _gate(gates, place, y) * change


def _gate(gates: Tensor, place: int, x: Tensor) -> Tensor:
    """Return the gates of one place (b,), shaped to multiply x (b, ...)."""
    return gates[:, place].reshape(-1, *[1] * (x.dim() - 1))
