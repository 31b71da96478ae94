"""The two networks, their objectives and their sampler.

`theta` is a plain diffusion network that only ever sees the noise loss. `phi` takes theta's clean
image, detached, and returns a better one with a gate r; reconstruction, gate and metric losses
reach phi alone (docs/methods/cas-dm.md, C.2.6).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...core.conditions import labels
from ...core.graph import Batch, Embedded, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import CascadeSampler, alphas_bar, clean_image
from ...core.spec import TensorSpec
from ..metrics import METRICS, Metric, PDist
from ..transforms import Told, beside, changed, hint
from ..unet import fold_batch_norms
from .config import CasDmConfig
from .losses import METRIC_WEIGHTS, gate_loss, gate_weights
from .networks import NoisePredictor, Refiner


@dataclass(frozen=True)
class Noised:
    """A batch's images with noise."""

    images: Tensor  # (b, c, h, w), changed where the config augments
    told: Tensor | None  # what was done to them, (b, NUMBERS)
    x: Tensor  # (b, c, h, w)
    eps: Tensor  # the noise in it
    t: Tensor  # (b,), whole numbers in 1..T
    signal: Tensor  # abar_t, (b, 1, 1, 1)


class CasDm:
    """A cas-dm generator. Raises ValueError for a config that cannot be built."""

    embeds_training_data: Embedded = "none"

    def __init__(self, config: CasDmConfig) -> None:
        self.config, self.image_shape = config, (config.channels, config.size, config.size)
        self.networks = nn.ModuleDict({"theta": NoisePredictor(config), "phi": Refiner(config)})
        if config.augment:
            for name, net in (("theta", config.theta), ("phi", config.phi)):
                self.networks[beside(name)] = Told(net.embedding)
        signal = alphas_bar(config.schedule, config.timesteps)  # float64, (T + 1,)
        self._signal, self._gate_weights = (
            torch.from_numpy(signal),
            torch.from_numpy(gate_weights(config.gate_loss, signal)),
        )
        self.judge = PDist(config.channels) if config.metric == "pdist" else None
        # theta's step, for phi's on the same batch
        self._last: tuple[Batch, Noised, Tensor] | None = None

    @property
    def shipped(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: self.networks[name] for name in ("theta", "phi")})

    @property
    def latent(self) -> Latent:
        c = self.config
        return Latent(TensorSpec("x", ("batch", c.channels, c.size, c.size)), labels(c.classes))

    @property
    def sampler(self) -> CascadeSampler:
        return self.sampler_with(self.config.steps)

    def sampler_with(
        self, steps: int, path: str | None = None, eta: float = 0.0, gates: tuple[float, ...] = ()
    ) -> CascadeSampler:
        """The sampler with another number of steps, path, eta or fixed gate curve."""
        return self.config.sampler(steps, path, eta, gates)

    def graphs(self) -> Mapping[str, Graph]:
        """Pure graphs of frozen copies with batch norms folded; theta alone if the sampler's path
        never asks phi.
        """
        x = self.latent.noise
        t = TensorSpec("t", ("batch",))
        label = (
            (TensorSpec("label", ("batch", self.config.classes)),) if self.config.classes else ()
        )
        wide = TensorSpec(
            "refined", ("batch", self.config.channels + 1, self.config.size, self.config.size)
        )
        graphs = {
            "theta": Graph(self._frozen("theta"), (x, t, *label), TensorSpec("predicted", x.shape))
        }
        if self.config.path != "eps":
            graphs["phi"] = Graph(
                self._frozen("phi"), (TensorSpec("coarse", x.shape), x, t, *label), wide
            )
        return graphs

    def _frozen(self, name: str) -> nn.Module:
        net = copy.deepcopy(self.networks[name]).eval().requires_grad_(False)
        fold_batch_norms(net)
        return net

    def objectives(self) -> Iterable[Objective]:
        """theta first: in joint mode phi's loss reads the same noising and theta's detached
        prediction.
        """
        theta, phi = (self._parameters(name) for name in ("theta", "phi"))
        spans = (
            ((0.0, 1.0), (0.0, 1.0)) if self.config.mode == "joint" else ((0.0, 0.5), (0.5, 1.0))
        )
        return (
            Objective("theta", theta, self.theta_loss, span=spans[0]),
            Objective("phi", phi, self.phi_loss, span=spans[1]),
        )

    def _parameters(self, name: str) -> tuple[nn.Parameter, ...]:
        """Of a network, and of what tells it of changed photos."""
        embedding = self.networks[beside(name)].parameters() if self.config.augment else ()
        return (*self.networks[name].parameters(), *embedding)

    def theta_loss(self, batch: Batch) -> Tensor:
        """Plain mean squared error of the noise (or v) at uniform timesteps; nothing else ever
        reaches theta (C.2.2).
        """
        noised = self._noised(batch)
        predicted = self._predicted(batch, noised)
        if self.config.mode == "joint":
            self._last = batch, noised, predicted.detach()
        signal = noised.signal
        v = signal.sqrt() * noised.eps - (1 - signal).sqrt() * noised.images
        return (
            ((noised.eps if self.config.prediction == "epsilon" else v) - predicted).square().mean()
        )

    def phi_loss(self, batch: Batch) -> Tensor:
        """Reconstruction, gate and metric losses of the refiner (C.2.5); in joint mode after
        theta_loss of the same images.
        """
        noised, predicted = (
            self._thetas(batch) if self.config.mode == "joint" else self._from_finished_theta(batch)
        )
        images, signal = noised.images, noised.signal
        coarse = clean_image(noised.x, predicted, signal, self.config.prediction).clip(-1, 1)
        refined = self.networks["phi"](
            coarse,
            noised.x,
            noised.t.float(),
            *self._condition(batch),
            told=hint(self.networks, "phi", noised.told),
        ).float()
        image, gate = refined[:, :-1], refined[:, -1:]
        loss = (image - images).square().mean()
        if self.config.gate != "none":
            loss = loss + gate_loss(gate, image, coarse, images, _at(self._gate_weights, noised.t))
        if (
            self.config.metric != "none"
            and self.config.metric_weight
            and batch.progress >= self.config.metric_warmup
        ):
            weight = METRIC_WEIGHTS[self.config.metric_schedule](signal.flatten())
            # variances of 8-bit mantissas would be noise
            with torch.autocast(image.device.type, enabled=False):
                loss = (
                    loss + self.config.metric_weight * (weight * self._metric(image, images)).mean()
                )
        return loss

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the judge; a config whose metric has no network has nothing to teach."""
        if self.judge is not None:
            self.judge.teach(batches, self.config.classes)

    def _noised(self, batch: Batch) -> Noised:
        """Uniform timesteps and Gaussian noise from the batch's own generator."""
        images, rng, told = batch.images, batch.generator, None
        if self.config.augment:
            images, told = changed(images, self.config.augment, rng)
        t = torch.randint(
            1, self.config.timesteps + 1, (len(images),), generator=rng, device=rng.device
        )
        eps = torch.randn(images.shape, generator=rng, device=rng.device)
        signal = _at(self._signal, t)
        x = signal.sqrt() * images + (1 - signal).sqrt() * eps
        return Noised(images, told, x, eps, t, signal)

    def _thetas(self, batch: Batch) -> tuple[Noised, Tensor]:
        """What theta's objective has just drawn and predicted: phi takes nothing from theta's
        random stream (C.2.6).
        """
        last, self._last = self._last, None
        if last is None or last[0].images is not batch.images:
            raise ValueError(
                "phi's loss reads theta's prediction: call theta's objective first, on the same "
                "batch"
            )
        return last[1:]

    def _from_finished_theta(self, batch: Batch) -> tuple[Noised, Tensor]:
        """phi's own noising, and what theta says to it in eval mode: no dropout, no statistics
        moved, no gradient.
        """
        noised, theta = self._noised(batch), self.networks["theta"]
        training = theta.training
        theta.eval()
        try:
            with torch.no_grad():
                return noised, self._predicted(batch, noised)
        finally:
            theta.train(training)

    def _predicted(self, batch: Batch, noised: Noised) -> Tensor:
        """What theta says to noised images."""
        condition, told = self._condition(batch), hint(self.networks, "theta", noised.told)
        out = self.networks["theta"](noised.x, noised.t.float(), *condition, told=told)
        return out.float()

    @property
    def _metric(self) -> Metric:
        return self.judge if self.judge is not None else METRICS[self.config.metric]

    def _condition(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch.labels,) if self.config.classes else ()


def _at(table: Tensor, t: Tensor) -> Tensor:
    """A float64 table's (T + 1,) values at t (b,) -> (b, 1, 1, 1), float32, where t is."""
    return table.to(t.device)[t].float()[:, None, None, None]
