"""The family dkgm: its bank, stages and losses, the two graphs that ship, and its recipes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ...core.conditions import labels
from ...core.graph import Batch, Embedded, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import BridgeSampler
from ...core.spec import TensorSpec
from .. import Family, Recipe, Tuning
from ..transforms import Told, beside, changed, hint
from ..unet import UNetConfig, fold_batch_norms
from .bank import FEWEST, Bank
from .coarse import Coarse, evaluating, stage
from .config import DkgmConfig
from .debias import Bridge, Debias, Restore, Restorer, bridge_loss
from .grow import grown
from .kernels import draw

MEASURED = 4096  # number of photos on which the spread of coarse images is measured
REPEATS = 4  # at most this many times `bank_fit` photos per class are read to fill the bank


class Dkgm:
    """A dkgm generator: its bank, stage 1 (except in mode "pixel") and stage 2.

    Mode "latent" also trains an encoder, which does not ship.
    """

    def __init__(self, config: DkgmConfig) -> None:
        c = self.config = config
        self.bank = Bank(c.vector, c.classes, c.exemplars)
        self.restorer = Restorer(c)
        self.networks = nn.ModuleDict({**stage(c), "debias": self.restorer, "bank": self.bank})
        if c.augment:
            for name, net in (("coarse", c.coarse), ("debias", c.debias)):
                if name in self.networks:
                    self.networks[beside(name)] = Told(net.embedding)

    @property
    def shipped(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                name: net
                for name, net in self.networks.items()
                if name != "encoder" and not isinstance(net, Told)
            }
        )

    @property
    def embeds_training_data(self) -> Embedded:
        """What the bank reveals of training photos; centroids are means of several and count as
        "none".
        """
        if self.config.bank == "centroids":
            return "none"
        return "features" if self.config.mode == "latent" else "pixels"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.config.channels, self.config.size, self.config.size

    @property
    def latent(self) -> Latent:
        return Latent(TensorSpec("x", ("batch", *self.image_shape)), labels(self.config.classes))

    @property
    def sampler(self) -> BridgeSampler:
        return self.config.sampler()

    def graphs(self) -> Mapping[str, Graph]:
        """Return graphs of frozen copies with batch norms folded: `coarse` runs once per image,
        `debias` once per step.
        """
        c, x = self.config, self.latent.noise
        label = (TensorSpec("label", ("batch", c.classes)),) if c.classes else ()
        shape, t, pick = x.shape, TensorSpec("t", ("batch",)), TensorSpec("pick", ("batch", 3))
        first = Coarse(c, self.bank, dict(self.networks.items()).get("coarse"))
        seen = (TensorSpec("coarse", shape),) if c.cond_coarse else ()
        second: nn.Module = Restore(self.restorer) if c.cond_coarse else Debias(self.restorer)
        return {
            "coarse": Graph(_frozen(first), (x, pick, *label), TensorSpec("drawn", shape)),
            "debias": Graph(_frozen(second), (x, t, *seen, *label), TensorSpec("clean", shape)),
        }

    def objectives(self) -> Iterable[Objective]:
        """Return the objectives: stage 1, unless the mode is "pixel", and then stage 2, which
        builds on the trained stage 1.
        """
        second = self._parameters("debias", beside("debias"))
        if self.config.mode == "pixel":
            return (Objective("debias", second, self.debias_loss, begin=self.begin_debias),)
        first = self._parameters("coarse", "encoder", beside("coarse"))
        share = self.config.share
        return (
            Objective(
                "coarse", first, self.coarse_loss, span=(0.0, share), begin=self.begin_coarse
            ),
            Objective(
                "debias", second, self.debias_loss, span=(share, 1.0), begin=self.begin_debias
            ),
        )

    def _parameters(self, *names: str) -> tuple[nn.Parameter, ...]:
        """Return the parameters of those of the named networks that exist."""
        nets = (self.networks[name] for name in names if name in self.networks)
        return tuple(parameter for net in nets for parameter in net.parameters())

    def begin_coarse(self, batches: Iterable[Batch]) -> None:
        """Fill the bank in mode "dae", which learns to denoise draws from the bank."""
        if self.config.mode == "dae":
            self._fill(*self._looked_at(batches))

    def begin_debias(self, batches: Iterable[Batch]) -> None:
        """Fill the bank unless stage 1 has, and measure the spread of coarse images around their
        photos.
        """
        looked = self._looked_at(batches)
        if self.config.mode != "dae":
            self._fill(*looked)
        images, labels, rng = looked
        parts = []
        with evaluating(self.networks):
            for part, label in zip(
                torch.split(images[:MEASURED], 256),
                torch.split(labels[:MEASURED], 256),
                strict=True,
            ):
                x = _scaled(part)
                parts.append((self._drawn(x, label, rng) - x).square().mean((1, 2, 3)))
        self.restorer.spread.copy_(torch.cat(parts).mean().sqrt())

    def _looked_at(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor, torch.Generator]:
        """Collect photos (n, c, h, w) as uint8, their labels, and the first batch's random
        generator, until there are `bank_fit` of each class or the limit of REPEATS is reached.
        """
        images, labels, counts = [], [], torch.zeros(max(self.config.classes, 1))
        wanted = self.config.bank_fit
        seen, rng = 0, None
        for batch in batches:
            images.append(((batch.images + 1) * 127.5).round().to(torch.uint8))
            labels.append(batch.labels)
            counts += batch.labels.sum(0).cpu() if self.config.classes else len(batch.images)
            seen, rng = seen + len(batch.images), rng or batch.generator
            if counts.min() >= wanted or seen >= REPEATS * wanted * len(counts):
                break
        if rng is None:
            raise ValueError("a bank is made from photos, and there was no batch")
        return torch.cat(images), torch.cat(labels), rng

    def _fill(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        vectors = images
        if self.config.mode == "latent":
            with evaluating(self.networks):
                vectors = torch.cat(
                    [self.networks["encoder"](_scaled(part)) for part in torch.split(images, 256)]
                )
        self.bank.fill(vectors, labels, self.config.bank == "centroids", rng)

    def coarse_loss(self, batch: Batch) -> Tensor:
        """Return stage 1's mean squared error in predicting the photo behind a draw.

        The optimum is the posterior mean, an image that is too smooth (D.2.1).
        """
        x, told = self._changed(batch)
        vector = (
            self.networks["encoder"](x).float()
            if self.config.mode == "latent"
            else self._centre(x, batch.labels)
        )
        y = vector + self.config.bandwidth * draw(self.config.kernel, vector.shape, batch.generator)
        told = hint(self.networks, "coarse", told)
        made = self.networks["coarse"](y, self._label(batch.labels), told=told).float()
        return (made - x).square().mean()

    def debias_loss(self, batch: Batch) -> Tensor:
        """Return stage 2's squared error along the bridge from a fresh coarse image of each photo
        (TRAIN-2).
        """
        c, rng = self.config, batch.generator
        x, told = self._changed(batch)
        with evaluating(self.first_stage):
            coarse = self._drawn(x, batch.labels, rng, told)
        told = hint(self.networks, "debias", told)
        t = 1 - torch.rand(len(x), generator=rng, device=rng.device)
        if c.times == "grid":
            levels = self.restorer.levels
            t = levels[torch.randint(len(levels), (len(x),), generator=rng, device=rng.device)]
        xi = torch.randn(x.shape, generator=rng, device=rng.device)
        label, known = self._label(batch.labels), coarse if c.cond_coarse else None
        return bridge_loss(
            lambda y, t: self.restorer(y, t, label, known, told),
            x,
            coarse,
            t,
            xi,
            Bridge(c.noise, self.restorer.spread),
            c.weighting,
        )

    @property
    def first_stage(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {name: self.networks[name] for name in ("coarse", "encoder") if name in self.networks}
        )

    def _changed(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the batch's photos, augmented if the config says so, and the augmentations."""
        if not self.config.augment:
            return batch.images, None
        return changed(batch.images, self.config.augment, batch.generator)

    def _drawn(
        self, x: Tensor, labels: Tensor, rng: torch.Generator, told: Tensor | None = None
    ) -> Tensor:
        """Return a coarse image of each photo x: the photo's vector, plus a fresh draw, through
        stage 1's network, which receives the photo's augmentations `told`.
        """
        latent = self.config.mode == "latent"
        vector = self._centre(self.networks["encoder"](x).float() if latent else x, labels)
        y = vector + self.config.bandwidth * draw(self.config.kernel, vector.shape, rng)
        if self.config.mode == "pixel":
            return y
        told = hint(self.networks, "coarse", told)
        return self.networks["coarse"](y, self._label(labels), told=told).float()

    def _centre(self, vectors: Tensor, labels: Tensor) -> Tensor:
        """Return the vectors, or their nearest centroids if the bank holds centroids, so that
        training draws coarse images as sampling does.
        """
        return self.bank.nearest(vectors, labels) if self.config.bank == "centroids" else vectors

    def _label(self, labels: Tensor) -> Tensor | None:
        return labels if self.config.classes else None


