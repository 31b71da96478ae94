"""The two networks, their objectives and their sampler.

`theta` is a plain diffusion network that is trained by the noise loss alone. `phi` takes theta's
clean image, detached, and returns a better one with a gate r; the reconstruction, gate and metric
losses train only phi (docs/methods/cas-dm.md, C.2.6).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

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

# spans of the networks when a trained generator is adapted: theta draws the products, and phi only
# refines what theta predicts
ADAPTING = {"theta": (0.0, 0.8), "phi": (0.8, 1.0)}


@dataclass(frozen=True)
class Noised:
    """A batch's images, with noise added at random timesteps."""

    images: Tensor  # clean images (b, c, h, w), augmented if the config says so
    told: Tensor | None  # their augmentations (b, NUMBERS)
    x: Tensor  # noised images (b, c, h, w)
    eps: Tensor  # the noise in x
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
        # theta's latest step, which phi's loss on the same batch uses
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
        """Return the sampler with another number of steps, path, eta or fixed gate curve."""
        return self.config.sampler(steps, path, eta, gates)

    def graphs(self) -> Mapping[str, Graph]:
        """Return graphs of frozen copies with batch norms folded.

        phi is left out if the sampler's path is "eps", which never runs it.
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
        """Return the objectives, theta's first, because in joint mode phi's loss uses theta's
        noised images and its detached prediction.
        """
        theta, phi = (self._parameters(name) for name in ("theta", "phi"))
        spans = (
            ((0.0, 1.0), (0.0, 1.0)) if self.config.mode == "joint" else ((0.0, 0.5), (0.5, 1.0))
        )
        return (
            Objective("theta", theta, self.theta_loss, span=spans[0]),
            Objective("phi", phi, self.phi_loss, span=spans[1]),
        )

    def adapting(self) -> Iterable[Objective]:
        """Return the objectives, with the spans of ADAPTING where theta is finished before phi
        begins.
        """
        return tuple(
            o if self.config.mode == "joint" else replace(o, span=ADAPTING[o.name])
            for o in self.objectives()
        )

    def _parameters(self, name: str) -> tuple[nn.Parameter, ...]:
        """Return the parameters of a network and of its embedding of augmentations."""
        embedding = self.networks[beside(name)].parameters() if self.config.augment else ()
        return (*self.networks[name].parameters(), *embedding)

    def theta_loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the noise (or v) at uniform timesteps, theta's only
        loss (C.2.2).
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
        """Return the sum of the refiner's reconstruction, gate and metric losses (C.2.5).

        In joint mode it must follow theta_loss on the same batch; otherwise ValueError.
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
            # BF16, with its 8-bit mantissas, would make the metric's variances noise.
            with torch.autocast(image.device.type, enabled=False):
                loss = (
                    loss + self.config.metric_weight * (weight * self._metric(image, images)).mean()
                )
        return loss

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the judge, if the config's metric has one."""
        if self.judge is not None:
            self.judge.teach(batches, self.config.classes)

    def _noised(self, batch: Batch) -> Noised:
        """Noise the images at uniform timesteps, with draws from the batch's own generator."""
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
        """Return what theta's loss has just drawn and predicted for this batch.

        So phi draws nothing from theta's random stream (C.2.6).
        """
        last, self._last = self._last, None
        if last is None or last[0].images is not batch.images:
            raise ValueError(
                "phi's loss reads theta's prediction: call theta's objective first, on the same "
                "batch"
            )
        return last[1:]

    def _from_finished_theta(self, batch: Batch) -> tuple[Noised, Tensor]:
        """Noise the images anew, and return them with theta's prediction in eval mode and without
        gradients.
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
        """Return theta's prediction for noised images."""
        condition, told = self._condition(batch), hint(self.networks, "theta", noised.told)
        out = self.networks["theta"](noised.x, noised.t.float(), *condition, told=told)
        return out.float()

    @property
    def _metric(self) -> Metric:
        return self.judge if self.judge is not None else METRICS[self.config.metric]

    def _condition(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch.labels,) if self.config.classes else ()


def _at(table: Tensor, t: Tensor) -> Tensor:
    """Return the values of a table (T + 1,) at t (b,) as float32 (b, 1, 1, 1) on t's device."""
    return table.to(t.device)[t].float()[:, None, None, None]
