"""Cas-DM's sampler (docs/methods/cas-dm.md, C.2.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..spec import Values
from .base import LATER, Call, Draw
from .schedule import clean_image
from .second_order import signal_lookahead

PATHS = ("dynamic", "eps", "x0", "fixed")


@dataclass(frozen=True)
class CascadeSampler:
    """Cas-DM's reverse process (docs/methods/cas-dm.md, C.2.9): `theta` predicts the noise, `phi`
    refines the clean image, r blends the two.

    timesteps: descending, each in 1..T; signal: abar at each of them; prediction: what theta
    returns, "epsilon" or "v"; path: "dynamic" (phi's own gate), "eps" (r = 0), "x0" (r = 1),
    "fixed" (r = gates[k] at step k); eta: 0 is DDIM, 1 is ancestral sampling with the posterior
    variance; window: phi runs only at timesteps from .. to, and elsewhere the path is "eps"; with
    None it runs at all of them; solver: "ddim", or "dpm++2m" (second order, for eta 0).
    """

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]
    prediction: str = "v"
    path: str = "dynamic"
    gates: tuple[float, ...] = ()
    eta: float = 0.0
    window: tuple[int, int] | None = None
    kind: str = "cascade"
    solver: str = field(default="ddim", metadata=LATER)

    def __post_init__(self) -> None:
        if (
            self.path not in PATHS
            or self.prediction not in ("epsilon", "v")
            or self.kind != "cascade"
        ):
            raise ValueError(
                f"unknown path {self.path!r}, prediction {self.prediction!r} or kind {self.kind!r}"
            )
        if not self.timesteps or len(self.timesteps) != len(self.signal):
            raise ValueError(
                f"{len(self.timesteps)} timesteps but {len(self.signal)} signal levels"
            )
        if any(a <= b for a, b in zip(self.timesteps, (*self.timesteps[1:], 0), strict=True)):
            raise ValueError(f"timesteps must fall and stay above 0, got {self.timesteps}")
        if not all(0 < s < 1 for s in self.signal) or not 0 <= self.eta <= 1:
            raise ValueError("signal levels must be in (0, 1) and eta in [0, 1]")
        if any(a >= b for a, b in zip(self.signal, self.signal[1:], strict=False)):
            raise ValueError(f"signal levels must rise as the timesteps fall, got {self.signal}")
        if self.path == "fixed" and len(self.gates) != len(self.timesteps):
            raise ValueError(
                f'path "fixed" needs a gate for each of {len(self.timesteps)} timesteps, got '
                f"{len(self.gates)}"
            )
        if not all(0 <= gate <= 1 for gate in self.gates):
            raise ValueError(f"gates must be in [0, 1], got {self.gates}")
        if self.window is not None and (
            len(self.window) != 2 or (self.path != "eps" and not self.asks("phi"))
        ):
            raise ValueError(
                f'no timestep of {self.timesteps} is in the window {self.window}; use path "eps" '
                "to leave phi out"
            )
        self._ahead()  # raises ValueError for an unknown solver, or levels that it cannot use
        if self.eta and self.solver != "ddim":
            raise ValueError(
                f"the solver {self.solver} draws no noise between steps: it takes eta 0, got "
                f"{self.eta}"
            )

    def _ahead(self) -> tuple[float, ...]:
        return signal_lookahead(self.solver, self.signal)

    def asks(self, graph: str) -> tuple[int, ...]:
        """Return the timesteps at which a graph runs."""
        if graph == "theta":
            return self.timesteps
        low, high = self.window or (0, self.timesteps[0])
        return () if self.path == "eps" else tuple(t for t in self.timesteps if low <= t <= high)

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, c, h, w) standard normal -> images (b, c, h, w) in [-1, 1]."""
        refined, ahead, last = self.asks("phi"), self._ahead(), x
        for k, (timestep, now) in enumerate(zip(self.timesteps, self.signal, strict=True)):
            then = self.signal[k + 1] if k + 1 < len(self.signal) else 1.0
            t = x[:, 0, 0, 0] * 0 + timestep
            clean = self._clean(call, x, t, now, k, timestep in refined, condition)
            if then == 1.0:
                return clean.clip(-1, 1)
            last, clean = clean, clean + ahead[k] * (clean - last) if ahead[k] else clean
            fresh = self.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
            direction = (x - now**0.5 * clean) * (1 / (1 - now) ** 0.5)
            # Rounding errors must not give the root of a negative number.
            x = then**0.5 * clean + max(0.0, 1 - then - fresh**2) ** 0.5 * direction
            if fresh:
                x = x + fresh * draw(f"step{k}")
        raise AssertionError("unreachable: the last signal level is 1")

    def _clean(
        self,
        call: Call[Values],
        x: Values,
        t: Values,
        now: float,
        k: int,
        refine: bool,
        condition: Mapping[str, Values],
    ) -> Values:
        predicted = call["theta"](x=x, t=t, **condition)
        coarse = clean_image(x, predicted, now, self.prediction).clip(-1, 1)
        if not refine:
            return coarse
        # (b, c + 1, h, w): clean image, gate
        refined = call["phi"](coarse=coarse, x=x, t=t, **condition)
        if self.path == "x0":
            return refined[:, :-1]
        gate = refined[:, -1:] if self.path == "dynamic" else self.gates[k]
        return coarse + gate * (refined[:, :-1] - coarse)


def mean_gates(
    sampler: CascadeSampler,
    call: Call[Values],
    x: Values,
    condition: Mapping[str, Values],
    draw: Draw[Values],
) -> tuple[float, ...]:
    """Return phi's mean gate at each timestep of a run from x, for the path "fixed" (C.2.9).

    Values are clipped to [0, 1], which only an unbounded gate can leave; 0 where phi does not run.
    """
    seen: list[float] = []

    def phi(**inputs: Values) -> Values:
        refined = call["phi"](**inputs)
        seen.append(min(1.0, max(0.0, float(refined[:, -1:].mean()))))
        return refined

    asking = replace(sampler, path="dynamic", gates=())
    asking({"theta": call["theta"], "phi": phi}, x, condition, draw)
    by_timestep = dict(zip(asking.asks("phi"), seen, strict=True))
    return tuple(by_timestep.get(timestep, 0.0) for timestep in sampler.timesteps)
