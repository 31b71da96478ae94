"""Samplers of latent diffusion: a guided DDIM teacher and a few-step consistency student, then the
decoder (docs/methods/latent-consistency.md, E.2.3 to E.2.5).

Timesteps count from 0 to T - 1, as in this field's literature; signal is abar at each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..spec import Numbers, Values
from .base import LATER, Call, Draw, branches
from .schedule import clean_image, noise_of
from .second_order import signal_lookahead

SIGMA_DATA, SCALING = 0.5, 10.0  # constants of the boundary condition (Luo et al. 2023)
NULLED = ("label", "vector")  # inputs that are zero in the unconditional branch
Renoise = Literal["fresh", "own"]
RENOISE: tuple[Renoise, ...] = ("fresh", "own")


def boundary(t: Numbers) -> tuple[Numbers, Numbers]:
    """Return c_skip and c_out at timesteps t (E.2.4 a).

    They are exactly 1 and 0 at t = 0, and close to 0 and 1 soon after.
    """
    s = SCALING * t
    return SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2), s / (s**2 + SIGMA_DATA**2) ** 0.5


def _check(timesteps: tuple[int, ...], signal: tuple[float, ...], prediction: str) -> None:
    """Raise ValueError for an unknown prediction, or unusable timesteps or signal levels."""
    if prediction not in ("epsilon", "v"):
        raise ValueError(f"unknown prediction {prediction!r}; known: epsilon, v")
    if not timesteps or len(timesteps) != len(signal):
        raise ValueError(f"{len(timesteps)} timesteps but {len(signal)} signal levels")
    if any(a <= b for a, b in zip(timesteps, (*timesteps[1:], -1), strict=True)):
        raise ValueError(f"timesteps must fall and stay at or above 0, got {timesteps}")
    if not all(a < b for a, b in zip((0.0, *signal), (*signal, 1.0), strict=True)):
        raise ValueError(
            f"signal levels must rise as the timesteps fall, all in (0, 1), got {signal}"
        )


@dataclass(frozen=True)
class LatentDdimSampler:
    """Deterministic DDIM, or the second-order solver "dpm++2m", with classifier-free guidance,
    e_u + g (e_c - e_u), which calls the denoiser twice per step unless g is 0 or 1.

    The unconditional branch e_u uses null_INPUT in place of INPUT; without it, the inputs "label"
    and "vector" are zeros.
    """

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]
    prediction: str = "v"
    guidance: float = 1.0
    kind: str = "latent-ddim"
    solver: str = field(default="ddim", metadata=LATER)

    def __post_init__(self) -> None:
        _check(self.timesteps, self.signal, self.prediction)
        if not 0 <= self.guidance <= 100 or self.kind != "latent-ddim":
            raise ValueError(
                f"guidance must be in [0, 100], got {self.guidance}, and kind known, got "
                f"{self.kind!r}"
            )
        self._ahead()  # raises ValueError for an unknown solver, or levels that it cannot use

    def _ahead(self) -> tuple[float, ...]:
        return signal_lookahead(self.solver, self.signal)

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, z, h, w) standard normal -> images in [-1, 1]."""
        levels = zip(
            self.timesteps, self.signal, (*self.signal[1:], 1.0), self._ahead(), strict=True
        )
        last = x
        for t, now, then, ahead in levels:
            predicted = self._guided(call, x, x[:, 0, 0, 0] * 0 + t, condition)
            clean = clean_image(x, predicted, now, self.prediction)
            noise = noise_of(x, predicted, now, self.prediction)
            if ahead:
                # the noise that remains of x if the image ahead is removed
                noise = noise - (now / (1 - now)) ** 0.5 * ahead * (clean - last)
                last, clean = clean, clean + ahead * (clean - last)
            else:
                last = clean
            x = then**0.5 * clean + (1 - then) ** 0.5 * noise
        return call["decoder"](x=x).clip(-1, 1)

    def _guided(
        self, call: Call[Values], x: Values, t: Values, condition: Mapping[str, Values]
    ) -> Values:
        given, twins = branches(condition)
        if self.guidance == 1:
            return call["denoiser"](x=x, t=t, **given)
        null = {name: value * 0 if name in NULLED else value for name, value in given.items()}
        absent = call["denoiser"](x=x, t=t, **{**null, **twins})
        if self.guidance == 0:
            return absent
        return absent + self.guidance * (call["denoiser"](x=x, t=t, **given) - absent)


@dataclass(frozen=True)
class ConsistencySampler:
    """A sampler that calls the student once per timestep for clean latents and noises them again.

    The student's weights already contain the guidance. renoise: "fresh" noise (E.2.5), or "own",
    the noise that remains of x if the clean latents are removed. With "own" nothing is random after
    the start, each step refines one trajectory, and errors do not add up as grain.
    """

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]
    prediction: str = "v"
    renoise: Renoise = "fresh"
    kind: str = "consistency"

    def __post_init__(self) -> None:
        _check(self.timesteps, self.signal, self.prediction)
        if self.kind != "consistency" or self.renoise not in RENOISE:
            raise ValueError(
                f"unknown kind {self.kind!r} or renoise {self.renoise!r}; known: "
                f"{', '.join(RENOISE)}"
            )

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, z, h, w) standard normal -> images in [-1, 1]."""
        given, _ = branches(condition)  # no unconditional branch: the weights contain the guidance
        for k, (t, now, then) in enumerate(
            zip(self.timesteps, self.signal, (*self.signal[1:], 1.0), strict=True)
        ):
            predicted = call["denoiser"](x=x, t=x[:, 0, 0, 0] * 0 + t, **given)
            skip, out = boundary(t)
            clean = skip * x + out * clean_image(x, predicted, now, self.prediction)
            if then < 1:
                fresh = self.renoise == "fresh"
                noise = draw(f"step{k}") if fresh else (x - now**0.5 * clean) / (1 - now) ** 0.5
                clean = then**0.5 * clean + (1 - then) ** 0.5 * noise
            x = clean
        return call["decoder"](x=x).clip(-1, 1)
