"""The family isc-gan: its networks, its adversarial training, the graphs that ship, and recipes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.conditions import labels
from ...core.graph import Batch, Embedded, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import SingleSampler
from ...core.spec import TensorSpec
from .. import Family, Recipe, Tuning
from .augment import Ada
from .config import IscGanConfig, Regularizers, widths
from .critic import Critic
from .grow import grown
from .layers import constant
from .losses import path_lengths, path_penalty, r1
from .qat import apart, rounding
from .synthesis import StyleGan, Synthesis

BETAS = (0.0, 0.99)  # of Adam for both networks (docs/methods/isc-gan.md, A.4)
# Largest norm of a gradient. A lazy R1 term is rare and large, and must not be cut to the size of
# the other gradients.
CLIP = 10.0


class Progress(nn.Module):
    """The state of training beside the weights, as a module so that every checkpoint holds it.

    The step counts decide what is computed, so they are Python numbers (extra state): reading them
    from a GPU would make it wait.
    """

    path_mean: Tensor

    def __init__(self, config: Regularizers) -> None:
        super().__init__()
        self.ada = Ada(config.ada_target, config.ada_kimg)
        self.steps = [0, 0]  # of the generator and of the discriminator
        self.register_buffer("path_mean", torch.zeros(()))

    def due(self, side: int, interval: int) -> bool:
        """Count a step of that side (0 generator, 1 discriminator), and return whether a lazy term
        with this interval is due.
        """
        count = self.steps[side]
        self.steps[side] += 1
        return count % interval == 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = state.tolist()


class IscGan:
    """An isc-gan: generator and discriminator with their losses, and a sampler without a loop."""

    def __init__(self, config: IscGanConfig) -> None:
        self.config = config
        self.generator, self.critic, self.progress = (
            StyleGan(config),
            Critic(config),
            Progress(config.regularizers),
        )
        self.networks = nn.ModuleDict(
            {"generator": self.generator, "discriminator": self.critic, "progress": self.progress}
        )
        if config.qat:
            self.networks["teacher"] = Synthesis(config).requires_grad_(False)

    @property
    def shipped(self) -> nn.ModuleDict:
        return nn.ModuleDict({"generator": self.generator})

    @property
    def embeds_training_data(self) -> Embedded:
        return "none"

    @property
    def twice_differentiated(self) -> bool:
        """Always true, because R1 and path length are losses on gradients."""
        return True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.config.channels, self.config.size, self.config.size

    @property
    def latent(self) -> Latent:
        return Latent(TensorSpec("x", ("batch", self.config.z_dim)), labels(self.config.classes))

    @property
    def sampler(self) -> SingleSampler:
        return SingleSampler(("mapping", "synthesis"))

    def graphs(self) -> Mapping[str, Graph]:
        """Return graphs of frozen copies with constant weights.

        Noise, if the config has it, is one fixed field per layer.
        """
        c = self.config
        label = (TensorSpec("label", ("batch", c.classes)),) if c.classes else ()
        style, image = (
            TensorSpec("w", ("batch", c.w_dim)),
            TensorSpec("image", ("batch", *self.image_shape)),
        )
        x = TensorSpec("x", style.shape)
        return {
            "mapping": Graph(constant(self.generator.mapping), (self.latent.noise, *label), style),
            "synthesis": Graph(constant(self.generator.synthesis), (x,), image),
        }

    def objectives(self) -> Iterable[Objective]:
        """Return the objectives, each with one optimizer step per batch.

        A lazy term joins the loss of the steps at which it is due, times its interval. (The
        official code gives it a separate optimizer step, and corrects Adam for the additional
        steps; in one sum there are none.)
        """
        if self.config.qat:
            return (
                Objective(
                    "qat",
                    tuple(self.generator.synthesis.parameters()),
                    self.qat_loss,
                    begin=self.begin_qat,
                ),
            )
        return self.adapting()

    def adapting(self) -> Iterable[Objective]:
        """Return the objectives of the adversarial game, even if the config says qat."""
        generator, critic = (tuple(net.parameters()) for net in (self.generator, self.critic))
        return (
            Objective("generator", generator, self.generator_loss, BETAS, CLIP),
            Objective("discriminator", critic, self.critic_loss, BETAS, CLIP),
        )

    def generator_loss(self, batch: Batch) -> Tensor:
        """Return softplus(-D(fake)), plus every few steps the penalty on path lengths."""
        r, rng = self.config.regularizers, batch.generator
        scores = self._frozen_scores(self._images(batch, len(batch.images)), batch)
        loss = F.softplus(-scores).mean()
        if self.progress.due(0, r.path_interval) and r.path_weight:
            with torch.autocast(batch.images.device.type, enabled=False):
                ws = self._styles(batch, max(1, len(batch.images) // 2))
                images = self.generator.synthesis.features(ws.unbind(1), rng)["image"]
                penalty = path_penalty(path_lengths(ws, images, rng), self.progress.path_mean)
            loss = loss + r.path_weight * r.path_interval * penalty
        return loss

    def critic_loss(self, batch: Batch) -> Tensor:
        """Return softplus(D(fake)) + softplus(-D(real)), plus every few steps R1 at the augmented
        real images.
        """
        r, ada, condition = self.config.regularizers, self.progress.ada, self._condition(batch)
        with torch.no_grad():
            fake = ada(self._images(batch, len(batch.images)), batch.generator)
        real = ada(batch.images, batch.generator)
        scores = self.critic(real, *condition)
        loss = F.softplus(self.critic(fake, *condition)).mean() + F.softplus(-scores).mean()
        if self.progress.due(1, r.r1_interval) and r.r1_gamma:
            loss = loss + r.r1_interval * r1(lambda x: self.critic(x, *condition), real, r.r1_gamma)
        ada.follow(scores.detach())
        return loss

    def begin_qat(self, batches: Iterable[Batch]) -> None:
        """Copy the present generator into the teacher."""
        self.networks["teacher"].load_state_dict(self.generator.synthesis.state_dict())

    def qat_loss(self, batch: Batch) -> Tensor:
        """Return the distance of images with rounded activations, and of images without rounding,
        from the teacher's images.
        """
        synthesis, rng = self.generator.synthesis, batch.generator
        with torch.no_grad():
            z = torch.randn(len(batch.images), self.config.z_dim, generator=rng, device=rng.device)
            w = self.generator.mapping(z, *self._condition(batch))
            wanted = self.networks["teacher"](w).float()
        exact = synthesis(w).float()
        # the first block's convolution stays in full precision
        with rounding(synthesis.blocks[1:]):
            rounded = synthesis(w).float()
        return apart(rounded, wanted) + apart(exact, wanted)

    def _frozen_scores(self, fake: Tensor, batch: Batch) -> Tensor:
        """Return the discriminator's scores of augmented fakes; only the fakes get gradients."""
        with _frozen(self.critic):
            scores: Tensor = self.critic(
                self.progress.ada(fake, batch.generator), *self._condition(batch)
            )
            return scores

    def _images(self, batch: Batch, count: int) -> Tensor:
        ws = self._styles(batch, count)
        return self.generator.synthesis.features(ws.unbind(1), batch.generator)["image"].float()

    def _styles(self, batch: Batch, count: int) -> Tensor:
        """Return styles (count, styles, w_dim) of fresh latents.

        With style mixing, some change to those of a second latent from a random layer on.
        """
        c, mapping = self.config, self.generator.mapping
        labels = tuple(t[:count] for t in self._condition(batch))
        rng = batch.generator
        w = mapping(torch.randn(count, c.z_dim, generator=rng, device=rng.device), *labels)
        mapping.follow(w)
        ws = w[:, None].expand(-1, c.styles, -1)
        if not c.regularizers.mixing:
            return ws
        other = mapping(torch.randn(count, c.z_dim, generator=rng, device=rng.device), *labels)[
            :, None
        ]
        place = torch.randint(1, c.styles, (count, 1), generator=rng, device=rng.device)
        mixed = torch.rand(count, 1, generator=rng, device=rng.device) < c.regularizers.mixing
        second = (torch.arange(c.styles, device=rng.device)[None] >= place) & mixed
        return torch.where(second[:, :, None], other, ws)

    def _condition(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch.labels,) if self.config.classes else ()


