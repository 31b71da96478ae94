"""What a generator starts from: noise and conditions, such as a label or a prompt; all are
functions of the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .conditions import Condition, Constants, Labels, Prompts
from .noise import noise
from .seeds import use_of
from .spec import Array, TensorSpec


@dataclass(frozen=True)
class Latent:
    """noise: (batch, ...) standard normal; conditions: what else the sampler is given, of which one
    at most leaves something to choose.
    """

    noise: TensorSpec
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        names = [name for one in self.conditions for name in one.inputs]
        if len(set(names)) != len(names) or self.noise.name in names:
            raise ValueError(f"two conditions give one input, of {', '.join(names)}")
        if sum(1 for one in self.conditions if one.choices) > 1:
            raise ValueError("two conditions leave something to choose: labels or prompts, not two")

    @property
    def choice(self) -> Condition | None:
        """The condition whose choices seeds go round; None for an unconditional generator."""
        return next((one for one in self.conditions if one.choices), None)

    @property
    def choices(self) -> int:
        """How many labels or prompts there are; 0 for an unconditional generator."""
        return 0 if self.choice is None else self.choice.choices

    @property
    def classes(self) -> int:
        """Number of labels; 0 for a generator without."""
        return self.choice.classes if isinstance(self.choice, Labels) else 0

    @property
    def prompts(self) -> Prompts | None:
        """Its prompts, if it takes any."""
        return self.choice if isinstance(self.choice, Prompts) else None

    def start(self, seeds: Sequence[int]) -> Array:
        """Start noise (len(seeds), ...)."""
        return noise(self.noise, seeds, "start")

    def condition(self, seeds: Sequence[int], label: int | None = None) -> dict[str, Array]:
        """What the sampler is given of all conditions, by input, a row a seed; label: number of the
        label or prompt of all, or what follows from each seed. ValueError for one that there is
        not.
        """
        if label is not None and self.choice is None:
            raise ValueError(f"this generator takes no label, got {label}")
        found: dict[str, Array] = {}
        for one in self.conditions:
            found |= one.of(seeds, label if one is self.choice else None)
        return found

    def names(self, seed: int) -> tuple[str, ...]:
        """Of the labels or prompts that seeds of this one's use go round: seed s shows the one at s
        modulo their number.
        """
        return () if self.choice is None else self.choice.names(use_of(seed))

    def undivided(self) -> Latent:
        """The same for seeds of a user's own, any of which may show anything."""
        return replace(self, conditions=tuple(one.undivided() for one in self.conditions))

    def showing(self, prompts: Prompts) -> Latent:
        """The same with these prompts in place of its own."""
        own = tuple(prompts if one is self.choice else one for one in self.conditions)
        return replace(self, conditions=own)

    def given(self, values: Mapping[str, np.ndarray]) -> Latent:
        """The same with further inputs that are the same for all images, without the batch axis."""
        more = (Constants(values),) if values else ()
        return replace(self, conditions=(*self.conditions, *more))