def _scaled(images: Tensor) -> Tensor:
    """Return uint8 images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def _frozen(graph: nn.Module) -> nn.Module:
    frozen = copy.deepcopy(graph).eval().requires_grad_(False)
    fold_batch_norms(frozen)
    return frozen


def photos32() -> Recipe:
    """32x32 RGB product photos; 640 centroids and both networks are 5.8 MB in half precision.

    Ten steps, whose levels and fresh noise were chosen on the trained model, by FD of 800 images
    against the test split: power 2 with upper noise 316, power 1 255, power 1 with lower noise 222,
    power 0.7 with it 208. See edgegen/zoo for what it gave on Fashion-MNIST.
    """
    config = DkgmConfig(
        coarse=UNetConfig(widths=(48, 64, 64)),
        debias=UNetConfig(widths=(48, 64, 112)),
        steps=10,
        power=0.7,
        variance="lower",
    )
    return Recipe(config, images=4_096_000, batch=256, rate=1e-3, warmup=500)


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    net = UNetConfig(widths=(16, 32), embedding=16)
    config = DkgmConfig(
        size=16,
        classes=0,
        coarse=net,
        debias=net,
        bandwidth=0.5,
        steps=5,
        kde_centroids=8,
        bank_fit=64,
    )
    return Recipe(config, images=3_200, batch=16, warmup=10, ema=0.9, precision="fp32")


def photos64() -> Recipe:
    """64x64 on one GPU: the published blocks, between widths for 32 and 128 px; not trained yet."""
    return _spec(64, (96, 96, 192), (96, 192, 288), batch=128, steps=20)


def photos256() -> Recipe:
    """256x256 on GPUs, widths and steps of docs/methods/dkgm.md, D.4; not trained yet."""
    return _spec(
        256, (64, 64, 128, 128, 256, 256), (96, 96, 192, 192, 384, 384), batch=64, steps=50
    )


def _spec(
    size: int, coarse: tuple[int, ...], debias: tuple[int, ...], batch: int, steps: int
) -> Recipe:
    """400 K steps, a quarter of them for stage 1; group norms, SiLU and attention as in the
    papers.
    """

    def net(widths: tuple[int, ...], blocks: int) -> UNetConfig:
        return UNetConfig(
            widths, blocks, patch=1, norm="group", activation="silu", attention=True, embedding=256
        )

    config = DkgmConfig(
        size,
        classes=0,
        bandwidth=2.0,
        coarse_net="unet",
        coarse=net(coarse, 1),
        debias=net(debias, 2),
        steps=steps,
        bank="exemplars",
        bank_fit=512,
    )
    return Recipe(config, images=400_000 * batch, batch=batch, rate=1e-4, warmup=2_000, ema=0.9999)


FAMILY = Family(
    "dkgm",
    DkgmConfig,
    Dkgm,
    {"photos32": photos32, "tiny": tiny, "photos64": photos64, "photos256": photos256},
    Tuning(grown, whole=("*.embed.label",), rank=3, rate=6e-3, fewest=FEWEST),
)
