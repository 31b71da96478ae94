"""The inputs that a sampler starts from: noise, and conditions such as a label or a prompt.

All of them depend on the seed alone.
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
    """The noise and the conditions that a sampler starts from.

    noise: (batch, ...) standard normal; conditions: the sampler's other inputs, of which at most
    one offers a choice (labels or prompts).
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
        """The condition that offers a choice, which seeds cycle through; None without one."""
        return next((one for one in self.conditions if one.choices), None)

    @property
    def choices(self) -> int:
        """The number of labels or prompts; 0 for an unconditional generator."""
        return 0 if self.choice is None else self.choice.choices

    @property
    def classes(self) -> int:
        """The number of labels; 0 for a generator without labels."""
        return self.choice.classes if isinstance(self.choice, Labels) else 0

    @property
    def prompts(self) -> Prompts | None:
        """The prompts condition, or None if the generator takes no prompts."""
        return self.choice if isinstance(self.choice, Prompts) else None

    def start(self, seeds: Sequence[int]) -> Array:
        """Return the start noise (len(seeds), ...), standard normal, one row per seed."""
        return noise(self.noise, seeds, "start")

    def condition(self, seeds: Sequence[int], label: int | None = None) -> dict[str, Array]:
        """Return the arrays of all conditions by input name.

        label: number of the label or prompt for all rows; by default each row's follows from its
        seed. ValueError for a label that the generator does not have.
        """
        if label is not None and self.choice is None:
            raise ValueError(f"this generator takes no label, got {label}")
        found: dict[str, Array] = {}
        for one in self.conditions:
            found |= one.of(seeds, label if one is self.choice else None)
        return found

    def names(self, seed: int) -> tuple[str, ...]:
        """Return the names of the labels or prompts that seeds of the same use as `seed` cycle
        through: seed s shows the name at index s modulo their number.
        """
        return () if self.choice is None else self.choice.names(use_of(seed))

    def undivided(self) -> Latent:
        """Return this latent with undivided conditions, in which any seed may show any prompt."""
        return replace(self, conditions=tuple(one.undivided() for one in self.conditions))

    def showing(self, prompts: Prompts) -> Latent:
        """Return this latent with these prompts in place of its own."""
        own = tuple(prompts if one is self.choice else one for one in self.conditions)
        return replace(self, conditions=own)

    def given(self, values: Mapping[str, np.ndarray]) -> Latent:
        """Return this latent with more constant inputs, the same for all images.

        values: arrays by input name, without the batch axis.
        """
        more = (Constants(values),) if values else ()
        return replace(self, conditions=(*self.conditions, *more))
