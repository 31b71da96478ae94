"""Cas-DM (An et al., arXiv 2401.02414; spec C): a noise predictor, and a refiner that metric losses may touch.

`theta` is a plain diffusion network that only ever sees the noise loss. `phi` takes theta's clean image, detached, and
returns a better one with a per-pixel gate r; reconstruction, gate and metric losses reach phi alone (table C.2.6).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.graph import Batch, Embedded, Graph, Objective
from ..core.latent import Latent
from ..core.samplers import CascadeSampler, alphas_bar, clean_image, trailing
from ..core.spec import TensorSpec
from . import STRICT, Family, Recipe
from .metrics import METRICS, SMALLEST, Metric, PDist
from .unet import UNet, UNetConfig, fold_batch_norms


@dataclass(frozen=True)
class Config:
    """Everything that defines a cas-dm generator; defaults are the 32x32 recipe's."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32                                   # pixels a side
    channels: int = 3
    classes: int = 10                                # 0 for unconditional
    theta: UNetConfig = field(default_factory=UNetConfig)
    phi: UNetConfig = field(default_factory=UNetConfig)
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: int = 1000                            # T of training
    prediction: Literal["v", "epsilon"] = "v"        # what theta predicts
    phi_input: Literal["x0", "x0+xt"] = "x0+xt"      # spec C.2.3
    residual: bool = True                            # phi returns u + delta (identity at the start), else the image itself
    gate_bias: float = -2.0                          # the gate starts close to theta's path
    metric: str = "gradient"                         # a key of METRICS, "pdist" or "none"
    metric_weight: float = 0.1                       # lambda_m
    metric_schedule: Literal["const", "snr", "cutoff"] = "snr"  # w_m(t), spec C.2.5
    steps: int = 10                                  # of the sampler
    spacing: float = 1.0                             # power of the timesteps' fall, see trailing
    path: Literal["dynamic", "eps", "x0"] = "dynamic"

    def __post_init__(self) -> None:
        for name, net in (("theta", self.theta), ("phi", self.phi)):
            cell = net.patch * 2 ** (len(net.widths) - 1)
            if self.size % cell:
                raise ValueError(f"size {self.size} must divide by {cell} (patch and levels of {name})")
        known = (*METRICS, "pdist", "none")
        if self.metric not in known:
            raise ValueError(f"unknown metric {self.metric!r}; known: {', '.join(known)}")
        if self.metric != "none" and self.size < SMALLEST:
            raise ValueError(f'metric {self.metric!r} needs {SMALLEST} pixels a side, got size {self.size}; or use metric "none"')
        if self.metric_schedule not in ("const", "snr", "cutoff") or self.phi_input not in ("x0", "x0+xt"):
            raise ValueError(f"unknown metric_schedule {self.metric_schedule!r} or phi_input {self.phi_input!r}")
        if not 0 <= self.metric_weight < math.inf or not math.isfinite(self.gate_bias):
            raise ValueError(f"metric_weight must be 0 or more and gate_bias finite, got {self.metric_weight}, {self.gate_bias}")
        if self.classes < 0 or self.channels < 1:
            raise ValueError(f"classes must be 0 or more and channels at least 1, got {self.classes}, {self.channels}")
        self.sampler(self.steps)  # a sampler that cannot be made should fail before the training, not after it

    def sampler(self, steps: int, path: str | None = None, eta: float = 0.0, gates: tuple[float, ...] = ()) -> CascadeSampler:
        """`steps` timesteps of this config's schedule. Raises ValueError for a schedule, path or number that cannot be used."""
        levels = alphas_bar(self.schedule, self.timesteps)
        timesteps = trailing(self.timesteps, steps, self.spacing)
        signal = tuple(float(levels[t]) for t in timesteps)
        return CascadeSampler(timesteps, signal, self.prediction, path or self.path, gates, eta)


class Refiner(nn.Module):
    """phi: coarse and x (b, c, h, w), t (b,), label (b, classes) -> (b, c + 1, h, w): clean image, then gate in [0, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        cin = config.channels * (2 if config.phi_input == "x0+xt" else 1)
        self.trunk = UNet(config.phi, cin, config.channels + 1, config.classes)

    def forward(self, coarse: Tensor, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        seen = torch.cat([coarse, x], dim=1) if self.config.phi_input == "x0+xt" else coarse
        y = self.trunk(seen, t, label)
        image = y[:, :-1] + coarse if self.config.residual else y[:, :-1]
        return torch.cat([image, torch.sigmoid(y[:, -1:] + self.config.gate_bias)], dim=1)


class NoisePredictor(nn.Module):
    """theta: x (b, c, h, w), t (b,), label (b, classes) -> (b, c, h, w), epsilon or v as the config says."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.trunk = UNet(config.theta, config.channels, config.channels, config.classes)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.trunk(x, t, label)


@dataclass
class _Draw:
    """One training step's noising, drawn once by theta's objective and read by phi's."""

    batch: Batch
    x: Tensor
    t: Tensor
    signal: Tensor  # abar_t, (b, 1, 1, 1)
    clean: Tensor   # x0 of theta, detached and clipped


