"""The family lcd: its four stages, which train in order, and the graphs that ship
(docs/methods/latent-consistency.md, E.2).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...core.conditions import labels
from ...core.graph import Batch, Embedded, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import ConsistencySampler, LatentDdimSampler
from ...core.spec import TensorSpec
from ..transforms import Told, beside
from ..unet import fold_batch_norms
from .control import Controlled
from .hints import HINTS, palette
from .losses import LatentLosses
from .unet import Like, bake

SPANS = {
    "autoencoder": (0.0, 0.12),
    "teacher": (0.12, 0.78),
    "student": (0.78, 0.87),
    "control": (0.87, 1.0),
}
# spans of the stages when a trained generator is adapted
ADAPTING = {"autoencoder": (0.0, 0.2), "teacher": (0.2, 0.7), "student": (0.7, 1.0)}
MEASURED = 32  # number of batches on which the latents' scale is measured
RATES = {"autoencoder": 1.0, "teacher": 1.0, "control": 0.5}  # factors on the recipe's rate
DISTILLED = {"ends": 0.5, "steps": 0.2}  # factors for the student, by the config's `distil`
Net = TypeVar("Net", bound=nn.Module)


class LatentConsistency(LatentLosses):
    """An lcd generator: the networks and losses with their stages, graphs and samplers."""

    embeds_training_data: Embedded = "none"

    @property
    def shipped(self) -> nn.ModuleDict:
        """All networks except the student's average and the embeddings of augmentations, which only
        training needs.
        """
        return nn.ModuleDict(
            {
                name: net
                for name, net in self.networks.items()
                if name != "target" and not isinstance(net, Told)
            }
        )

    @property
    def latent(self) -> Latent:
        c = self.config
        return Latent(TensorSpec("x", ("batch", c.z, c.side, c.side)), labels(c.classes))

    @property
    def sampler(self) -> LatentDdimSampler | ConsistencySampler:
        return self.config.sampler()

    def graphs(self) -> Mapping[str, Graph]:
        """Return the denoiser and the decoder for the config's way.

        They are frozen copies with batch norms folded, and with w and the latents' scale in the
        weights.
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
        """Return the objectives in the order of training; each stage builds on the one before."""
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
                self._parameters(name, beside(name)),
                loss,
                span=SPANS[name],
                begin=begins[name],
                rate=rates[name],
            )
            for name, loss in losses.items()
        )

    def _parameters(self, *names: str) -> tuple[nn.Parameter, ...]:
        """Return the parameters of those of the named networks that exist."""
        nets = (self.networks[name] for name in names if name in self.networks)
        return tuple(parameter for net in nets for parameter in net.parameters())

    def adapting(self) -> Iterable[Objective]:
        """Return the objectives of autoencoder, teacher and student, which continue from their
        present weights. Control is not adapted.
        """
        begins = {"autoencoder": None, "teacher": self.measure, "student": self.begin_adapted}
        return tuple(
            replace(o, span=ADAPTING[o.name], begin=begins[o.name])
            for o in self.objectives()
            if o.name in ADAPTING
        )

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the judge, if the config has a perceptual loss."""
        if self.judge is not None:
            self.judge.teach(batches, self.config.classes)

    @property
    def hint_shape(self) -> tuple[int, int, int]:
        return self.config.hint_channels, self.config.size, self.config.size

    def hint_of(self, photos: Tensor) -> Tensor:
        """Return the control hint for photos (b, c, h, w) in [-1, 1].

        The positions of boxes come from a fixed seed.
        """
        return HINTS[self.config.hint](photos, torch.Generator(photos.device).manual_seed(0))

    def vector_of(self, photos: Tensor) -> Tensor:
        """Return the embedding vector (b, config.vector) of photos."""
        return palette(photos, self.config.palette)

    # before each stage

    def measure(self, batches: Iterable[Batch]) -> None:
        """Measure the latents' standard deviation over a few batches and store it as the teacher's
        scale, so that the teacher works on latents with standard deviation 1.
        """
        self.coder.eval()
        with torch.no_grad():
            drawn = [
                self.coder.draw(b.images, b.generator)[0].flatten()
                for b in itertools.islice(batches, MEASURED)
            ]
            self.teacher.scale.copy_(torch.cat(drawn).std())

    def begin_student(self, batches: Iterable[Batch]) -> None:
        """Copy the teacher into the student and its average, so that w has no effect at first."""
        for net in (self.student, self.target):
            net.load_state_dict({**net.state_dict(), **self.teacher.state_dict()})
            net.forget_w()

    def begin_adapted(self, batches: Iterable[Batch]) -> None:
        """Give the student the adapted teacher's scale, and copy the student into its average."""
        self.student.scale.copy_(self.teacher.scale)
        with torch.no_grad():
            for mine, theirs in zip(
                self.target.state_dict().values(), self.student.state_dict().values(), strict=True
            ):
                mine.copy_(theirs)

    def begin_control(self, batches: Iterable[Batch]) -> None:
        """Copy the student's way down into control's."""
        self.control.trunk.load_state_dict(self.student.trunk.state_dict())


def _copy(net: Net) -> Net:
    """Return a frozen copy on the CPU in eval mode, with batch norms folded."""
    made = copy.deepcopy(net).cpu().eval().requires_grad_(False)
    fold_batch_norms(made)
    return made
