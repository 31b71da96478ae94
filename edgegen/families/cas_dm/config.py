"""Everything that defines a cas-dm: its two networks, what phi is taught, and how it samples."""

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
    """One generator; defaults are the networks, losses and sampler of the 32x32 recipe."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32  # pixels a side
    channels: int = 3
    classes: int = 10  # 0 for unconditional
    theta: UNetConfig = field(default_factory=UNetConfig)
    phi: UNetConfig = field(default_factory=UNetConfig)
    # pixels a side that were one to the networks it began with, see grow.py
    stretch: int = 1
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: int = 1000  # T of training
    prediction: Literal["v", "epsilon"] = "v"  # what theta predicts
    # both at once, or theta in the run's first half and phi in its second
    mode: Literal["joint", "frozen"] = "joint"
    phi_input: Literal["x0", "x0+xt"] = "x0+xt"  # docs/methods/cas-dm.md, C.2.3
    # phi returns u + delta (identity at the start), else the image itself
    residual: bool = True
    # networks.GATES; "none": r = 1
    gate: Literal["sigmoid", "clip", "linear", "scalar", "none"] = "sigmoid"
    # sigmoid of it is the gate at the start: close to theta's path
    gate_bias: float = -2.0
    # weight of ||x_mix - x0||^2: abar_t, or the paper's c_t^2 (C.2.5)
    gate_loss: Literal["bounded", "posterior"] = "bounded"
    # the gate's loss stops at phi's last layer (C.2.6)
    gate_trunk_detach: bool = False
    metric: str = "gradient"  # a key of METRICS, "pdist" or "none"
    metric_weight: float = 0.1  # lambda_m
    metric_schedule: Literal["const", "snr", "cutoff"] = "snr"  # w_m(t), C.2.5
    # share of phi's steps before the metric's loss joins (C.2.8)
    metric_warmup: float = 0.0
    # probability of each change of training photos, of which the networks are told (transforms.py)
    augment: float = 0.0
    steps: int = 10  # of the sampler
    spacing: float = 1.0  # power of the timesteps' fall, see trailing
    solver: DiffusionSolver = "ddim"  # "dpm++2m": second order, as many calls
    path: Literal["dynamic", "eps", "x0"] = "dynamic"
    # phi runs at timesteps from .. to only (C.2.9); None: at all
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
        # a sampler that cannot be made should fail before the training, not after it
        self.sampler(self.steps)

    def sampler(
        self, steps: int, path: str | None = None, eta: float = 0.0, gates: tuple[float, ...] = ()
    ) -> CascadeSampler:
        """`steps` timesteps of this config's schedule. Raises ValueError for a schedule, path or
        number that cannot be used.
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
