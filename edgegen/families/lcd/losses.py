"""The networks of lcd, and the loss of each of its four stages
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

# error of v above which the student's loss grows linearly instead of quadratically
HUBER = 0.1
# points of each trajectory from which the student learns: its start and random others
POINTS = 4
SHIPPED_W = 0.75  # share of trajectories with the w that ships; the others have a random w
# probability that control trains without the label, from the hint alone (E.2.6)
CONTROL_NULL = 0.5


@dataclass(frozen=True)
class Points:
    """Points x (n, z, h, w) on trajectories of the guided teacher, at timesteps t (n,).

    They come with their conditions and guidance w (n,), and with the clean latents `end` at the end
    of each trajectory.
    """

    x: Tensor
    t: Tensor
    label: Tensor | None
    vector: Tensor | None
    w: Tensor
    end: Tensor


class LatentLosses:
    """The networks autoencoder, teacher, student, its average (target) and control, with their
    losses.
    """

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
        """Return the autoencoder's loss L1 + PDist + KL (E.2.1).

        The weight of the KL is for sums over pixels, as in the LDM, and is rescaled to means.
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
        """Return the mean squared error of v or epsilon at uniform timesteps, with conditions
        dropped at random (E.2.3).
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
        """Return the batch, augmented if the config says so, and the augmentations."""
        if not self.config.augment:
            return batch, None
        images, told = changed(batch.images, self.config.augment, batch.generator)
        return replace(batch, images=images), told

    def student_loss(self, batch: Batch) -> Tensor:
        """Return the loss of consistency distillation along one guided DDIM step of the teacher
        (E.2.4 a).
        """
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
        # In eval mode the student has the teacher's batch statistics. Those of the batch would
        # differ from the target's on every image, and that difference, three times the loss without
        # it, would add up over the grid until samples are noisy.
        found = self._f(self.student.eval(), x, t, now, label, vector, w)
        # The factor from an error of v to one of the image. Unweighted, the small timesteps, on
        # which all others build, would drift.
        spread = (1 - now).sqrt()
        return pseudo_huber(found / spread, target / spread, HUBER)

    def ends_loss(self, batch: Batch) -> Tensor:
        """Return the student's loss in predicting the ends of the teacher's guided trajectories
        from points on them (E.2.4 a with the solver run to the end).

        The targets do not depend on the student, so nothing can drift.
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
        """Run trajectories of the guided teacher from fresh noise, and return a few points of each.

        Only as many conditions of the batch are used as there are trajectories, so that there are
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
        """Return w of each trajectory (count,): mostly the one that ships, otherwise random."""
        w = torch.rand((count,), generator=g, device=g.device) * self.config.w_max
        ships = torch.rand((count,), generator=g, device=g.device) < SHIPPED_W
        return torch.where(ships, self.config.guidance - 1, w)

    def _places(self, g: torch.Generator, count: int, points: int) -> Tensor:
        """Return the indices (count, points) of points on each trajectory: its start, and random
        others, half of them at steps of the shipped sampler.
        """
        few = torch.randint(1, FEW, (count, points), generator=g, device=g.device) * (
            self.config.solver // FEW
        )
        place = torch.randint(1, self.config.solver, (count, points), generator=g, device=g.device)
        place[:, 1::2] = few[:, 1::2]
        place[:, 0] = 0
        return place

    def control_loss(self, batch: Batch) -> Tensor:
        """Return the loss of the controlled student's clean latents against those of the image
        (E.2.6). Only control is trained.
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
        """Draw timesteps (count,) of the solver's grid."""
        k = self.config.timesteps // self.config.grid
        return (
            torch.randint(1, self.config.grid + 1, (count,), generator=g, device=g.device) * k - 1
        )

    def _latents(self, batch: Batch) -> Tensor:
        """Return scaled latents from the frozen encoder, without gradients."""
        with torch.no_grad():
            z, _ = self.coder.eval().draw(batch.images, batch.generator)
            return z / self.teacher.scale

    def _signal(self, t: Tensor) -> Tensor:
        return self.teacher.signal[t][:, None, None, None]

    def _condition(self, batch: Batch, drop: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """Return label and embedding vector; with `drop`, rows of each are zeroed independently."""
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
        """Return the teacher's guided prediction, with both branches in one batch."""
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
        """Update the average: target <- decay target + (1 - decay) student; buffers are copied."""
        with torch.no_grad():
            ours: list[Tensor] = list(self.target.parameters())
            theirs: list[Tensor] = list(self.student.parameters())
            torch._foreach_lerp_(ours, theirs, 1 - self.config.decay)  # one kernel launch on a GPU
            for mine, buffer in zip(self.target.buffers(), self.student.buffers(), strict=True):
                mine.copy_(buffer)


def _noised(z: Tensor, eps: Tensor, now: Tensor) -> Tensor:
    return now.sqrt() * z + (1 - now).sqrt() * eps


def _dropped(condition: Tensor, share: float, g: torch.Generator) -> Tensor:
    """Return condition (b, n) with each row set to zero, the null condition, with probability
    `share`.
    """
    keep = torch.rand((len(condition), 1), generator=g, device=g.device) >= share
    return condition * keep


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """Freeze `net` in eval mode while the block runs: no gradients, no new batch statistics."""
    # Parameters that are already frozen while adapters train must stay frozen afterwards.
    trained = [p for p in net.eval().parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
