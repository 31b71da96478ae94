"""The batches of a run on its device: photos in memory are moved there once, as bytes, and those of
a stream batch by batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.graph import Batch
from .data import Photos
from .order import mix, picks, share
from .source import Source


class Held:
    """Photos that are all on the device."""

    def __init__(self, photos: Photos, device: torch.device) -> None:
        # torch warns about arrays that are not writable
        pixels = photos.pixels if photos.pixels.flags.writeable else photos.pixels.copy()
        # (n, h, w, c) uint8
        self._pixels = torch.from_numpy(pixels).to(device)
        self._labels = torch.from_numpy(photos.labels).to(device)

    def take(self, step: int, size: int, seed: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
        """Return pixels (b, h, w, c) uint8 and labels (b,) of a process's share of the batch."""
        places = share(picks(len(self._pixels), size, step, seed), rank, world)
        at = torch.tensor(places).to(self._pixels.device, non_blocking=True)
        return self._pixels[at], self._labels[at]


class Streamed:
    """Photos that a source hands out batch by batch."""

    def __init__(self, photos: Source, device: torch.device) -> None:
        self._photos, self._device = photos, device

    def take(self, step: int, size: int, seed: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
        """Return pixels and labels as Held.take does."""
        pixels, labels = self._photos.batch(step, size, seed, rank, world)
        return torch.from_numpy(pixels).to(self._device, non_blocking=True), torch.from_numpy(
            labels
        ).to(self._device)


class Feed:
    """Gives batches of `size` as functions of (step, seed).

    Each process takes its share of a batch, and all have the same random generator.
    """

    def __init__(
        self,
        photos: Source,
        size: int,
        classes: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.size, self.classes, self.device, self.rank, self.world = (
            size,
            classes,
            device,
            rank,
            world,
        )
        self._photos, self._count = (
            Held(photos, device) if isinstance(photos, Photos) else Streamed(photos, device),
            len(photos),
        )
        self._hot = torch.eye(classes, device=device)

    def __len__(self) -> int:
        return self._count

    def batch(self, step: int, seed: int) -> Batch:
        """Return this process's share of the step's photos, with the step's random generator."""
        return self._take(step, seed, self.rank, self.world)

    def whole(self, step: int, seed: int) -> Batch:
        """Return all of the step's photos, for computations that every process repeats."""
        return self._take(step, seed, 0, 1)

    def _take(self, step: int, seed: int, rank: int, world: int) -> Batch:
        pixels, numbers = self._photos.take(step, self.size, seed, rank, world)
        # laid out channels last, as the networks are
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = (
            self._hot[numbers] if self.classes else torch.zeros(len(images), 0, device=self.device)
        )
        return Batch(
            images, labels, torch.Generator(self.device).manual_seed(mix(seed, step, "noise"))
        )
