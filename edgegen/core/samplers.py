"""Samplers: loops over named graphs, stored as data in a bundle's manifest.

Operators only, so the same loop runs on numpy arrays on a device and on torch tensors where the models are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import TrustError

Call = Mapping[str, Callable[..., Any]]  # graph name -> whoever executes it
Draw = Callable[[str], Any]  # stream name -> standard normal noise of the latent's shape


class Sampler(Protocol):
    """Frozen data; call: executes graphs; x: start noise; condition: what else each graph takes; draw: fresh noise."""

    @property
    def kind(self) -> str: ...
    @property
    def timesteps(self) -> tuple[int, ...]: ...
    def __call__(self, call: Call, x: Any, condition: Mapping[str, Any], draw: Draw) -> Any: ...


def alphas_bar(schedule: str, steps: int) -> np.ndarray:
    """Cumulative signal power abar (steps + 1,), abar[0] = 1, float64 (spec C.2.1).

    "linear": beta from 1e-4 to 0.02 at 1000 steps, scaled by 1000 / steps; "cosine": cos^2, beta clipped at 0.999.
    """
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, steps) * 1000 / steps
        if beta[-1] >= 1:
            raise ValueError(f"the linear schedule needs more than 20 timesteps, got {steps}")
    elif schedule == "cosine":
        u = np.arange(steps + 1) / steps
        curve = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    else:
        raise ValueError(f"unknown schedule {schedule!r}; known: cosine, linear")
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


def trailing(timesteps: int, steps: int, power: float = 1.0) -> tuple[int, ...]:
    """`steps` timesteps from `timesteps` down, the first always pure noise: (1000, 4) -> 1000 750 500 250.

    power: timestep k is timesteps * (1 - k / steps) ** power; below 1 puts more of them at high noise.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be between 1 and {timesteps}, got {steps}")
    if not 0 < power <= 4:
        raise ValueError(f"the spacing power must be above 0 and at most 4, got {power}")
    return tuple(round(timesteps * (1 - k / steps) ** power) for k in range(steps))


UNTIMED = (0,)  # the timesteps of what has no time: a sampler without a loop, a graph without an input "t"
PATHS = ("dynamic", "eps", "x0", "fixed")


@dataclass(frozen=True)
class CascadeSampler:
    """Cas-DM's reverse process (spec C.2.9): `theta` predicts the noise, `phi` refines the clean image, r blends the two.

    timesteps: descending, each in 1..T; signal: abar at each of them; prediction: what theta returns, "epsilon" or "v";
    path: "dynamic" (phi's own gate), "eps" (r = 0), "x0" (r = 1), "fixed" (r = gates[k] at step k);
    eta: 0 is DDIM, 1 is ancestral sampling with the posterior variance.
    """

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]
    prediction: str = "v"
    path: str = "dynamic"
    gates: tuple[float, ...] = ()
    eta: float = 0.0
    kind: str = "cascade"

    def __post_init__(self) -> None:
        if self.path not in PATHS or self.prediction not in ("epsilon", "v") or self.kind != "cascade":
            raise ValueError(f"unknown path {self.path!r}, prediction {self.prediction!r} or kind {self.kind!r}")
        if not self.timesteps or len(self.timesteps) != len(self.signal):
            raise ValueError(f"{len(self.timesteps)} timesteps but {len(self.signal)} signal levels")
        if any(a <= b for a, b in zip(self.timesteps, (*self.timesteps[1:], 0), strict=True)):
            raise ValueError(f"timesteps must fall and stay above 0, got {self.timesteps}")
        if not all(0 < s < 1 for s in self.signal) or not 0 <= self.eta <= 1:
            raise ValueError("signal levels must be in (0, 1) and eta in [0, 1]")
        if any(a >= b for a, b in zip(self.signal, self.signal[1:], strict=False)):
            raise ValueError(f"signal levels must rise as the timesteps fall, got {self.signal}")
        if self.path == "fixed" and len(self.gates) != len(self.timesteps):
            raise ValueError(f'path "fixed" needs a gate for each of {len(self.timesteps)} timesteps, got {len(self.gates)}')
        if not all(0 <= gate <= 1 for gate in self.gates):
            raise ValueError(f"gates must be in [0, 1], got {self.gates}")

    def __call__(self, call: Call, x: Any, condition: Mapping[str, Any], draw: Draw) -> Any:
        """x (b, c, h, w) standard normal -> images (b, c, h, w) in [-1, 1]."""
        for k, (timestep, now) in enumerate(zip(self.timesteps, self.signal, strict=True)):
            then = self.signal[k + 1] if k + 1 < len(self.signal) else 1.0
            t = x[:, 0, 0, 0] * 0 + timestep
            clean = self._clean(call, x, t, now, k, condition)
            if then == 1.0:
                return clean.clip(-1, 1)
            fresh = self.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
            direction = (x - now**0.5 * clean) * (1 / (1 - now) ** 0.5)
            x = then**0.5 * clean + max(0.0, 1 - then - fresh**2) ** 0.5 * direction  # rounding must not make it complex
            if fresh:
                x = x + fresh * draw(f"step{k}")
        raise AssertionError("unreachable: the last signal level is 1")

    def _clean(self, call: Call, x: Any, t: Any, now: float, k: int, condition: Mapping[str, Any]) -> Any:
        predicted = call["theta"](x=x, t=t, **condition)
        coarse = clean_image(x, predicted, now, self.prediction).clip(-1, 1)
        if self.path == "eps":
            return coarse
        refined = call["phi"](coarse=coarse, x=x, t=t, **condition)  # (b, c + 1, h, w): clean image, gate
        if self.path == "x0":
            return refined[:, :-1]
        gate = refined[:, -1:] if self.path == "dynamic" else self.gates[k]
        return coarse + gate * (refined[:, :-1] - coarse)


