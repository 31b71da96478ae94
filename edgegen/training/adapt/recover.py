"""Recovery after quantization: low-rank pairs learn to make up for the rounding that a Q/DQ file does.

The student is the very program the ONNX file was written from, with the file's rounding put where the file has it (rounding
passes gradients straight through: Jacob et al. 2018, arXiv 1712.05877). Its teacher is the same program without rounding, on
what the sampler really asks. The pairs stand in the networks' own weights, before norms fold into them and channels are made
even: so what was learnt is an ordinary adapter, and merges like one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from ...core.graph import Graph
from ...core.rounding import Rounding
from ...core.spec import Array
from ...errors import EdgegenError
from ...families import Family
from ..order import mix
from . import site
from .files import Adapter, Lora

CLIP = 1.0    # of the gradient's norm
REFRESH = 10  # steps after which tensors that follow the weights are made anew


@dataclass(frozen=True)
class Subject:
    """One graph: its program, what is rounded of it, and what it is asked along trajectories: named inputs, call by call."""

    graph: Graph
    program: torch.export.ExportedProgram
    rounding: Rounding
    calls: Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Course:
    """How long and how fast pairs learn."""

    rank: int
    steps: int
    batch: int
    rate: float
    seed: int


@dataclass(frozen=True)
class Place:
    """A rounded weight of a graph: it moves by `factor` (out, cin, 1, 1) times what its layer's own weight moves by."""

    graph: str
    weight: str
    layer: str
    factor: Tensor


def recover(family: Family, config: Any, master: Mapping[str, Tensor], subjects: Mapping[str, Subject], course: Course,
            after: Callable[[float], None]) -> Adapter:
    """The adapter after the course; after: told each step's loss, 1 at the start.

    EdgegenError for graphs whose weights cannot be followed, or a loss that is not finite.
    """
    students = {name: Student(s) for name, s in subjects.items() if s.rounding.int8}
    found = places(family, config, master, students)
    if not found:
        raise EdgegenError("E-RECOVER", "the plan rounds no convolution: there is nothing to recover")
    rng = torch.Generator().manual_seed(mix(course.seed, 0, "recover"))
    pairs = {layer: _pair(master[f"{layer}.weight"], course.rank, rng) for layer in sorted({p.layer for p in found})}
    params = [p for pair in pairs.values() for p in pair]
    adam = torch.optim.Adam(params)
    followers = _followers(family, config, master, pairs, students)
    start = {name: float(student.loss(*student.inputs(range(len(student.subject.calls)), 4), {}))
             for name, student in students.items()}
    for step in range(course.steps):
        for group in adam.param_groups:
            group["lr"] = course.rate * 0.5 * (1 + math.cos(math.pi * step / course.steps))
        if followers and step % REFRESH == 0:
            _refresh(family, config, _merged(master, pairs, course.rank), followers, students)
        total = 0.0
        adam.zero_grad()
        for name, student in students.items():
            moved = {p.weight: p.factor * _delta(pairs[p.layer], p.factor.shape) for p in found if p.graph == name}
            loss = student.loss(*student.drawn(course.batch, rng), moved) / (start[name] or 1)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item() / len(students)
        if not math.isfinite(total):
            raise EdgegenError("E-NONFINITE", f"the loss of step {step + 1} is not finite", hint="lower --rate")
        nn.utils.clip_grad_norm_(params, CLIP)
        adam.step()
        after(total)
    return _adapter(master, pairs, course.rank)


