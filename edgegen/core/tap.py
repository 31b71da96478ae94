"""The places where a graph can be cut in two, with both halves and the tensors that cross the cut.
(torch)

torch.export traces the graph, as for ONNX, so layers carry the module paths that plans use too, and
no hooks are needed. A cut is complete by construction: it holds every tensor that is computed
before it and read after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, fx, nn

from .graph import Graph


@dataclass(frozen=True)
class Cut:
    """One place between two modules at which a graph is cut.

    maps: the feature maps that cross it, name -> (c, h, w); beside: the names of all other tensors
    that cross it.
    """

    name: str
    maps: Mapping[str, tuple[int, int, int]]
    beside: tuple[str, ...]
    _program: fx.GraphModule = field(repr=False, compare=False)
    _outputs: tuple[fx.Node, ...] = field(repr=False, compare=False)

    @property
    def numbers(self) -> int:
        """The number of values in the feature maps of one image."""
        return sum(prod(shape) for shape in self.maps.values())

    def before(self) -> nn.Module:
        """Return the first half: the graph's inputs -> the tuple (*maps, *beside)."""
        nodes = {node.name: node for node in self._program.graph.nodes}
        crossing = tuple(nodes[name] for name in (*self.maps, *self.beside))
        inputs = [node for node in nodes.values() if node.op == "placeholder"]
        return _part(self._program, inputs, crossing)

    def after(self) -> nn.Module:
        """Return the second half: the tensors (*maps, *beside) by name -> the graph's output."""
        nodes = {node.name: node for node in self._program.graph.nodes}
        return _part(
            self._program, [nodes[name] for name in (*self.maps, *self.beside)], self._outputs[0]
        )


def cuts(graph: Graph) -> tuple[Cut, ...]:
    """Return the narrow cuts of a graph in the order it runs.

    There is one after each module that is not from torch.nn, unless fewer values cross next to it.
    So a residual block is one layer, and its skip connection crosses beside it. Graphs without
    feature maps have no cuts.
    """
    program = traced(graph)
    nodes = list(program.graph.nodes)
    place = {node: k for k, node in enumerate(nodes)}
    moving = _moving(nodes)
    outputs = tuple(node for node in nodes[-1].all_input_nodes)
    last = {node: max((place[user] for user in node.users), default=-1) for node in moving}
    alive = [[node for node in moving if place[node] <= k < last[node]] for k in range(len(nodes))]
    width = [sum(prod(_shape(node)) for node in crossing if _is_map(node)) for crossing in alive]
    paths: dict[int, str] = {}
    for path, end in _ends(nodes, place).items():
        following = next(
            (k for k in range(end + 1, len(nodes)) if _path(nodes[k]) not in ("", path)),
            len(nodes) - 1,
        )
        k = min(range(end, max(following, end + 1)), key=lambda k: width[k])
        maps = [node for node in alive[k] if _is_map(node)]
        if (
            maps != list(outputs)
            and nodes[end] in _needed(maps, set())
            and len(path) > len(paths.get(k, ""))
        ):
            paths[k] = path
    narrow = _narrowest([(paths[k], k) for k in sorted(paths)], width)
    names = _short([path for path, _ in narrow])
    return tuple(
        _cut(name, program, alive[k], outputs) for name, (_, k) in zip(names, narrow, strict=True)
    )


def _narrowest(outputs: list[tuple[str, int]], width: Sequence[int]) -> list[tuple[str, int]]:
    """Keep the blocks among the places (path, place) instead of their parts.

    A place that is not a block is kept if it is no wider than its neighbours.
    """
    paths = [path for path, _ in outputs]

    def height(path: str) -> int:
        return max(
            (1 + height(other) for other in paths if other.startswith(f"{path}.")), default=0
        )

    blocks = [(path, k) for path, k in outputs if height(path) == 1]
    rest = [
        (path, k)
        for path, k in outputs
        if not any(path.startswith(f"{block}.") and width[end] <= width[k] for block, end in blocks)
    ]
    narrowest = []
    for i, (path, k) in enumerate(rest):
        beside = [
            other for name, other in rest[max(0, i - 1) : i + 2] if not path.startswith(f"{name}.")
        ]
        if (path, k) in blocks or all(width[k] <= width[other] for other in beside):
            narrowest.append((path, k))
    return narrowest


