"""Recovery after quantization: low-rank pairs learn to make up for the rounding that Q/DQ files do.

The student is the very programs the ONNX files were written from, with the files' rounding put
where the files have it (rounding passes gradients straight through: Jacob et al. 2018, arXiv
1712.05877). Its teacher is the same programs without rounding. Both draw whole images from the same
seeds, and what is learnt from is how far these are apart: an error early in a trajectory counts by
what it does to the image. The pairs stand in the networks' own weights, before norms fold into them
and channels are made even: so what was learnt is an ordinary adapter, and merges like one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule

from ...core.graph import Generator, Graph
from ...core.noise import noise
from ...core.rounding import Rounding
from ...core.seeds import RECOVERY_CHOICE, RECOVERY_TRAINING
from ...core.tap import as_written
from ...errors import EdgegenError
from ...families import Family
from ..order import mix
from . import site
from .files import Adapter, Lora

LOOKS = 10  # at the student's images, evenly over the course
WARM = 10  # steps to the full rate
REFRESH = 10  # steps after which tensors that follow the weights are made anew

Calls = Mapping[str, Callable[..., Tensor]]
# graph -> constant -> what evening channels multiplies it by
Followers = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Subject:
    """One graph: its program, and what is rounded of it."""

    graph: Graph
    program: torch.export.ExportedProgram
    rounding: Rounding


@dataclass(frozen=True)
class Course:
    """How long and how fast pairs learn."""

    rank: int
    steps: int
    batch: int
    # of Adam, after WARM steps; falls to 0 along a cosine. As a share of a weight, whatever its
    # size
    rate: float
    seed: int
    looked: int = 32  # images a look


@dataclass(frozen=True)
class Learnt:
    """The adapter of the best look, and the student's squared error of images at each look, over
    that at the start.
    """

    adapter: Adapter
    looks: tuple[float, ...]  # the first is the start: 1


@dataclass(frozen=True)
class Place:
    """A rounded weight of a graph: it moves by `factor` (out, cin, 1, 1) times what its layer's own
    weight moves by.
    """

    graph: str
    weight: str
    layer: str
    factor: Tensor


def recover(
    family: Family,
    config: Any,
    master: Mapping[str, Tensor],
    subjects: Mapping[str, Subject],
    course: Course,
    after: Callable[[], None],
) -> Learnt:
    """The best state of the course, its start included; after: called after each step.

    EdgegenError for graphs whose weights cannot be followed, or a loss that is not finite.
    """
    students = {name: Student(s) for name, s in subjects.items()}
    found = places(family, config, master, students)
    if not found:
        raise EdgegenError(
            "E-RECOVER", "the plan rounds no convolution: there is nothing to recover"
        )
    rng = torch.Generator().manual_seed(mix(course.seed, 0, "recover"))
    pairs = {
        layer: _pair(master[f"{layer}.weight"], course.rank, rng)
        for layer in sorted({p.layer for p in found})
    }
    lesson = Lesson(site.plain(family, config, master), students, found)
    followers = _followers(family, config, master, pairs, students)

    def follow() -> None:
        if followers:
            _refresh(family, config, _merged(master, pairs, course.rank), followers, students)

    def look() -> float:
        follow()
        with torch.no_grad():
            seeds = RECOVERY_CHOICE.take(course.looked)
            parts = [seeds[k : k + course.batch] for k in range(0, len(seeds), course.batch)]
            return sum(len(part) * float(lesson.error(part, pairs)) for part in parts) / len(seeds)

    adam = torch.optim.Adam([p for pair in pairs.values() for p in pair], betas=(0.9, 0.99))
    start = look() or 1.0
    looks, best = [1.0], _adapter(master, pairs, course.rank)
    for step in range(course.steps):
        for group in adam.param_groups:
            group["lr"] = (
                course.rate
                * min(1.0, (step + 1) / WARM)
                * 0.5
                * (1 + math.cos(math.pi * step / course.steps))
            )
        if step % REFRESH == 0:
            follow()
        adam.zero_grad()
        seeds = RECOVERY_TRAINING.take(course.batch, step * course.batch)
        loss = lesson.error(seeds, pairs) / start
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss.item()):
            raise EdgegenError(
                "E-NONFINITE", f"the loss of step {step + 1} is not finite", hint="lower --rate"
            )
        adam.step()
        after()
        if (step + 1) * LOOKS // course.steps > step * LOOKS // course.steps:
            looks.append(look() / start)
            if looks[-1] < min(looks[:-1]):
                best = _adapter(master, pairs, course.rank)
    return Learnt(best, tuple(looks))


class Lesson:
    """A generator's images with and without rounding."""

    def __init__(
        self, generator: Generator, students: Mapping[str, Student], found: Sequence[Place]
    ) -> None:
        self.generator, self.students, self.found = generator, students, found
        self.exact: Calls = {name: student.exact for name, student in students.items()}

    def error(self, seeds: Sequence[int], pairs: Mapping[str, Pair]) -> Tensor:
        """Mean squared difference of rounded images, with these pairs in the weights, from exact
        ones of the same seeds.
        """
        with torch.no_grad():
            wanted = self.images(self.exact, seeds)
        moved: dict[str, dict[str, Tensor]] = {name: {} for name in self.students}
        for p in self.found:
            moved[p.graph][p.weight] = p.factor * _delta(pairs[p.layer], p.factor.shape)
        return (
            (
                self.images({n: s.rounded(moved[n]) for n, s in self.students.items()}, seeds)
                - wanted
            )
            .square()
            .mean()
        )

    def images(self, call: Calls, seeds: Sequence[int]) -> Tensor:
        """(n, c, h, w) in [-1, 1]: what a Pipeline draws, in torch, so that gradients pass through
        the whole trajectory.
        """
        latent = self.generator.latent
        images: Tensor = self.generator.sampler(
            call,
            torch.from_numpy(latent.start(seeds)),
            {name: torch.from_numpy(value) for name, value in latent.condition(seeds).items()},
            lambda stream: torch.from_numpy(noise(latent.noise, seeds, stream)),
        )
        return images


