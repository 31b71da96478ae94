"""Recovery after quantization: low-rank pairs learn to compensate for the rounding of Q/DQ files.

The student consists of the programs from which the ONNX files were written, with the files'
rounding at the same places. Its teacher is the same programs without rounding. Both draw whole
images from the same seeds, and the loss is their difference, so that an early error in a trajectory
counts by its effect on the image. The pairs belong to the networks' own weights, before norms are
folded and channels equalized, so the result is an ordinary adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.graph import Generator
from ...core.noise import noise
from ...core.seeds import RECOVERY_CHOICE, RECOVERY_TRAINING
from ...errors import EdgegenError
from ...families import Family
from ..order import mix
from . import site
from .files import Adapter, Lora
from .followed_weights import Followers, RoundedWeight, rounded_weights
from .student import Student, Subject

EVALUATIONS = 10  # evaluations of the student's images, evenly spaced over the course
WARMUP_STEPS = 10  # steps to the full rate
REFRESH_STEPS = 10  # steps after which constants that depend on the weights are recomputed

Calls = Mapping[str, Callable[..., Tensor]]
Pair = tuple[Tensor, Tensor]  # A (r, cin, k, k), B (out, r, 1, 1)


@dataclass(frozen=True)
class Course:
    """The settings of a recovery's training."""

    rank: int
    steps: int
    batch: int
    rate: float  # of Adam after the warm-up, as a share of a weight, whatever its size
    seed: int
    evaluation_images: int = 32

    def rate_at(self, step: int) -> float:
        """Return the rate at a step, with a linear warm-up, and falling to 0 along a cosine."""
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def evaluates_after(self, step: int) -> bool:
        """Return whether one of the EVALUATIONS is due after this step."""
        return (step + 1) * EVALUATIONS // self.steps > step * EVALUATIONS // self.steps

    def to_json(self) -> dict[str, Any]:
        """Return the form of the course in run.json."""
        fields = dict(vars(self))
        return {**fields, "looked": fields.pop("evaluation_images")}


@dataclass(frozen=True)
class Learnt:
    """The adapter of the best evaluation, and the student's squared image error at each evaluation,
    relative to that at the start.
    """

    adapter: Adapter
    errors: tuple[float, ...]  # the first is the start: 1


def recover(
    family: Family,
    config: Any,
    master: Mapping[str, Tensor],
    subjects: Mapping[str, Subject],
    course: Course,
    after: Callable[[], None],
) -> Learnt:
    """Train the pairs, and return the best evaluated state, which may be the start.

    after: called after each step. EdgegenError if weights cannot be traced to the graphs, nothing
    is rounded, or a loss is not finite.
    """
    students = {name: Student(subject) for name, subject in subjects.items()}
    weights = rounded_weights(family, config, master, students)
    if not weights:
        raise EdgegenError(
            "E-RECOVER", "the plan rounds no convolution: there is nothing to recover"
        )
    pairs = initial_pairs(master, {weight.layer for weight in weights}, course)
    lesson = Lesson(site.plain(family, config, master), students, weights)
    followers = Followers.of(family, config, master, pairs.keys(), students)

    def refresh() -> None:
        if followers.factors:
            followers.refresh(adapter_of(master, pairs, course.rank).merged(master, Path()))

    def evaluate() -> float:
        refresh()
        return lesson.mean_error(
            RECOVERY_CHOICE.take(course.evaluation_images), course.batch, pairs
        )

    adam = torch.optim.Adam([p for pair in pairs.values() for p in pair], betas=(0.9, 0.99))
    start = evaluate() or 1.0
    errors, best = [1.0], adapter_of(master, pairs, course.rank)
    for step in range(course.steps):
        for group in adam.param_groups:
            group["lr"] = course.rate_at(step)
        if step % REFRESH_STEPS == 0:
            refresh()
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
        if course.evaluates_after(step):
            errors.append(evaluate() / start)
            if errors[-1] < min(errors[:-1]):
                best = adapter_of(master, pairs, course.rank)
    return Learnt(best, tuple(errors))


class Lesson:
    """A generator's images with and without rounding."""

    def __init__(
        self,
        generator: Generator,
        students: Mapping[str, Student],
        weights: Sequence[RoundedWeight],
    ) -> None:
        self.generator, self.students, self.weights = generator, students, weights
        self.exact: Calls = {name: student.exact for name, student in students.items()}

    def error(self, seeds: Sequence[int], pairs: Mapping[str, Pair]) -> Tensor:
        """Return the mean squared difference of rounded images, with these pairs in the weights,
        from exact images of the same seeds.
        """
        with torch.no_grad():
            wanted = self.images(self.exact, seeds)
        moved: dict[str, dict[str, Tensor]] = {name: {} for name in self.students}
        for rounded in self.weights:
            delta = _delta(pairs[rounded.layer], rounded.factor.shape)
            moved[rounded.graph][rounded.weight] = rounded.factor * delta
        calls = {name: student.rounded(moved[name]) for name, student in self.students.items()}
        return (self.images(calls, seeds) - wanted).square().mean()

    @torch.no_grad()
    def mean_error(self, seeds: Sequence[int], batch: int, pairs: Mapping[str, Pair]) -> float:
        """Return the mean error over many seeds, in batches of `batch`."""
        parts = [seeds[k : k + batch] for k in range(0, len(seeds), batch)]
        return sum(len(part) * float(self.error(part, pairs)) for part in parts) / len(seeds)

    def images(self, call: Calls, seeds: Sequence[int]) -> Tensor:
        """Draw images (n, c, h, w) in [-1, 1] as a Pipeline does, but in torch, so that gradients
        pass through the whole trajectory.
        """
        latent = self.generator.latent
        images: Tensor = self.generator.sampler(
            call,
            torch.from_numpy(latent.start(seeds)),
            {name: torch.from_numpy(value) for name, value in latent.condition(seeds).items()},
            lambda stream: torch.from_numpy(noise(latent.noise, seeds, stream)),
        )
        return images


def initial_pairs(
    master: Mapping[str, Tensor], layers: set[str], course: Course
) -> dict[str, Pair]:
    """Return the initial pair of each layer.

    B is zero, as in PEFT; A is as large as the weight, so that one rate changes all layers by the
    same share.
    """
    rng = torch.Generator().manual_seed(mix(course.seed, 0, "recover"))
    pairs = {}
    for layer in sorted(layers):
        weight = master[f"{layer}.weight"]
        noise_of_one = torch.randn((course.rank, *weight.shape[1:]), generator=rng)
        a = noise_of_one * weight.square().mean().sqrt() / math.sqrt(course.rank)
        b = torch.zeros(len(weight), course.rank, 1, 1)
        pairs[layer] = (a.requires_grad_(), b.requires_grad_())
    return pairs


def _delta(pair: Pair, shape: torch.Size) -> Tensor:
    """Return the update (out, cin, k, k) that a pair adds to its layer's weight."""
    a, b = pair
    return (b.flatten(1) @ a.flatten(1)).reshape(shape[0], *a.shape[1:])


def adapter_of(master: Mapping[str, Tensor], pairs: Mapping[str, Pair], rank: int) -> Adapter:
    """Return the present pairs as an adapter."""
    tensors = {
        f"{layer}.lora_{k}.weight": tensor.detach().clone()
        for layer, pair in pairs.items()
        for k, tensor in zip("AB", pair, strict=True)
    }
    return Adapter(Lora(rank, float(rank), tuple(pairs)), tensors, site.digest(master))
