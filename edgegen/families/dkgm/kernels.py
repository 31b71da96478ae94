"""Kernel density estimation (docs/methods/dkgm.md, D.2.1): draws from three kernels, densities, and
the choice of a bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Limit for a uniform in (-1, 1). Beyond it the rounding of erf would change the quantile by more
# than runtimes may differ.
EDGE = 1 - 1e-6
DIMENSIONS = 10  # most dimensions in which the likelihood can choose a bandwidth


def _product(z: Tensor, _: Tensor) -> Tensor:
    """Return the quantile of the density 3/4 (1 - u^2): F(u) = (2 + 3u - u^3) / 4 is a cubic whose
    middle root is a sine.
    """
    return 2 * torch.sin(torch.asin(torch.erf(z * math.sqrt(0.5)).clamp(-EDGE, EDGE)) / 3)


def _radial(z: Tensor, uniform: Tensor) -> Tensor:
    """Return the first d of the d + 4 coordinates of a random point on the unit sphere, so that
    radius^2 ~ Beta(d / 2, 2); two uniforms stand for the squares of the other four.
    """
    flat = z.flatten(1)
    others = -2 * torch.log(uniform[:, 1] * uniform[:, 2])
    return (flat * torch.rsqrt(flat.square().sum(1) + others)[:, None]).reshape(z.shape)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gaussian": lambda z, _: z,
    "epanechnikov": _product,
    "radial": _radial,
}


def shaped(kernel: str, z: Tensor, uniform: Tensor) -> Tensor:
    """Return a draw u (b, ...) from the kernel, made of z (b, ...) standard normal and uniform
    (b, 3) in (0, 1).

    "epanechnikov" is the product of 1-D kernels, "radial" is proportional to 1 - |u|^2; both stay
    within 1. Column 0 of `uniform` is not used.
    """
    return SHAPES[kernel](z, uniform)


def draw(kernel: str, shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """Return a draw u of that shape (b, ...) on the generator's device."""
    z = torch.randn(tuple(shape), generator=rng, device=rng.device)
    return shaped(kernel, z, 1 - torch.rand(shape[0], 3, generator=rng, device=rng.device))


def variance(kernel: str, dims: int) -> float:
    """Return the variance of each coordinate of u; the covariance is this times I."""
    return {"gaussian": 1.0, "epanechnikov": 0.2, "radial": 1 / (dims + 4)}[kernel]


def _log_kernel(kernel: str, u: Tensor) -> Tensor:
    """Return log K(u) for u (..., d), which is -inf outside the support."""
    d = u.shape[-1]
    if kernel == "gaussian":
        return -0.5 * u.square().sum(-1) - 0.5 * d * math.log(2 * math.pi)
    if kernel == "epanechnikov":
        return torch.log((0.75 * (1 - u.square())).clamp_min(0)).sum(-1)
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)  # log volume
    return torch.log((0.5 * (d + 2) * (1 - u.square().sum(-1))).clamp_min(0)) - ball


def log_density(
    x: Tensor, data: Tensor, bandwidth: float, kernel: str = "gaussian", chunk: int = 1024
) -> Tensor:
    """Return the log of the density estimate from data (n, d) at x (m, d), as (m,).

    Memory stays below chunk^2 d values.
    """
    return torch.cat(
        [_log_sum(part, data, bandwidth, kernel, chunk) for part in torch.split(x, chunk)]
    ) - math.log(len(data))


def _log_sum(x: Tensor, data: Tensor, bandwidth: float, kernel: str, chunk: int) -> Tensor:
    total = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
    for part in torch.split(data, chunk):
        values = _log_kernel(kernel, (x[:, None] - part[None]) / bandwidth)
        total = torch.logaddexp(total, values.logsumexp(1))
    return total - x.shape[1] * math.log(bandwidth)


def likelihood_bandwidth(
    data: Tensor, candidates: Sequence[float], kernel: str = "gaussian", chunk: int = 1024
) -> float:
    """Return the candidate bandwidth with the largest leave-one-out likelihood of data (n, d).

    ValueError for fewer than 2 points or more than DIMENSIONS dimensions. For images the likelihood
    cannot compare bandwidths below the distance of neighbours, so there the bandwidth is a setting.
    """
    n, d = data.shape
    if d > DIMENSIONS or n < 2:
        raise ValueError(
            f"the likelihood chooses a bandwidth for 2 points or more in at most {DIMENSIONS} "
            f"dimensions, got {n} in {d}"
        )

    def score(bandwidth: float) -> float:
        own = float(_log_kernel(kernel, torch.zeros(d, dtype=torch.float64))) - d * math.log(
            bandwidth
        )
        total = _log_sums(data, bandwidth, kernel, chunk)
        others = total + torch.log1p(-torch.exp(own - total)).nan_to_num(nan=-math.inf)
        return float((others - math.log(n - 1)).sum())

    return max(candidates, key=score)


def _log_sums(data: Tensor, bandwidth: float, kernel: str, chunk: int) -> Tensor:
    return torch.cat(
        [
            _log_sum(part, data, bandwidth, kernel, chunk)
            for part in torch.split(data.double(), chunk)
        ]
    )


def silverman(n: int, dims: int) -> float:
    """Return Silverman's bandwidth in standard deviations of the data.

    For photos it is always near 1 and so of no use (D.2.4).
    """
    return float((4 / ((dims + 2) * n)) ** (1 / (dims + 4)))


def posterior_mean(y: Tensor, data: Tensor, spread: Tensor | float, chunk: int = 256) -> Tensor:
    """Return E[x | y] (m, d) for y = x + spread * normal (m, d) and x uniform over data (n, d).

    It is the best possible restorer, and it copies the data.
    """
    parts = []
    for part in torch.split(y, chunk):
        weights = (-torch.cdist(part, data).square() / (2 * torch.as_tensor(spread) ** 2)).softmax(
            1
        )
        parts.append(weights @ data)
    return torch.cat(parts)
