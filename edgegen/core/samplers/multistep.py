"""One loop for DDPM, DDIM, PNDM, Euler, ancestral Euler, DPM-Solver++ and latent consistency, which
differ only in their coefficients; the coefficients are the sampler's data.

At step k the denoiser sees scale[k] * x, and its output becomes a clean image,

    clean = clean_from_x[k] * x + clean_from_output[k] * output, clipped where the solver clips;
    x <- next_from_x[k] * x + next_from_output[k] * output + next_from_clean[k] * clean
         + earlier_1[k] * (what was remembered a step ago) + earlier_2[k] * (two steps ago) + ...
         + noise[k] * fresh noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import Literal

from ..conditions import NULL
from ..spec import Values
from .base import Call, Draw, branches

NEEDED = (
    "timesteps",
    "clean_from_x",
    "clean_from_output",
    "next_from_x",
    "next_from_output",
    "next_from_clean",
)
EARLIER = ("earlier_1", "earlier_2", "earlier_3", "earlier_4")
SPARE = (*EARLIER, "noise", "scale")
MOST_GUIDANCE = 100.0


@dataclass(frozen=True)
class MultistepSampler:
    """A linear multistep sampler; each list holds one number per step, and an empty list stands for
    zeros (for ones in `scale`).

    timesteps: what the denoiser receives, never rising; start: factor on the start noise; clip:
    largest magnitude of a clean image, 0 for no clipping; remembers: what the `earlier_` lists
    weigh, clean images or the denoiser's outputs. guidance: g in null + g (given - null), with two
    calls per step unless it is 1; nulls: inputs whose value in the null branch the condition holds
    as null_NAME; embedded_guidance: value of the denoiser's input `guidance`, if it has one;
    decoder: whether the graph "decoder" makes the image.
    """

    timesteps: tuple[float, ...]
    clean_from_x: tuple[float, ...]
    clean_from_output: tuple[float, ...]
    next_from_x: tuple[float, ...]
    next_from_output: tuple[float, ...]
    next_from_clean: tuple[float, ...]
    earlier_1: tuple[float, ...] = ()
    earlier_2: tuple[float, ...] = ()
    earlier_3: tuple[float, ...] = ()
    earlier_4: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    start: float = 1.0
    clip: float = 0.0
    remembers: Literal["clean", "output"] = "clean"
    guidance: float = 1.0
    nulls: tuple[str, ...] = ()
    embedded_guidance: float | None = None
    decoder: bool = False
    kind: str = "multistep"

    def __post_init__(self) -> None:
        if self.kind != "multistep" or self.remembers not in ("clean", "output"):
            raise ValueError(f"unknown kind {self.kind!r} or remembers {self.remembers!r}")
        self._check_lists()
        for name in ("start", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number from 0 on, got {getattr(self, name)}")
        for name in ("guidance", "embedded_guidance"):
            value = getattr(self, name)
            if value is not None and not -MOST_GUIDANCE <= value <= MOST_GUIDANCE:
                raise ValueError(f"{name} must be at most {MOST_GUIDANCE:g}, got {value}")
        if self.guidance != 1 and not self.nulls:
            raise ValueError(f"guidance {self.guidance} needs inputs with a null twin (nulls)")
        if not isinstance(self.decoder, bool) or not all(isinstance(n, str) for n in self.nulls):
            raise ValueError("decoder is true or false, and nulls are names of inputs")

    def _check_lists(self) -> None:
        count = len(self.timesteps)
        if not count:
            raise ValueError("there are no timesteps")
        for name in (*NEEDED, *SPARE):
            values = getattr(self, name)
            if len(values) != count and (name in NEEDED or values):
                raise ValueError(f"{count} timesteps but {len(values)} numbers in {name}")
            if not all(isfinite(value) for value in values):
                raise ValueError(f"{name} holds a number that is not finite")
        if any(before < after for before, after in pairwise(self.timesteps)):
            raise ValueError(f"timesteps must not rise, got {self.timesteps}")

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, ...) standard normal -> images (b, c, h, w) in [-1, 1]."""
        given, twins = branches(condition)
        x = x * self.start
        remembered: list[Values] = []
        for k, timestep in enumerate(self.timesteps):
            seen = x * self.scale[k] if self.scale else x
            output = self._predicted(call, seen, timestep, given, twins)
            clean = self.clean_from_x[k] * x + self.clean_from_output[k] * output
            if self.clip:
                clean = clean.clip(-self.clip, self.clip)
            x = (
                self.next_from_x[k] * x
                + self.next_from_output[k] * output
                + self.next_from_clean[k] * clean
            )
            for name, value in zip(EARLIER, remembered, strict=False):
                weights = getattr(self, name)
                if weights and weights[k]:
                    x = x + weights[k] * value
            if self.noise and self.noise[k]:
                x = x + self.noise[k] * draw(f"step{k}")
            remembered.insert(0, clean if self.remembers == "clean" else output)
            del remembered[len(EARLIER) :]
        return (call["decoder"](x=x) if self.decoder else x).clip(-1, 1)

    def _predicted(
        self,
        call: Call[Values],
        x: Values,
        timestep: float,
        given: Mapping[str, Values],
        twins: Mapping[str, Values],
    ) -> Values:
        """Return the denoiser's output with guidance applied."""
        told = {"t": x[:, 0, 0, 0] * 0 + timestep}
        if self.embedded_guidance is not None:
            told["guidance"] = x[:, 0, 0, 0] * 0 + self.embedded_guidance
        output = call["denoiser"](x=x, **told, **given)
        if self.guidance == 1:
            return output
        if missing := [name for name in self.nulls if name not in twins]:
            raise ValueError(f"guidance needs {NULL}{missing[0]} in the condition")
        null = call["denoiser"](x=x, **told, **{**given, **twins})
        return null + self.guidance * (output - null)

    def ended_after(self, steps: int) -> MultistepSampler:
        """Return the sampler that ends with its clean image after that many steps."""
        if steps == len(self.timesteps):
            return self
        kept = {name: getattr(self, name)[:steps] for name in (*NEEDED, *SPARE)}
        for name in ("next_from_x", "next_from_output", "noise", *EARLIER):
            kept[name] = (*kept[name][:-1], 0.0) if kept[name] else ()
        kept["next_from_clean"] = (*kept["next_from_clean"][:-1], 1.0)
        return replace(self, **kept)
