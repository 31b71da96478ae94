"""Metric functions for training losses: two batches of images (b, c, h, w) in [-1, 1] -> distance
(b,), 0 for equal images.

Images need at least SMALLEST pixels a side. None of these networks or formulas may judge the
result; verdicts have their own features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.graph import Batch

Metric = Callable[[Tensor, Tensor], Tensor]
SMALLEST = 8  # pixels a side
# exponents of MS-SSIM, Wang et al. 2003, finest first
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_RADIUS, _SIGMA = 3, 0.9  # of the Gaussian window of SSIM, in pixels


def gradient(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of horizontal and vertical image gradients, summed over
    three scales, each half the one before.
    """
    total = a.new_zeros(len(a))
    for _ in range(3):
        for axis in (2, 3):
            total = total + (a.diff(dim=axis) - b.diff(dim=axis)).abs().flatten(1).mean(1)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - MS-SSIM, in [0, 1], on pixels mapped to [0, 1].

    The published 11-pixel window and five scales need 161 pixels; here the window is 7 (sigma 0.9)
    and there are only as many scales as leave 8 pixels (3 at 32, 2 at 16), with the finest scales'
    published exponents, rescaled to sum to 1.
    """
    a, b = a / 2 + 0.5, b / 2 + 0.5
    scales = min(len(_SCALES), 1 + int(math.log2(min(a.shape[2:]) / SMALLEST)))
    exponents = [e / sum(_SCALES[:scales]) for e in _SCALES[:scales]]
    product = a.new_ones(len(a))
    for scale, exponent in enumerate(exponents):
        similarity, contrast = _ssim(a, b)
        term = similarity if scale == scales - 1 else contrast
        # A negative term has no real power, and at 0 the slope is infinite.
        product = product * term.clamp(min=1e-4) ** exponent
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return 1 - product


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean similarity, with the reflected border, and the mean contrast-structure term,
    without it, each (b,), as torchmetrics defines them.
    """
    channels, c1, c2 = a.shape[1], 0.01**2, 0.03**2
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=a.dtype, device=a.device)
    line = torch.exp(-((offsets / _SIGMA) ** 2) / 2)
    window = torch.outer(line, line) / line.sum() ** 2
    maps = F.pad(torch.cat([a, b, a * a, b * b, a * b]), (_RADIUS,) * 4, mode="reflect")
    mean_a, mean_b, aa, bb, ab = F.conv2d(
        maps, window.expand(channels, 1, -1, -1), groups=channels
    ).chunk(5)
    spread = (aa - mean_a**2).clamp(min=0) + (bb - mean_b**2).clamp(min=0) + c2
    contrast = (2 * (ab - mean_a * mean_b) + c2) / spread
    similarity = contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    inside = slice(_RADIUS, -_RADIUS)
    return similarity.flatten(1).mean(1), contrast[:, :, inside, inside].flatten(1).mean(1)


METRICS: dict[str, Metric] = {"gradient": gradient, "ms_ssim": ms_ssim}


class PDist(nn.Module):
    """The LPIPS formula with unit channel weights, over a small trunk that `teach` trains
    (docs/methods/cas-dm.md, C.2.7); it is not LPIPS itself.

    It is always in eval mode, and frozen. Calling it raises ValueError before it is taught or loads
    the weights of a taught one.
    """

    taught: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(cin, out, 3, stride=2, padding=1), nn.GroupNorm(16, out), nn.SiLU()
            )
            for cin, out in pairwise(widths)
        )
        self.register_buffer("taught", torch.zeros((), dtype=torch.uint8))
        self._ready = False
        self.eval().requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the output of each stage.

        Images below 64 pixels are doubled first, so that the last stage still has several
        positions.
        """
        if min(x.shape[2:]) < 64:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        # The buffer is read only once, because each read waits for all work on a GPU.
        self._ready = self._ready or bool(self.taught)
        if not self._ready:
            raise ValueError(
                "this PDist has a random trunk: teach it, or load the weights of a taught one"
            )
        total = a.new_zeros(len(a))
        for f, g in zip(self.features(a), self.features(b), strict=True):
            f, g = F.normalize(f, dim=1, eps=1e-10), F.normalize(g, dim=1, eps=1e-10)
            total = total + (f - g).square().sum(1).flatten(1).mean(1)
        return total

    def teach(self, batches: Iterable[Batch], classes: int) -> float:
        """Train the trunk to predict the label, or the quarter turn if there are fewer than two
        classes, and return the accuracy on the last batch.

        Random choices come from each batch's own generator. ValueError if there is no batch.
        """
        head = nn.Linear(128, classes if classes >= 2 else 4).to(self.taught.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.Adam([*self.stages.parameters(), *head.parameters()], lr=1e-3)
        self.requires_grad_(True)
        hits: Tensor | None = None
        for batch in batches:
            images, wanted = batch.images, batch.labels.argmax(1) if classes >= 2 else None
            if wanted is None:
                rng, count = batch.generator, len(images)
                wanted = torch.randint(4, (count,), generator=rng, device=rng.device)
                turned = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
                images = turned[wanted, torch.arange(count, device=rng.device)]
            scores = head(self.features(images)[-1].mean((2, 3)))
            optimizer.zero_grad()
            F.cross_entropy(scores, wanted).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            hits = scores.argmax(1) == wanted
        optimizer.zero_grad()
        self.requires_grad_(False)
        if hits is None:
            raise ValueError("PDist cannot be taught without images")
        self.taught.fill_(1)
        return float(hits.float().mean())