@contextmanager
def _frozen(net: nn.Module) -> Iterator[None]:
    """Keep the parameters of `net` from getting gradients while the block runs."""
    # Parameters that are already frozen while adapters train must stay frozen afterwards.
    trained = [p for p in net.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def half_life(images: int, batch: int) -> float:
    """Return the decay per step at which the weight of a state halves after `images` images."""
    return float(0.5 ** (batch / images))


def photos32() -> Recipe:
    """32x32 RGB product photos: the "cifar" settings of A.4 at 0.93M parameters against the
    discriminator's 0.91M.

    Differs from them in: no augmentation (the run is over before a discriminator can learn 60,000
    photos by heart), a stronger R1 (photos have flat grounds, on which it would win by the last
    bit), a shorter average, the squeeze connection with all channels in sixteens, and no noise (a
    sum a layer). R1's weight is of a sweep (benchmarks/isc_gan.py, 137,344 images, one seed, FD of
    1,000 images): 0.01, 0.1 and 1 gave 879, 668 and 502. See edgegen/zoo for what it gave on
    Fashion-MNIST.
    """
    config = IscGanConfig(
        classes=10,
        z_dim=64,
        w_dim=128,
        widths=(128, 128, 128, 64),
        critic_widths=(128, 128, 64, 64),
        critic="plain",
        group=32,
        noise=False,
        up="after",
        regularizers=Regularizers(r1_gamma=1.0, ada_target=0.0),
    )
    return Recipe(
        config,
        images=1_792_000,
        batch=128,
        rate=0.0025,
        warmup=500,
        ema=half_life(50_000, 128),
        precision="fp32",
    )


def objects32() -> Recipe:
    """32x32 coloured objects on white (`make data`), the base that products are adapted from.

    Photos32 with more channels at 4x4 and 8x8 and fewer above, which is more weights in less time,
    and with augmentation, since 7,194 pictures are soon known by heart. Not measured yet.
    """
    return _objects(32, (192, 160, 96, 48), (192, 128, 64, 32))


def objects64() -> Recipe:
    """The same objects at 64x64: a level more. Not trained yet."""
    return _objects(64, (192, 160, 96, 48, 32), (192, 160, 96, 48, 32))


def _objects(size: int, widths: tuple[int, ...], critic_widths: tuple[int, ...]) -> Recipe:
    game = photos32()
    config = replace(
        game.config,
        size=size,
        widths=widths,
        critic_widths=critic_widths,
        regularizers=Regularizers(r1_gamma=1.0),
    )
    return replace(game, config=config, images=1_920_000, batch=64, ema=half_life(50_000, 64))


def qat32() -> Recipe:
    """A trained photos32 made for INT8: `--init isc-gan --recipe qat32`; edgegen/zoo's isc-gan
    ended with it (decision 13).
    """
    game = photos32()
    return replace(
        game,
        config=replace(game.config, qat=True),
        images=64_000,
        batch=32,
        rate=0.003,
        warmup=50,
        ema=0.9,
    )


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    config = IscGanConfig(
        size=16, z_dim=16, w_dim=16, widths=(32, 16, 16), critic_widths=(32, 16, 16)
    )
    return Recipe(config, images=3_200, batch=16, rate=0.0025, warmup=10, ema=0.9, precision="fp32")


def photos64() -> Recipe:
    """64x64 on one GPU, the "auto" settings of A.4, squeeze connection with r = 4; not trained
    yet.
    """
    config = _spec(64, base=16_384, layers=2, group=4, gamma=0.0002 * 64**2 / 32)
    return Recipe(
        config, images=25_000_000, batch=32, rate=0.0025, warmup=100, ema=half_life(10_000, 32)
    )


def photos256() -> Recipe:
    """256x256 on GPUs, the "paper256" settings of A.4, squeeze connection with r = 4; not
    trained yet.
    """
    config = _spec(256, base=16_384, layers=8, group=8, gamma=1.0)
    return Recipe(
        config, images=25_000_000, batch=64, rate=0.0025, warmup=100, ema=half_life(20_000, 64)
    )


def _spec(size: int, base: int, layers: int, group: int, gamma: float) -> IscGanConfig:
    sizes = widths(size, base)
    regular = Regularizers(r1_gamma=gamma, path_weight=2.0, mixing=0.9)
    return IscGanConfig(
        size,
        mapping_layers=layers,
        widths=sizes,
        critic_widths=sizes,
        group=group,
        regularizers=regular,
    )


RECIPES = {
    "photos32": photos32,
    "objects32": objects32,
    "objects64": objects64,
    "qat32": qat32,
    "tiny": tiny,
    "photos64": photos64,
    "photos256": photos256,
}
FAMILY = Family(
    "isc-gan",
    IscGanConfig,
    IscGan,
    RECIPES,
    Tuning(
        grown,
        whole=("generator.mapping.label", "discriminator.label"),
        precision="fp32",
        rate=0.004,
    ),
)