class Student:
    """A graph's program that rounds as its Q/DQ file does, beside the same program as it is."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.teacher = _module(subject.program)
        self.module, self.weights = rounded(subject)
        even, own = subject.rounding.values, (*self.module.named_parameters(), *self.module.named_buffers())
        self.values = {name: torch.from_numpy(even[name].copy()) if name in even and even[name].shape == tensor.shape
                       else tensor.detach() for name, tensor in own}  # the program's own tensors are the teacher's too

    def __call__(self, inputs: Sequence[Tensor], moved: Mapping[str, Tensor]) -> Tensor:
        """The output with each weight of `moved` changed by that much; all are rounded here, since steps follow the weights."""
        own = {name: _whole(self.values[name] + moved[name] if name in moved else self.values[name]) for name in self.weights}
        return functional_call(self.module, {**self.values, **own}, tuple(inputs))

    def loss(self, inputs: Sequence[Tensor], wanted: Tensor, moved: Mapping[str, Tensor]) -> Tensor:
        """Mean squared difference from the teacher."""
        return (self(inputs, moved) - wanted).square().mean()

    def inputs(self, calls: Sequence[int], count: int) -> tuple[list[Tensor], Tensor]:
        """The first `count` rows of these calls, joined, and what the teacher says to them."""
        rows = slice(0, count)
        return self._asked([{k: v[rows] for k, v in self.subject.calls[c].items()} for c in calls])

    def drawn(self, count: int, rng: torch.Generator) -> tuple[list[Tensor], Tensor]:
        """`count` rows of one call, both drawn."""
        call = self.subject.calls[int(torch.randint(len(self.subject.calls), (), generator=rng))]
        length = len(next(iter(call.values())))
        rows = torch.randperm(length, generator=rng)[:count].numpy()
        return self._asked([{k: v[rows] for k, v in call.items()}])

    def _asked(self, parts: Sequence[Mapping[str, Array]]) -> tuple[list[Tensor], Tensor]:
        inputs = [torch.cat([torch.from_numpy(part[spec.name]) for part in parts]) for spec in self.subject.graph.inputs]
        with torch.no_grad():
            return inputs, self.teacher(*inputs)


def rounded(subject: Subject) -> tuple[GraphModule, tuple[str, ...]]:
    """The program with rounded activations; names of the weights that the file rounds too."""
    made = _module(subject.program)
    rounding, graph = subject.rounding, made.graph
    for node in [n for n in graph.nodes if n.op == "call_module"]:
        graph.erase_node(node)  # guards of the inputs' shapes
    last = next(n for n in graph.nodes if n.op == "output").all_input_nodes[0]
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    named = {n.name: n for n in graph.nodes} | {s.name: n for s, n in zip(subject.graph.inputs, inputs, strict=True)}
    called = {node: name for name, node in named.items()} | {last: subject.graph.output.name}
    if lost := sorted((rounding.reads.keys() | rounding.int8) - set(called.values()) | (rounding.codes.keys() - named.keys())):
        raise EdgegenError("E-RECOVER", f"{subject.graph.output.name}: the program has no {lost[0]}, which its file rounds")
    whole: dict[str, Any] = {}
    weights = []
    for node in list(graph.nodes):
        for tensor in rounding.reads.get(called[node], ()):
            if tensor not in whole:
                c = rounding.codes[tensor]
                with graph.inserting_before(node):
                    whole[tensor] = graph.call_function(torch.fake_quantize_per_tensor_affine,
                                                        (named[tensor], c.step, c.zero, c.low, c.high))
            node.replace_input_with(named[tensor], whole[tensor])
        if called[node] in rounding.int8:
            weights.append(str(node.args[1].target))
    made.recompile()
    return made, tuple(weights)


def _module(program: torch.export.ExportedProgram) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        return program.module()


def _whole(weight: Tensor) -> Tensor:
    """Rounded to 8 bits as the file has it: symmetric, a step an output channel."""
    step = (weight.detach().flatten(1).abs().amax(1) / 127).clamp(min=1e-18)
    return torch.fake_quantize_per_channel_affine(weight, step, torch.zeros_like(step, dtype=torch.int32), 0, -127, 127)


def places(family: Family, config: Any, master: Mapping[str, Tensor], students: Mapping[str, Student]) -> tuple[Place, ...]:
    """Which layer each rounded weight comes from, and by what it is multiplied on the way.

    Both are read off graphs of networks whose convolutions hold one number: 1 shows the factor, the layer's own number the layer.
    """
    layers = [name for name, m in family.build(config).networks.named_modules() if isinstance(m, nn.Conv2d)]
    ones, numbers = (
        _tensors(family, config, {**master, **{f"{n}.weight": torch.full_like(master[f"{n}.weight"], float(fill(k)))
                                              for k, n in enumerate(layers)}})
        for fill in (lambda k: 1, lambda k: k + 1)
    )
    own = _tensors(family, config, master)
    found = []
    for graph, student in students.items():
        for weight in student.weights:
            factor, number = ones[graph][weight], numbers[graph][weight]
            place = factor.abs().argmax()
            if not factor.flatten()[place]:
                continue  # a norm has silenced the layer: no pair could be heard
            layer = layers[round(float(number.flatten()[place] / factor.flatten()[place])) - 1]
            made, before = factor * master[f"{layer}.weight"], own[graph][weight]
            if made.shape != before.shape or not torch.allclose(made, before, rtol=1e-4, atol=1e-6):
                raise EdgegenError("E-RECOVER", f"{graph}: {weight} is no multiple of one layer's weight")
            even = _ratio(before, student.values[weight])
            found.append(Place(graph, weight, layer, factor[:, :, :1, :1] * even))
    return tuple(found)


def _ratio(before: Tensor, after: Tensor) -> Tensor:
    """(out, cin, 1, 1) of after / before, where each is a factor a row times one a column of the other."""
    place = before.flatten(2).abs().argmax(2, keepdim=True)
    above, below = (t.flatten(2).double().gather(2, place)[..., 0] for t in (after, before))
    ratio = (above / below).log()  # NaN where the weight is 0: rows and columns tell what belongs there
    fill = ratio.nanmean(1, keepdim=True) + ratio.nanmean(0, keepdim=True) - ratio.nanmean()
    return torch.where(ratio.isfinite(), ratio, fill).exp().nan_to_num(1.0)[..., None, None].float()


def _tensors(family: Family, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """graph -> its constants by name."""
    graphs = site.plain(family, config, tensors).graphs()
    return {name: dict((*g.module.named_parameters(), *g.module.named_buffers())) for name, g in graphs.items()}


Pair = tuple[Tensor, Tensor]  # A (r, cin, k, k), B (out, r, 1, 1)


def _pair(weight: Tensor, rank: int, rng: torch.Generator) -> Pair:
    """PEFT's start: a random A, and B zero."""
    a = torch.randn((rank, *weight.shape[1:]), generator=rng) / math.sqrt(weight[0].numel())
    return a.requires_grad_(), torch.zeros(len(weight), rank, 1, 1, requires_grad=True)


