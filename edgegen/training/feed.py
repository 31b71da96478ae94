"""A run's batches on its device: photos in memory are moved there once, as bytes."""

from __future__ import annotations

import torch

from ..core.graph import Batch
from .data import Photos
from .order import mix, picks, share


class Feed:
    """Batches of `size` as functions of (step, seed); a process takes its share of each, all draw the same noise."""

    def __init__(self, photos: Photos, size: int, classes: int, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.size, self.classes, self.device, self.rank, self.world = size, classes, device, rank, world
        pixels = photos.pixels if photos.pixels.flags.writeable else photos.pixels.copy()  # torch warns of what it must not write
        self._pixels = torch.from_numpy(pixels).to(device)                                 # (n, h, w, c) uint8
        self._labels = torch.from_numpy(photos.labels).to(device)
        self._hot = torch.eye(classes, device=device)

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, step: int, seed: int) -> Batch:
        """This process's share of the step's photos, and the step's random generator."""
        return self._take(step, seed, self.rank, self.world)

    def whole(self, step: int, seed: int) -> Batch:
        """All of the step's photos: for what every process works out by itself."""
        return self._take(step, seed, 0, 1)

    def _take(self, step: int, seed: int, rank: int, world: int) -> Batch:
        places = share(picks(len(self), self.size, step, seed), rank, world)
        at = torch.tensor(places).to(self.device, non_blocking=True)
        images = self._pixels[at].permute(0, 3, 1, 2).float() / 127.5 - 1  # laid out channels last, as the networks are
        labels = self._hot[self._labels[at]] if self.classes else torch.zeros(len(at), 0, device=self.device)
        return Batch(images, labels, torch.Generator(self.device).manual_seed(mix(seed, step, "noise")))
