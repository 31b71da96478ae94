"""The config of a cas-dm: its two networks, phi's losses, and its sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...core.samplers import (
    DIFFUSION_SOLVERS,
    CascadeSampler,
    DiffusionSolver,
    alphas_bar,
    trailing,
)
from .. import STRICT
from ..metrics import METRICS, SMALLEST
from ..unet import UNetConfig

_KNOWN = {
    "mode": ("joint", "frozen"),
    "phi_input": ("x0", "x0+xt"),
    "gate": ("sigmoid", "clip", "linear", "scalar", "none"),
    "gate_loss": ("bounded", "posterior"),
    "metric": (*METRICS, "pdist", "none"),
    "metric_schedule": ("const", "snr", "cutoff"),
    "solver": DIFFUSION_SOLVERS,
}


@dataclass(frozen=True)
class CasDmConfig:
    """The config of one generator; the defaults are those of the 32x32 recipe."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32  # pixels a side
    channels: int = 3
    classes: int = 10  # 0 for unconditional
    theta: UNetConfig = field(default_factory=UNetConfig)
    phi: UNetConfig = field(default_factory=UNetConfig)
    # side in pixels of what was one pixel to the networks that it grew from, see grow.py
    stretch: int = 1
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: int = 1000  # T of training
    prediction: Literal["v", "epsilon"] = "v"  # what theta predicts
    # "joint" trains both at once, "frozen" theta in the run's first half and phi in its second
    mode: Literal["joint", "frozen"] = "joint"
    phi_input: Literal["x0", "x0+xt"] = "x0+xt"  # docs/methods/cas-dm.md, C.2.3
    # whether phi returns u + delta (the identity at the start); otherwise it returns the image
    residual: bool = True
    # a key of networks.GATES; "none" means r = 1
    gate: Literal["sigmoid", "clip", "linear", "scalar", "none"] = "sigmoid"
    # the gate starts at the sigmoid of this value, close to theta's path
    gate_bias: float = -2.0
    # weight of ||x_mix - x0||^2: abar_t, or the paper's c_t^2 (C.2.5)
    gate_loss: Literal["bounded", "posterior"] = "bounded"
    # whether the gradient of the gate's loss stops at phi's last layer (C.2.6)
    gate_trunk_detach: bool = False
    metric: str = "gradient"  # a key of METRICS, "pdist" or "none"
    metric_weight: float = 0.1  # lambda_m
    metric_schedule: Literal["const", "snr", "cutoff"] = "snr"  # w_m(t), C.2.5
    # share of phi's steps before the metric's loss joins (C.2.8)
    metric_warmup: float = 0.0
    # probability of each augmentation of training photos, given to the networks (transforms.py)
    augment: float = 0.0
    steps: int = 10  # steps of the sampler
    spacing: float = 1.0  # power of the timesteps' spacing, see `trailing`
    solver: DiffusionSolver = "ddim"  # "dpm++2m" is of second order with as many calls
    path: Literal["dynamic", "eps", "x0"] = "dynamic"
    # phi runs only at timesteps from .. to (C.2.9); with None at all
    window: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, net in (("theta", self.theta), ("phi", self.phi)):
            cell = net.patch * 2 ** (len(net.widths) - 1)
            if self.size % cell:
                raise ValueError(
                    f"size {self.size} must divide by {cell} (patch and levels of {name})"
                )
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if self.metric != "none" and self.size < SMALLEST:
            raise ValueError(
                f"metric {self.metric!r} needs {SMALLEST} pixels a side, got size {self.size}; or "
                'use metric "none"'
            )
        if not 0 <= self.metric_weight < math.inf or not math.isfinite(self.gate_bias):
            raise ValueError(
                f"metric_weight must be 0 or more and gate_bias finite, got {self.metric_weight}, "
                f"{self.gate_bias}"
            )
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment must be in [0, 1], a probability, got {self.augment}")
        if not 0 <= self.metric_warmup <= 1:
            raise ValueError(
                f"metric_warmup must be in [0, 1], a share of phi's steps, got {self.metric_warmup}"
            )
        if self.classes < 0 or min(self.channels, self.stretch) < 1 or self.size % self.stretch:
            raise ValueError(
                "classes must be 0 or more, channels at least 1, and stretch a divisor of size, "
                "got "
                f"{self.classes}, {self.channels}, {self.stretch}"
            )
        # An impossible sampler should fail before the training, not after it.
        self.sampler(self.steps)

    def sampler(
        self, steps: int, path: str | None = None, eta: float = 0.0, gates: tuple[float, ...] = ()
    ) -> CascadeSampler:
        """Return the sampler with `steps` timesteps of this config's schedule.

        ValueError for a schedule, path or number that cannot be used.
        """
        levels = alphas_bar(self.schedule, self.timesteps)
        timesteps = trailing(self.timesteps, steps, self.spacing)
        signal = tuple(float(levels[t]) for t in timesteps)
        return CascadeSampler(
            timesteps,
            signal,
            self.prediction,
            path or self.path,
            gates,
            eta,
            self.window,
            solver=self.solver,
        )
