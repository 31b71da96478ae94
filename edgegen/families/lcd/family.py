"""The family: networks, the four stages that train them in order, the graphs that ship, and recipes
(spec E).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...core.graph import Batch, Embedded, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import ConsistencySampler, LatentDdimSampler, clean_image
from ...core.spec import TensorSpec
from .. import Family, Recipe, Tuning
from ..metrics import PDist
from ..unet import UNetConfig, fold_batch_norms
from .autoencoder import AutoEncoder
from .config import FEW, CoderConfig, LcdConfig
from .consistency import consistency, ddim_step, guided, pseudo_huber
from .control import Controlled, ControlNet
from .grow import grown
from .hints import HINTS, palette
from .trajectory import trajectory
from .unet import LatentUNet, Like, bake

SPANS = {
    "autoencoder": (0.0, 0.12),
    "teacher": (0.12, 0.78),
    "student": (0.78, 0.87),
    "control": (0.87, 1.0),
}
# spans of adapting a trained one
ADAPTING = {"autoencoder": (0.0, 0.2), "teacher": (0.2, 0.7), "student": (0.7, 1.0)}
MEASURED = 32  # batches that the latents' scale is measured on
RATES = {"autoencoder": 1.0, "teacher": 1.0, "control": 0.5}  # times the recipe's
DISTILLED = {"ends": 0.5, "steps": 0.2}  # the same, of the student
# error of v from which the student's loss grows as the error, not as its square
HUBER = 0.1
# that the student learns from each trajectory: its start, and others by chance
POINTS = 4
SHIPPED_W = 0.75  # share of trajectories with the w that ships, the others' is any
# probability that control trains without the label: the hint alone must do (spec E.2.6)
CONTROL_NULL = 0.5
Net = TypeVar("Net", bound=nn.Module)


class LatentConsistency:
    """Autoencoder, teacher, student with its average, control, their losses and samplers."""

    embeds_training_data: Embedded = "none"

    def __init__(self, config: LcdConfig) -> None:
        self.config, self.image_shape = config, (config.channels, config.size, config.size)
        self.coder = AutoEncoder(config.coder, config.channels, config.z)
        self.teacher, self.student, self.target = (
            LatentUNet(config),
            LatentUNet(config, True),
            LatentUNet(config, True),
        )
        self.control = ControlNet(config)
        self.target.load_state_dict(self.student.state_dict())
        self.target.requires_grad_(False)
        self.networks = nn.ModuleDict(
            {
                "autoencoder": self.coder,
                "teacher": self.teacher,
                "student": self.student,
                "target": self.target,
                "control": self.control,
            }
        )
        self.judge = PDist(config.channels) if config.perceptual else None

    @property
    def shipped(self) -> nn.ModuleDict:
        """All but the student's average, which only training needs."""
        return nn.ModuleDict({name: net for name, net in self.networks.items() if name != "target"})

    @property
    def latent(self) -> Latent:
        c = self.config
        return Latent(TensorSpec("x", ("batch", c.z, c.side, c.side)), c.classes)

    @property
    def sampler(self) -> LatentDdimSampler | ConsistencySampler:
        return self.config.sampler()

    def graphs(self) -> Mapping[str, Graph]:
        """Denoiser and decoder of the config's way: frozen copies with norms folded, w and the
        latents' scale in the weights.
        """
        c, x = self.config, self.latent.noise
        inputs = [x, TensorSpec("t", ("batch",))]
        inputs += [TensorSpec("vector", ("batch", c.vector))] if c.like else []
        inputs += [TensorSpec("hint", ("batch", *self.hint_shape))] if c.way == "control" else []
        inputs += [TensorSpec("label", ("batch", c.classes))] if c.classes else []
        base = self.teacher if c.way == "teacher" else self.student
        net = _copy(base)
        if c.way != "teacher":
            bake(net, c.guidance - 1)
        denoiser: nn.Module = Like(net).eval() if c.like else net
        if c.way == "control":
            denoiser = Controlled(net, _copy(self.control)).eval()
        decoder = _copy(self.coder.decoder)
        decoder.stem.conv.weight *= base.scale.cpu()
        return {
            "denoiser": Graph(denoiser, tuple(inputs), TensorSpec("predicted", x.shape)),
            "decoder": Graph(decoder, (x,), TensorSpec("image", ("batch", *self.image_shape))),
        }

    def objectives(self) -> Iterable[Objective]:
        """In the order they train; each stage begins with what the one before left."""
        distil = self.config.distil
        losses = {
            "autoencoder": self.autoencoder_loss,
            "teacher": self.teacher_loss,
            "student": self.ends_loss if distil == "ends" else self.student_loss,
            "control": self.control_loss,
        }
        rates = {**RATES, "student": DISTILLED[distil]}
        begins = {
            "autoencoder": None,
            "teacher": self.measure,
            "student": self.begin_student,
            "control": self.begin_control,
        }
        return tuple(
            Objective(
                name,
                tuple(self.networks[name].parameters()),
                loss,
                span=SPANS[name],
                begin=begins[name],
                rate=rates[name],
            )
            for name, loss in losses.items()
        )

    def adapting(self) -> Iterable[Objective]:
        """Autoencoder, teacher and student again, each from where it is: control follows the
        student as it finds it.
        """
        begins = {"autoencoder": None, "teacher": self.measure, "student": self.begin_adapted}
        return tuple(
            replace(o, span=ADAPTING[o.name], begin=begins[o.name])
            for o in self.objectives()
            if o.name in ADAPTING
        )

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the judge; a config without a perceptual loss has nothing to teach."""
        if self.judge is not None:
            self.judge.teach(batches, self.config.classes)

    @property
    def hint_shape(self) -> tuple[int, int, int]:
        return self.config.hint_channels, self.config.size, self.config.size

    def hint_of(self, photos: Tensor) -> Tensor:
        """What control is shown of photos (b, c, h, w) in [-1, 1]; boxes lie where a fixed draw
        puts them.
        """
        return HINTS[self.config.hint](photos, torch.Generator(photos.device).manual_seed(0))

    def vector_of(self, photos: Tensor) -> Tensor:
        """Their embedding vector (b, config.vector)."""
        return palette(photos, self.config.palette)

    # before each stage

    def measure(self, batches: Iterable[Batch]) -> None:
        """The latents' standard deviation over a few batches: the teacher works on latents of
        spread 1.
        """
        self.coder.eval()
        with torch.no_grad():
            drawn = [
                self.coder.draw(b.images, b.generator)[0].flatten()
                for b in itertools.islice(batches, MEASURED)
            ]
            self.teacher.scale.copy_(torch.cat(drawn).std())

    def begin_student(self, batches: Iterable[Batch]) -> None:
        """Student and its average start as the teacher, whatever w."""
        for net in (self.student, self.target):
            net.load_state_dict({**net.state_dict(), **self.teacher.state_dict()})
            net.forget_w()

    def begin_adapted(self, batches: Iterable[Batch]) -> None:
        """The student learns the adapted teacher's latents; its average starts as it is."""
        self.student.scale.copy_(self.teacher.scale)
        with torch.no_grad():
            for mine, theirs in zip(
                self.target.state_dict().values(), self.student.state_dict().values(), strict=True
            ):
                mine.copy_(theirs)

    def begin_control(self, batches: Iterable[Batch]) -> None:
        """Control starts as a copy of the student's way down."""
        self.control.trunk.load_state_dict(self.student.trunk.state_dict())

    # the losses

    def autoencoder_loss(self, batch: Batch) -> Tensor:
        """L1 + PDist + KL; the KL's weight is for sums over pixels, as in the LDM, and is rescaled
        to means (E.2.1).
        """
        c, images = self.config, batch.images
        latents, kl = self.coder.train().draw(images, batch.generator)
        made = self.coder.decoder(latents).float()
        loss = (made - images).abs().mean() + c.kl * kl.mean() / images[0].numel()
        if self.judge is not None:
            with torch.autocast(images.device.type, enabled=False):
                loss = loss + c.perceptual * self.judge(made, images).mean()
        return loss

    def teacher_loss(self, batch: Batch) -> Tensor:
        """Mean squared error of v or epsilon at uniform timesteps, the condition dropped now and
        then (E.2.3).
        """
        c, g = self.config, batch.generator
        z = self._latents(batch)
        t = torch.randint(c.timesteps, (len(z),), generator=g, device=g.device)
        eps, now = torch.randn(z.shape, generator=g, device=g.device), self._signal(t)
        label, vector = self._condition(batch)
        predicted = self.teacher.train()(_noised(z, eps, now), t.float(), label, vector).float()
        wanted = eps if c.prediction == "epsilon" else now.sqrt() * eps - (1 - now).sqrt() * z
        return (wanted - predicted).square().mean()

    def student_loss(self, batch: Batch) -> Tensor:
        """Consistency distillation along one guided DDIM step of the teacher (E.2.4 a)."""
        c, g, k = self.config, batch.generator, self.config.timesteps // self.config.grid
        self._follow()
        with torch.no_grad():
            z = self._latents(batch)
            t = self._grid(g, len(z))
            s = (t - k).clamp(min=0)
            now, then = self._signal(t), self._signal(s)
            x = _noised(z, torch.randn(z.shape, generator=g, device=g.device), now)
            label, vector = self._condition(batch, drop=False)
            w = torch.rand((len(z),), generator=g, device=g.device) * c.w_max
            predicted = self._teacher(x, t.float(), label, vector, w)
            reached = ddim_step(x, predicted, now, then, c.prediction)
            target = self._f(self.target.eval(), reached, s, then, label, vector, w)
        # In eval mode, with the teacher's batch statistics: a batch's own would differ from the
        # target's on every image, and that difference, three times the loss without it, adds up
        # over the grid until samples are noisy.
        found = self._f(self.student.eval(), x, t, now, label, vector, w)
        # what an error of v does to the image: unweighted, small timesteps, all others' anchor,
        # drift
        spread = (1 - now).sqrt()
        return pseudo_huber(found / spread, target / spread, HUBER)

    def ends_loss(self, batch: Batch) -> Tensor:
        """The ends of the teacher's own guided trajectories, from points of them: E.2.4 a with the
        solver run all the way.

        Of the batch only as many conditions are used as there are trajectories. No average is
        followed, and nothing can drift.
        """
        c, g, points = self.config, batch.generator, min(POINTS, len(batch.images))
        with torch.no_grad():
            label, vector = (
                None if v is None else v[::points] for v in self._condition(batch, drop=False)
            )
            count = len(batch.images[::points])
            w = torch.rand((count,), generator=g, device=g.device) * c.w_max
            w = torch.where(
                torch.rand((count,), generator=g, device=g.device) < SHIPPED_W, c.guidance - 1, w
            )
            start = torch.randn((count, c.z, c.side, c.side), generator=g, device=g.device)
            times, signal = c.solved
            passed, end = trajectory(
                lambda x, t: self._teacher(x, w * 0 + t, label, vector, w),
                start,
                times,
                signal,
                c.prediction,
            )
            place = self._places(g, count, points)
            x = torch.stack(passed, 1)[
                torch.arange(count, device=g.device)[:, None], place
            ].flatten(0, 1)
            t = torch.tensor(times, device=g.device)[place].flatten()
            label, vector = (
                None if v is None else v.repeat_interleave(points, 0) for v in (label, vector)
            )
            w, end, now = (
                w.repeat_interleave(points),
                end.repeat_interleave(points, 0),
                self._signal(t),
            )
        # In eval mode, as the teacher made the trajectories.
        found = self._f(self.student.eval(), x, t, now, label, vector, w)
        spread = (1 - now).sqrt()
        loss = pseudo_huber(found / spread, end / spread, HUBER)
        if self.judge is not None:
            with _still(self.coder):
                made, wanted = (self.coder.decoder(z * self.teacher.scale) for z in (found, end))
            with torch.autocast(x.device.type, enabled=False):
                loss = loss + c.perceptual * self.judge(made.float(), wanted.float()).mean()
        return loss

    def _places(self, g: torch.Generator, count: int, points: int) -> Tensor:
        """Which of a trajectory's points (count, points): its start, half of the others at steps of
        the shipped sampler.
        """
        few = torch.randint(1, FEW, (count, points), generator=g, device=g.device) * (
            self.config.solver // FEW
        )
        place = torch.randint(1, self.config.solver, (count, points), generator=g, device=g.device)
        place[:, 1::2] = few[:, 1::2]
        place[:, 0] = 0
        return place

    def control_loss(self, batch: Batch) -> Tensor:
        """The controlled student against the image itself: a hint leaves little to guess (E.2.6).
        The student stays as it is.
        """
        c, g = self.config, batch.generator
        with torch.no_grad():
            z = self._latents(batch)
            hint = HINTS[c.hint](batch.images, g)
            t = self._grid(g, len(z))
            now = self._signal(t)
            x = _noised(z, torch.randn(z.shape, generator=g, device=g.device), now)
            w = torch.rand((len(z),), generator=g, device=g.device) * c.w_max
            label = _dropped(batch.labels, CONTROL_NULL, g) if c.classes else None
        with _still(self.student):
            predicted = Controlled(self.student, self.control.train()).forward(
                x, t.float(), hint, label, w
            )
            return pseudo_huber(clean_image(x, predicted.float(), now, c.prediction), z)

    def _grid(self, g: torch.Generator, count: int) -> Tensor:
        """Timesteps of the solver's grid (count,)."""
        k = self.config.timesteps // self.config.grid
        return (
            torch.randint(1, self.config.grid + 1, (count,), generator=g, device=g.device) * k - 1
        )

    def _latents(self, batch: Batch) -> Tensor:
        """Scaled latents of the frozen encoder, without gradients."""
        with torch.no_grad():
            z, _ = self.coder.eval().draw(batch.images, batch.generator)
            return z / self.teacher.scale

    def _signal(self, t: Tensor) -> Tensor:
        return self.teacher.signal[t][:, None, None, None]

    def _condition(self, batch: Batch, drop: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Label and embedding vector; each dropped alone, so that either can be left out."""
        c = self.config
        label = batch.labels if c.classes else None
        vector = palette(batch.images, c.palette) if c.palette else None
        if not drop:
            return label, vector
        return tuple(
            None if v is None else _dropped(v, c.null, batch.generator) for v in (label, vector)
        )  # type: ignore[return-value]

    def _teacher(
        self, x: Tensor, t: Tensor, label: Tensor | None, vector: Tensor | None, w: Tensor
    ) -> Tensor:
        """The teacher's guided prediction: both branches in one batch."""
        teacher = self.teacher.eval()
        if label is None and vector is None:
            return teacher(x, t).float()
        pairs = [
            None if v is None else torch.cat([v, torch.zeros_like(v)]) for v in (label, vector)
        ]
        conditional, null = teacher(torch.cat([x, x]), torch.cat([t, t]), *pairs).float().chunk(2)
        return guided(conditional, null, 1 + w[:, None, None, None])

    def _f(
        self,
        net: LatentUNet,
        x: Tensor,
        t: Tensor,
        now: Tensor,
        label: Tensor | None,
        vector: Tensor | None,
        w: Tensor,
    ) -> Tensor:
        predicted = net(x, t.float(), label, vector, w).float()
        return consistency(
            x, t.float()[:, None, None, None], predicted, now, self.config.prediction
        )

    def _follow(self) -> None:
        """target <- decay target + (1 - decay) student, its batch statistics copied; no gradient
        passes.
        """
        with torch.no_grad():
            ours: list[Tensor] = list(self.target.parameters())
            theirs: list[Tensor] = list(self.student.parameters())
            torch._foreach_lerp_(ours, theirs, 1 - self.config.decay)  # one launch for all on a GPU
            for mine, buffer in zip(self.target.buffers(), self.student.buffers(), strict=True):
                mine.copy_(buffer)


def _noised(z: Tensor, eps: Tensor, now: Tensor) -> Tensor:
    return now.sqrt() * z + (1 - now).sqrt() * eps


def _dropped(condition: Tensor, share: float, g: torch.Generator) -> Tensor:
    """condition (b, n) with each row zero with probability `share`: the null condition."""
    keep = torch.rand((len(condition), 1), generator=g, device=g.device) >= share
    return condition * keep


def _copy(net: Net) -> Net:
    """Frozen, on the CPU, in eval mode, batch norms folded."""
    made = copy.deepcopy(net).cpu().eval().requires_grad_(False)
    fold_batch_norms(made)
    return made


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """`net` neither gets gradients nor moves its batch statistics by what is computed while the
    block runs.
    """
    # all but those that stay while adapters train
    trained = [p for p in net.eval().parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def photos32() -> Recipe:
    """32x32 RGB product photos: 3M parameters in all, latents of 16x16x4; see edgegen/zoo for what
    it gave on Fashion-MNIST.
    """
    return Recipe(LcdConfig(), images=3_584_000, batch=256, ema=0.999)


def tiny() -> Recipe:
    """A 16x16 toy that trains in seconds: for tests and first tries, not for pictures."""
    config = LcdConfig(
        size=16,
        classes=0,
        coder=CoderConfig((16, 32)),
        unet=UNetConfig((16, 32), patch=1, embedding=16),
        attend=(4,),
        head=16,
        context=16,
        tokens=2,
        timesteps=100,
        grid=20,
        guidance=1.0,
        perceptual=0.0,
    )
    return Recipe(config, images=3_200, batch=16, warmup=10, ema=0.9, precision="fp32")


def photos64() -> Recipe:
    """64x64 on one GPU with the spec's blocks (E.4): latents of 16x16x4, channels 64 and 128, two
    blocks; not trained yet.
    """
    config = LcdConfig(
        size=64,
        coder=CoderConfig((32, 64, 128), norm="group", activation="silu"),
        context=128,
        transformer="spatial",
        unet=UNetConfig(
            (64, 128), blocks=2, patch=1, norm="group", activation="silu", embedding=256
        ),
        attend=(16, 8),
        head=32,
    )
    return Recipe(config, images=10_000_000, batch=128, rate=2e-4, ema=0.9995)


def photos256() -> Recipe:
    """256x256 on GPUs with the spec's settings (E.4): latents of 32x32x4, channels 160, 320 and
    640; not trained yet.
    """
    config = LcdConfig(
        size=256,
        coder=CoderConfig((128, 128, 256, 512), blocks=2, norm="group", activation="silu"),
        context=384,
        unet=UNetConfig(
            (160, 320, 640), blocks=2, patch=1, norm="group", activation="silu", embedding=640
        ),
        attend=(32, 16, 8),
        head=32,
        transformer="spatial",
    )
    return Recipe(config, images=100_000_000, batch=256, rate=1e-4, warmup=10_000, ema=0.9999)


FAMILY = Family(
    "lcd",
    LcdConfig,
    LatentConsistency,
    {"photos32": photos32, "tiny": tiny, "photos64": photos64, "photos256": photos256},
    Tuning(
        grown,
        ("autoencoder.*", "teacher.*", "student.*", "target.*"),
        whole=("*.context.label",),
        rank=3,
        batch=64,
        rate=6e-3,
    ),
)