def traced(graph: Graph) -> fx.GraphModule:
    """Trace a graph with torch.export into its operators in the order they run, for any batch."""
    examples = {
        spec.name: torch.zeros(spec.sized(**{axis: 2 for axis in spec.dynamic.values()}))
        for spec in graph.inputs
    }
    shapes = {spec.name: {i: torch.export.Dim.AUTO for i in spec.dynamic} for spec in graph.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own deprecations, many a release
        exported = torch.export.export(graph.loaded(), (), examples, dynamic_shapes=shapes)
        module = exported.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


def as_written(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """Return the program as a module whose nodes have the names of the ONNX file's tensors.

    Copies (aten.clone) are removed, because the file does not have them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    # Dropout in eval mode is traced as a clone.
    for node in [
        n for n in module.graph.nodes if n.target is torch.ops.aten.clone.default and not n.kwargs
    ]:
        node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)
    module.recompile()
    return module


def _cut(
    name: str, program: fx.GraphModule, alive: Sequence[fx.Node], outputs: tuple[fx.Node, ...]
) -> Cut:
    maps = {node.name: _shape(node) for node in alive if _is_map(node)}
    stop = {node for node in alive if _is_tensor(node)}
    seen = _needed(outputs, stop)  # sizes do not cross: they are read from their input again
    beside = tuple(
        node.name
        for node in program.graph.nodes
        if node in seen and node.name not in maps and (node in stop or node.op == "placeholder")
    )
    return Cut(name, maps, beside, program, outputs)


def _part(
    program: fx.GraphModule, inputs: Sequence[fx.Node], outputs: fx.Node | tuple[fx.Node, ...]
) -> nn.Module:
    """Return a module of the operators from `inputs`, its arguments, to `outputs`."""
    part = fx.Graph()
    copies = {node: part.placeholder(node.name) for node in inputs}
    needed = _needed(outputs if isinstance(outputs, tuple) else (outputs,), set(inputs))
    for node in program.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = part.node_copy(node, lambda old: copies[old])
    part.output(fx.map_arg(outputs, lambda old: copies[old]))
    return fx.GraphModule(program, part)


def _needed(outputs: Iterable[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
    """Return all nodes from which `outputs` are computed, back to the nodes in `stop`."""
    seen: set[fx.Node] = set()
    waiting = list(outputs)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [] if node in stop else node.all_input_nodes
    return seen


def _moving(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes that depend on the inputs; all others depend on weights only."""
    moving: dict[fx.Node, None] = {}
    for node in nodes:
        if node.op == "placeholder" or any(source in moving for source in node.all_input_nodes):
            moving[node] = None
    return list(moving)


def _ends(nodes: Sequence[fx.Node], place: Mapping[fx.Node, int]) -> dict[str, int]:
    """Return the place of the last node of each module, by path, without those of torch.nn."""
    ends: dict[str, int] = {}
    for node in nodes:
        for path, kind in _stack(node):
            if path and not kind.startswith("torch.nn."):
                ends[path] = place[node]
    return ends


def _stack(node: fx.Node) -> list[tuple[str, str]]:
    entries = node.meta.get("nn_module_stack", {}).values() if node.op == "call_function" else ()
    return [
        (path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}")
        for path, kind in entries
    ]


def _path(node: fx.Node) -> str:
    """Return the path of the innermost module that computes a node; "" for the graph itself."""
    stack = _stack(node)
    return stack[-1][0] if stack else ""


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _is_map(node: fx.Node) -> bool:
    """Return whether a node computes feature maps (b, c, h, w); the graph's inputs do not count."""
    return (
        node.op == "call_function"
        and _is_tensor(node)
        and node.meta["val"].ndim == 4
        and prod(_shape(node)[1:]) > 1
    )


def _shape(node: fx.Node) -> tuple[int, int, int]:
    c, h, w = (int(size) for size in node.meta["val"].shape[1:])
    return c, h, w


def _short(paths: Sequence[str]) -> list[str]:
    """Shorten each path to its shortest unique beginning: blocks.1.colours -> blocks.1."""
    parts = [path.split(".") for path in paths]
    names = []
    for mine in parts:
        length = next(
            n
            for n in range(1, len(mine) + 1)
            if sum(other[:n] == mine[:n] for other in parts) == 1 or n == len(mine)
        )
        names.append(".".join(mine[:length]))
    return names