def clean_image(x: Any, predicted: Any, signal: Any, prediction: str) -> Any:
    """x0 from the network's output: solves x = sqrt(abar) x0 + sqrt(1 - abar) eps; v is sqrt(abar) eps - sqrt(1 - abar) x0."""
    if prediction == "v":
        return signal**0.5 * x - (1 - signal) ** 0.5 * predicted
    return (x - (1 - signal) ** 0.5 * predicted) * (1 / signal**0.5)


def mean_gates(sampler: CascadeSampler, call: Call, x: Any, condition: Mapping[str, Any], draw: Draw) -> tuple[float, ...]:
    """phi's mean gate at each timestep of a run from x: what path "fixed" takes (spec C.2.9)."""
    seen: list[float] = []

    def phi(**inputs: Any) -> Any:
        refined = call["phi"](**inputs)
        seen.append(float(refined[:, -1:].mean()))
        return refined

    replace(sampler, path="dynamic", gates=())({"theta": call["theta"], "phi": phi}, x, condition, draw)
    return tuple(seen)


@dataclass(frozen=True)
class SingleSampler:
    """No loop: each graph is asked once, for what the one before returned; the first also takes the condition."""

    graphs: tuple[str, ...] = ("generator",)
    kind: str = "single"

    def __post_init__(self) -> None:
        if not (isinstance(self.graphs, tuple) and self.graphs and all(isinstance(g, str) for g in self.graphs)):
            raise ValueError(f"graphs must be one name or more, got {self.graphs!r}")
        if self.kind != "single":
            raise ValueError(f"unknown kind {self.kind!r}")

    @property
    def timesteps(self) -> tuple[int, ...]:
        return UNTIMED

    def __call__(self, call: Call, x: Any, condition: Mapping[str, Any], draw: Draw) -> Any:
        """x (b, ...) standard normal -> images (b, c, h, w) in [-1, 1]."""
        first, *rest = self.graphs
        x = call[first](x=x, **condition)
        for graph in rest:
            x = call[graph](x=x)
        return x.clip(-1, 1)


SAMPLERS: dict[str, Callable[..., Sampler]] = {"cascade": CascadeSampler, "single": SingleSampler}


def sampler_to_json(sampler: Sampler) -> dict[str, Any]:
    """The manifest's form of a sampler."""
    return asdict(sampler)  # type: ignore[call-overload]


def sampler_from_json(data: Mapping[str, Any]) -> Sampler:
    """Back from the manifest; TrustError names what does not fit."""
    if not isinstance(data, Mapping):
        raise TrustError("E-MANIFEST", f"the sampler in the manifest is a {type(data).__name__}, not an object")
    try:
        made: Sequence[tuple[str, Any]] = [(k, tuple(v) if isinstance(v, list) else v) for k, v in data.items()]
        return SAMPLERS[data["kind"]](**dict(made))
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError("E-MANIFEST", f"the sampler in the manifest cannot be used: {error}") from error