def _delta(pair: Pair, shape: torch.Size) -> Tensor:
    a, b = pair
    return (b.flatten(1) @ a.flatten(1)).reshape(shape[0], *a.shape[1:])


def _adapter(master: Mapping[str, Tensor], pairs: Mapping[str, Pair], rank: int) -> Adapter:
    tensors = {f"{layer}.lora_{k}.weight": t.detach().clone()
               for layer, pair in pairs.items() for k, t in zip("AB", pair, strict=True)}
    return Adapter(Lora(rank, float(rank), tuple(pairs)), tensors, site.digest(master))


def _merged(master: Mapping[str, Tensor], pairs: Mapping[str, Pair], rank: int) -> dict[str, Tensor]:
    nowhere: Any = None
    return _adapter(master, pairs, rank).merged(master, nowhere)


def _followers(family: Family, config: Any, master: Mapping[str, Tensor], pairs: Mapping[str, Pair],
               students: Mapping[str, Student]) -> dict[str, list[str]]:
    """graph -> constants that change with the weights of pairs without being one, such as isc-gan's energies."""
    shaken = {**master, **{f"{layer}.weight": master[f"{layer}.weight"] * 1.1 for layer in pairs}}
    before, after = _tensors(family, config, master), _tensors(family, config, shaken)
    found = {graph: [n for n, t in before[graph].items() if n not in s.weights and not torch.equal(t, after[graph][n])]
             for graph, s in students.items()}
    return {graph: names for graph, names in found.items() if names}


def _refresh(family: Family, config: Any, tensors: Mapping[str, Tensor], followers: Mapping[str, Sequence[str]],
             students: Mapping[str, Student]) -> None:
    """No gradient passes this way: what follows a weight here takes out its length, which rounding does not see either."""
    now = _tensors(family, config, tensors)
    for graph, names in followers.items():
        for name in names:
            students[graph].values[name] = now[graph][name].detach()
