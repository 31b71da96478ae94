"""What each of lcd's four stages learns: the networks, and a loss for each stage
(docs/methods/latent-consistency.md, E.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core.graph import Batch
from ...core.samplers import clean_image
from ..metrics import PDist
from ..transforms import Told, beside, changed, hint
from .autoencoder import AutoEncoder
from .config import FEW, LcdConfig
from .consistency import consistency, ddim_step, guided, pseudo_huber
from .control import Controlled, ControlNet
from .hints import HINTS, palette
from .trajectory import trajectory
from .unet import LatentUNet

# error of v from which the student's loss grows as the error, not as its square
HUBER = 0.1
# that the student learns from each trajectory: its start, and others by chance
POINTS = 4
SHIPPED_W = 0.75  # share of trajectories with the w that ships, the others' is any
# probability that control trains without the label: the hint alone must do (E.2.6)
CONTROL_NULL = 0.5


@dataclass(frozen=True)
class Points:
    """Places x (n, z, h, w) on trajectories of the guided teacher, at timesteps t (n,), under their
    conditions and guidance w (n,), with the clean latents that each trajectory ends at.
    """

    x: Tensor
    t: Tensor
    label: Tensor | None
    vector: Tensor | None
    w: Tensor
    end: Tensor


class LatentLosses:
    """Autoencoder, teacher, student with its average and control, and what each is taught."""

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
        if config.augment:
            self.networks[beside("teacher")] = Told(config.unet.embedding)
        self.judge = PDist(config.channels) if config.perceptual else None

    def autoencoder_loss(self, batch: Batch) -> Tensor:
        """L1 + PDist + KL; the KL's weight is for sums over pixels, as in the LDM, and is rescaled
        to means (E.2.1).
        """
        c, (batch, _) = self.config, self._changed(batch)
        images = batch.images
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
        batch, told = self._changed(batch)
        z = self._latents(batch)
        t = torch.randint(c.timesteps, (len(z),), generator=g, device=g.device)
        eps, now = torch.randn(z.shape, generator=g, device=g.device), self._signal(t)
        label, vector = self._condition(batch)
        told = hint(self.networks, "teacher", told)
        x = _noised(z, eps, now)
        predicted = self.teacher.train()(x, t.float(), label, vector, told=told).float()
        wanted = eps if c.prediction == "epsilon" else now.sqrt() * eps - (1 - now).sqrt() * z
        return (wanted - predicted).square().mean()

    def _changed(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """The batch with the photos as they are trained on, and what was done to them."""
        if not self.config.augment:
            return batch, None
        images, told = changed(batch.images, self.config.augment, batch.generator)
        return replace(batch, images=images), told

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
        solver run all the way. No average is followed, and nothing can drift.
        """
        with torch.no_grad():
            points = self.sample_trajectories(batch)
        # In eval mode, as the teacher made the trajectories.
        now = self._signal(points.t)
        found = self._f(
            self.student.eval(), points.x, points.t, now, points.label, points.vector, points.w
        )
        spread = (1 - now).sqrt()
        loss = pseudo_huber(found / spread, points.end / spread, HUBER)
        if self.judge is not None:
            with _still(self.coder):
                drawn, wanted = (
                    self.coder.decoder(z * self.teacher.scale) for z in (found, points.end)
                )
            with torch.autocast(found.device.type, enabled=False):
                difference = self.judge(drawn.float(), wanted.float()).mean()
                loss = loss + self.config.perceptual * difference
        return loss

    def sample_trajectories(self, batch: Batch) -> Points:
        """Trajectories of the guided teacher from fresh noise, each at a few of its points.

        Of the batch only as many conditions are used as there are trajectories, so that there are
        about as many points as images.
        """
        c, g, points = self.config, batch.generator, min(POINTS, len(batch.images))
        label, vector = (
            None if v is None else v[::points] for v in self._condition(batch, drop=False)
        )
        count = len(batch.images[::points])
        w = self._guidance(g, count)
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
        row = torch.arange(count, device=g.device)[:, None]
        return Points(
            torch.stack(passed, 1)[row, place].flatten(0, 1),
            torch.tensor(times, device=g.device)[place].flatten(),
            None if label is None else label.repeat_interleave(points, 0),
            None if vector is None else vector.repeat_interleave(points, 0),
            w.repeat_interleave(points),
            end.repeat_interleave(points, 0),
        )

    def _guidance(self, g: torch.Generator, count: int) -> Tensor:
        """w of each trajectory (count,): the one that ships for most, any for the others."""
        w = torch.rand((count,), generator=g, device=g.device) * self.config.w_max
        ships = torch.rand((count,), generator=g, device=g.device) < SHIPPED_W
        return torch.where(ships, self.config.guidance - 1, w)

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