class CasDm:
    """The two networks, their losses and their sampler. Raises ValueError for a config that cannot be built."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.networks = nn.ModuleDict({"theta": NoisePredictor(config), "phi": Refiner(config)})
        self._signal = torch.from_numpy(alphas_bar(config.schedule, config.timesteps))  # float64, (T + 1,)
        self.judge = PDist(config.channels) if config.metric == "pdist" else None
        self._draw: _Draw | None = None

    @property
    def shipped(self) -> nn.ModuleDict:
        return self.networks

    @property
    def embeds_training_data(self) -> Embedded:
        return "none"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.config.channels, self.config.size, self.config.size

    @property
    def latent(self) -> Latent:
        c = self.config
        return Latent(TensorSpec("x", ("batch", c.channels, c.size, c.size)), c.classes)

    @property
    def sampler(self) -> CascadeSampler:
        return self.sampler_with(self.config.steps)

    def sampler_with(
        self, steps: int, path: str | None = None, eta: float = 0.0, gates: tuple[float, ...] = ()
    ) -> CascadeSampler:
        """The sampler with another number of steps, path, eta or fixed gate curve."""
        return self.config.sampler(steps, path, eta, gates)

    def graphs(self) -> Mapping[str, Graph]:
        """Pure graphs of frozen copies with batch norms folded; theta alone if the sampler's path never asks phi."""
        x = self.latent.noise
        t = TensorSpec("t", ("batch",))
        label = (TensorSpec("label", ("batch", self.config.classes)),) if self.config.classes else ()
        wide = TensorSpec("refined", ("batch", self.config.channels + 1, self.config.size, self.config.size))
        graphs = {"theta": Graph(self._frozen("theta"), (x, t, *label), TensorSpec("predicted", x.shape))}
        if self.config.path != "eps":
            graphs["phi"] = Graph(self._frozen("phi"), (TensorSpec("coarse", x.shape), x, t, *label), wide)
        return graphs

    def _frozen(self, name: str) -> nn.Module:
        net = copy.deepcopy(self.networks[name]).eval().requires_grad_(False)
        fold_batch_norms(net)
        return net

    def objectives(self) -> Iterable[Objective]:
        """theta first: phi's loss reads the same noising and theta's detached prediction."""
        theta, phi = (tuple(self.networks[name].parameters()) for name in ("theta", "phi"))
        return (Objective("theta", theta, self.theta_loss), Objective("phi", phi, self.phi_loss))

    def theta_loss(self, batch: Batch) -> Tensor:
        """Plain mean squared error of the noise (or v) at uniform timesteps; nothing else ever reaches theta (C.2.2)."""
        images, b = batch.images, len(batch.images)
        t = torch.randint(1, self.config.timesteps + 1, (b,), generator=batch.generator)
        eps = torch.randn(images.shape, generator=batch.generator)
        signal = self._signal[t].float()[:, None, None, None]
        x = signal.sqrt() * images + (1 - signal).sqrt() * eps
        predicted = self.networks["theta"](x, t.float(), *self._condition(batch)).float()
        clean = clean_image(x, predicted.detach(), signal, self.config.prediction).clip(-1, 1)
        self._draw = _Draw(batch, x, t.float(), signal, clean)
        wanted = eps if self.config.prediction == "epsilon" else signal.sqrt() * eps - (1 - signal).sqrt() * images
        return (wanted - predicted).square().mean()

    def phi_loss(self, batch: Batch) -> Tensor:
        """Reconstruction, gate and metric losses of the refiner (C.2.5); needs theta_loss of the same batch first."""
        draw, self._draw = self._draw, None
        if draw is None or draw.batch is not batch:
            raise ValueError("phi's loss reads theta's prediction: call theta's objective first, on the same batch")
        refined = self.networks["phi"](draw.clean, draw.x, draw.t, *self._condition(batch)).float()
        image, gate = refined[:, :-1], refined[:, -1:]
        loss = (image - batch.images).square().mean() + gate_loss(gate, image, draw.clean, batch.images, draw.signal)
        if self.config.metric != "none" and self.config.metric_weight:
            weight = self._metric_weight(draw.signal.flatten())
            with torch.autocast(image.device.type, enabled=False):  # variances of 8-bit mantissas would be noise
                loss = loss + self.config.metric_weight * (weight * self._metric(image, batch.images)).mean()
        return loss

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the judge; a config whose metric has no network has nothing to teach."""
        if self.judge is not None:
            self.judge.teach(batches, self.config.classes)

    @property
    def _metric(self) -> Metric:
        return self.judge if self.judge is not None else METRICS[self.config.metric]

    def _condition(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch.labels,) if self.config.classes else ()

    def _metric_weight(self, signal: Tensor) -> Tensor:
        kinds: dict[str, Callable[[Tensor], Tensor]] = {
            "const": torch.ones_like,
            "snr": lambda s: (s / (1 - s)).clamp(max=5) / 5,
            "cutoff": lambda s: (s >= 0.05).float(),
        }
        return kinds[self.config.metric_schedule](signal)


def gate_loss(gate: Tensor, refined: Tensor, coarse: Tensor, images: Tensor, signal: Tensor) -> Tensor:
    """abar_t ||x_mix - x0||^2 with both branches detached: bounded at every timestep, the same minimiser as C.2.5 (2)."""
    mixed = coarse.detach() + gate * (refined - coarse).detach()
    return (signal * (mixed - images).square()).mean()


def photos32() -> Recipe:
    """32x32 RGB product photos, two networks of 1.5M parameters; see edgegen/zoo for what it gave on Fashion-MNIST."""
    return Recipe(Config(), images=960_000)


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    net = UNetConfig(widths=(16, 32), embedding=16)
    config = Config(size=16, classes=0, theta=net, phi=net, schedule="linear", timesteps=100, steps=4)
    return Recipe(config, images=3_200, batch=16, warmup=10, ema=0.9, precision="fp32")


FAMILY = Family("cas-dm", Config, CasDm, {"photos32": photos32, "tiny": tiny})