class Student:
    """A graph's program that rounds as its Q/DQ file does, beside the same program as it is."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.teacher = as_written(subject.program)
        self.module, self.weights = rounded(subject)
        even, own = (
            subject.rounding.values,
            (*self.module.named_parameters(), *self.module.named_buffers()),
        )
        self.values = {
            name: torch.from_numpy(even[name].copy())
            if name in even and even[name].shape == tensor.shape
            # the program's own tensors are the teacher's too
            else tensor.detach()
            for name, tensor in own
        }

    def exact(self, **inputs: Tensor) -> Tensor:
        """The output without rounding."""
        out: Tensor = self.teacher(*self._ordered(inputs))
        return out

    def rounded(self, moved: Mapping[str, Tensor]) -> Callable[..., Tensor]:
        """The rounded graph with each weight of `moved` changed by that much; all are rounded here:
        steps follow the weights.
        """
        own = {
            name: whole(self.values[name] + moved[name] if name in moved else self.values[name])
            for name in self.weights
        }
        values = {**self.values, **own}

        def call(**inputs: Tensor) -> Tensor:
            out: Tensor = functional_call(self.module, values, self._ordered(inputs))
            return out

        return call

    def _ordered(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(inputs[spec.name] for spec in self.subject.graph.inputs)


def rounded(subject: Subject) -> tuple[GraphModule, tuple[str, ...]]:
    """The program with rounded activations; names of the weights that the file rounds too."""
    made = as_written(subject.program)
    rounding, graph = subject.rounding, made.graph
    last = next(n for n in graph.nodes if n.op == "output").all_input_nodes[0]
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    named = {n.name: n for n in graph.nodes} | {
        s.name: n for s, n in zip(subject.graph.inputs, inputs, strict=True)
    }
    called = {node: name for name, node in named.items()} | {last: subject.graph.output.name}
    if lost := sorted(
        (rounding.reads.keys() | rounding.int8) - set(called.values())
        | (rounding.codes.keys() - named.keys())
    ):
        raise EdgegenError(
            "E-RECOVER",
            f"{subject.graph.output.name}: the program has no {lost[0]}, which its file rounds",
        )
    whole: dict[str, Any] = {}
    weights = []
    for node in list(graph.nodes):
        for tensor in rounding.reads.get(called[node], ()):
            if tensor not in whole:
                c = rounding.codes[tensor]
                with graph.inserting_before(node):
                    whole[tensor] = graph.call_function(
                        torch.fake_quantize_per_tensor_affine,
                        (named[tensor], c.step, c.zero, c.low, c.high),
                    )
            if named[tensor] not in node.all_input_nodes:
                raise EdgegenError(
                    "E-RECOVER", f"{called[node]} does not read {tensor} as its file does"
                )
            node.replace_input_with(named[tensor], whole[tensor])
        if called[node] in rounding.int8:
            weights.append(str(node.args[1].target))
    made.recompile()
    return made, tuple(weights)


def whole(weight: Tensor) -> Tensor:
    """Rounded to 8 bits as qdq.py writes it, in double precision: symmetric, a step an output
    channel.
    """
    exact = weight.detach().double()
    step = (
        (exact.flatten(1).abs().amax(1) / 127)
        .clamp(min=1e-18)
        .float()
        .reshape(-1, *[1] * (weight.dim() - 1))
    )
    return (exact / step).round().clamp(-127, 127).float() * step + (weight - weight.detach())


def places(
    family: Family, config: Any, master: Mapping[str, Tensor], students: Mapping[str, Student]
) -> tuple[Place, ...]:
    """Which layer each rounded weight comes from, and by what it is multiplied on the way.

    Both are read off graphs of networks whose convolutions hold one number: 1 shows the factor, the
    layer's own number the layer.
    """
    layers = [
        name
        for name, m in family.build(config).networks.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    ones, numbers = (
        _tensors(
            family,
            config,
            {
                **master,
                **{
                    f"{n}.weight": torch.full_like(master[f"{n}.weight"], float(fill(k)))
                    for k, n in enumerate(layers)
                },
            },
        )
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
                raise EdgegenError(
                    "E-RECOVER", f"{graph}: {weight} is no multiple of one layer's weight"
                )
            even = _ratio(before, student.values[weight])
            found.append(Place(graph, weight, layer, factor[:, :, :1, :1] * even))
    return tuple(found)


def _ratio(before: Tensor, after: Tensor) -> Tensor:
    """(out, cin, 1, 1) of after / before, where each is a factor a row times one a column of the
    other.
    """
    place = before.flatten(2).abs().argmax(2, keepdim=True)
    above, below = (t.flatten(2).double().gather(2, place)[..., 0] for t in (after, before))
    # not finite where the weight is 0: rows and columns tell
    sign, ratio = (above * below).sign(), (above / below).abs().log()
    ratio = ratio.where(ratio.isfinite(), torch.nan)
    fill = ratio.nanmean(1, keepdim=True) + ratio.nanmean(0, keepdim=True) - ratio.nanmean()
    return (
        torch.where(ratio.isfinite(), sign, 1)
        * torch.where(ratio.isfinite(), ratio, fill).exp().nan_to_num(1.0)
    )[..., None, None].float()


def _tensors(
    family: Family, config: Any, tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """graph -> its constants by name."""
    graphs = site.plain(family, config, tensors).graphs()
    return {
        name: dict((*g.module.named_parameters(), *g.module.named_buffers()))
        for name, g in graphs.items()
    }


Pair = tuple[Tensor, Tensor]  # A (r, cin, k, k), B (out, r, 1, 1)


def _pair(weight: Tensor, rank: int, rng: torch.Generator) -> Pair:
    """B zero, as PEFT starts; A as large as the weight, so that one rate moves layers of every size
    by the same share.
    """
    a = (
        torch.randn((rank, *weight.shape[1:]), generator=rng)
        * weight.square().mean().sqrt()
        / math.sqrt(rank)
    )
    return a.requires_grad_(), torch.zeros(len(weight), rank, 1, 1, requires_grad=True)


def _delta(pair: Pair, shape: torch.Size) -> Tensor:
    a, b = pair
    return (b.flatten(1) @ a.flatten(1)).reshape(shape[0], *a.shape[1:])


def _adapter(master: Mapping[str, Tensor], pairs: Mapping[str, Pair], rank: int) -> Adapter:
    tensors = {
        f"{layer}.lora_{k}.weight": t.detach().clone()
        for layer, pair in pairs.items()
        for k, t in zip("AB", pair, strict=True)
    }
    return Adapter(Lora(rank, float(rank), tuple(pairs)), tensors, site.digest(master))


def _merged(
    master: Mapping[str, Tensor], pairs: Mapping[str, Pair], rank: int
) -> dict[str, Tensor]:
    nowhere: Any = None
    return _adapter(master, pairs, rank).merged(master, nowhere)


def _followers(
    family: Family,
    config: Any,
    master: Mapping[str, Tensor],
    pairs: Mapping[str, Pair],
    students: Mapping[str, Student],
) -> Followers:
    """Constants that change with the weights of pairs without being one, such as isc-gan's
    energies.
    """
    shaken = {**master, **{f"{layer}.weight": master[f"{layer}.weight"] * 1.1 for layer in pairs}}
    before, after = _tensors(family, config, master), _tensors(family, config, shaken)
    found = {
        graph: {
            n: (s.values[n] / t).nan_to_num(1.0)
            for n, t in before[graph].items()
            if n not in s.weights and not torch.equal(t, after[graph][n])
        }
        for graph, s in students.items()
    }
    return {graph: names for graph, names in found.items() if names}


def _refresh(
    family: Family,
    config: Any,
    tensors: Mapping[str, Tensor],
    followers: Followers,
    students: Mapping[str, Student],
) -> None:
    """No gradient passes this way: what follows a weight here takes out its length, which rounding
    does not see either.
    """
    now = _tensors(family, config, tensors)
    for graph, found in followers.items():
        for name, even in found.items():
            students[graph].values[name] = now[graph][name].detach() * even
