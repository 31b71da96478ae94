"""Trajectories of the teacher's probability flow, from noise to their ends
(docs/methods/latent-consistency.md, E.2.4 a, with the solver run to the end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.samplers import clean_image, signal_lookahead
from ...core.spec import Numbers


def trajectory(
    predict: Callable[[Numbers, int], Numbers],
    x: Numbers,
    timesteps: Sequence[int],
    signal: Sequence[float],
    prediction: str,
) -> tuple[list[Numbers], Numbers]:
    """Return the points of a trajectory at `timesteps`, and its clean end.

    timesteps: falling, first that of x; signal: abar at each of them; predict(x, t): the guided
    network's output. The solver is DPM-Solver++(2M) (Lu et al. 2022), of second order with one call
    per step.
    """
    points, clean = [x], x
    shares = signal_lookahead("dpm++2m", signal)
    for k, (t, now) in enumerate(zip(timesteps, signal, strict=True)):
        last, clean = clean, clean_image(x, predict(x, t), now, prediction)
        if k + 1 < len(timesteps):
            then = signal[k + 1]
            ahead = clean if k == 0 else clean + (clean - last) * shares[k]
            x = then**0.5 * ahead + (1 - then) ** 0.5 * _noise(x, ahead, now)
            points.append(x)
    return points, clean


def _noise(x: Numbers, clean: Numbers, signal: float) -> Numbers:
    """Return the noise in x, given its clean image and its signal abar."""
    return (x - signal**0.5 * clean) / (1 - signal) ** 0.5
