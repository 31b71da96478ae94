"""The bank of the density estimate: training vectors or means of groups of them, for each class,
with eight bits per value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import InputError

FEWEST = 4  # fewest distinct vectors behind a centroid; the mean of one would be that vector
ROUNDS = 25  # rounds of k-means


class Bank(nn.Module):
    """`size` vectors of `shape` per class, with the number of training vectors each represents.

    A value is offset + scale * byte. Bytes are stored, so that neither the averaging of networks
    nor half precision on disk changes them. Before `fill` there is one grey vector per class.
    """

    values: Tensor
    counts: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], classes: int, size: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer(
            "values", torch.full((max(classes, 1), size, math.prod(shape)), 128, dtype=torch.uint8)
        )
        counts = torch.zeros(max(classes, 1), size, dtype=torch.int64)
        counts[:, 0] = 1
        self.register_buffer("counts", counts)
        self.register_buffer("offset", torch.tensor(-1.0))
        self.register_buffer("scale", torch.tensor(1 / 127.5))

    @torch.no_grad()
    def fill(self, vectors: Tensor, labels: Tensor, centroids: bool, rng: torch.Generator) -> None:
        """Fill the bank from vectors (n, *shape) with labels (n, classes).

        Each class gets a random choice of its vectors, or with `centroids` their k-means centroids.
        InputError for a class with too few distinct vectors.
        """
        low, high = (
            (-1.0, 1.0)
            if vectors.dtype == torch.uint8
            else (float(vectors.min()), float(vectors.max()))
        )
        self.offset.fill_(low)
        self.scale.fill_((high - low) / 255 or 1.0)
        groups = (
            labels.argmax(1)
            if labels.shape[1]
            else torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
        )
        for group, (values, counts) in enumerate(zip(self.values, self.counts, strict=True)):
            own = torch.unique(vectors[groups == group].flatten(1), dim=0)
            if len(own) < (FEWEST if centroids else 1):
                raise InputError(
                    "E-DATA-TOO-FEW",
                    f"class {group} has {len(own)} different photos in the bank's sample, "
                    f"{FEWEST if centroids else 1} are needed",
                )
            counts.zero_()
            if centroids:
                means, members = kmeans(self._units(own), len(values), rng)
            else:
                chosen = torch.randperm(len(own), generator=rng, device=rng.device)[: len(values)]
                means, members = (
                    self._units(own[chosen]),
                    torch.ones(len(chosen), dtype=torch.int64),
                )
            values[: len(means)] = means.round().clamp(0, 255).to(torch.uint8)
            counts[: len(means)] = members

    def _units(self, vectors: Tensor) -> Tensor:
        """Return vectors (n, d) as floats in units of the bank's bytes."""
        return (
            vectors.float()
            if vectors.dtype == torch.uint8
            else (vectors.float() - self.offset) / self.scale
        )

    def decoded(self, values: Tensor) -> Tensor:
        """Return the values that bytes of the bank stand for."""
        return values.float() * self.scale + self.offset

    @torch.no_grad()
    def nearest(self, x: Tensor, label: Tensor) -> Tensor:
        """Return for each x (b, *shape) the nearest vector (b, *shape) of its class.

        label: one-hot (b, classes).
        """
        table = self.decoded(self.values).flatten(0, 1)
        flat = x.float().flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            far = table.square().sum(1) - 2 * flat @ table.T
        allowed = (
            (self.counts > 0)[None] & (label > 0.5)[:, :, None]
            if label.shape[1]
            else (self.counts > 0)[None]
        )
        picks = far.masked_fill(~allowed.flatten(1).expand_as(far), torch.inf).argmin(1)
        return table[picks].reshape(x.shape)

    def frozen(self) -> Picker:
        return Picker(self)


class Picker(nn.Module):
    """Draws vectors from a filled bank: pick (b,) in [0, 1], label (b, classes) -> (b, *shape).

    A vector's probability is its share of the training vectors of its class.
    """

    table: Tensor
    edges: Tensor
    offset: Tensor
    scale: Tensor
    starts: Tensor

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        size = bank.counts.shape[1]
        share = bank.counts.double().cumsum(1)
        self.size, self.shape = size, bank.shape
        self.register_buffer("edges", (share / share[:, -1:]).float())
        # Bytes are exact in float16, and TensorRT has no unsigned bytes inside a network.
        self.register_buffer("table", bank.values.flatten(0, 1).half())
        self.register_buffer("offset", bank.offset.clone())
        self.register_buffer("scale", bank.scale.clone())
        self.register_buffer("starts", torch.arange(len(share), dtype=torch.float32))

    def forward(self, pick: Tensor, label: Tensor | None) -> Tensor:
        pick = pick.clamp(max=1 - 2**-24)[:, None]
        if label is None:
            index = (pick >= self.edges[0]).float().sum(1)
        else:
            # Whole numbers below 2^24 are exact in float32, so all runtimes give the same sum.
            group = (label * self.starts).sum(1)
            index = (pick >= self.edges.index_select(0, group.long())).float().sum(
                1
            ) + group * self.size
        vectors = self.table.index_select(0, index.long()).float() * self.scale + self.offset
        return vectors.reshape(-1, *self.shape)


def kmeans(points: Tensor, k: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the centroids (at most k, d) of distinct points (n, d), and the number of points of
    each, which is at least FEWEST.
    """
    k = min(k, len(points) // FEWEST)
    centres = points[_seeds(points, k + k // 4, rng)]  # some will stand for too few points and go
    for _ in range(ROUNDS):
        means, members = _means(points, centres)
        centres = torch.where(members[:, None] > 0, means, centres)
    while True:
        means, members = _means(points, centres)
        if len(centres) <= k and bool((members >= FEWEST).all()):
            return means, members
        smallest = int(members.argmin())  # one at a time: its points may save another small group
        centres = torch.cat([centres[:smallest], centres[smallest + 1 :]])


def _seeds(points: Tensor, k: int, rng: torch.Generator) -> list[int]:
    """Choose k centres as k-means++ does: each with probability proportional to the squared
    distance to those before.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=rng, device=rng.device))]
    nearest = torch.full((len(points),), torch.inf, device=points.device)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(torch.multinomial(nearest, 1, generator=rng)))
    return chosen


def _means(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    groups = torch.cdist(points, centres).argmin(1)
    # A matrix product, because index_add is not deterministic on a GPU.
    members = torch.nn.functional.one_hot(groups, len(centres)).float()
    counts = members.sum(0)
    return members.T @ points / counts.clamp_min(1)[:, None], counts.long()
