"""Measure how close images are to full precision, on pairs of equal seeds that were made here. It
needs numpy only.

No feature network takes part: pixels alone count, by the limits of a verdict (evidence/terms.py).
What features say of a bundle is in its evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.verdict import AtMost, Interval, State, together
from .bench_document import PairsHere, WorstClass, WorstSeed
from .classes import FEWEST, Demands, decibel, error_interval, judged, worst
from .distances import Float64, squared_error
from .parity import PIXEL_LIMIT, same_pixels
from .ruined import ruined
from .shares import lower_limit, upper_limit
from .terms import WORSE_CLASS_DB

LEVEL = 0.95  # level of every interval here
SHOWN = 4  # worst pairs that are named


@dataclass(frozen=True)
class PairLimits:
    """Hold the limits of images, by default those of `edgegen verify`."""

    psnr_db: float = 35.0
    ruined: float = 0.002

    @property
    def class_psnr_db(self) -> float:
        return max(self.psnr_db - WORSE_CLASS_DB, 0.0)

    @property
    def needs(self) -> int:
        """Return the number of pairs without a ruined one that shows the share of ruined ones to be
        below its limit.
        """
        if self.ruined >= 1:
            return 1
        return math.ceil(math.log(1 - LEVEL) / math.log1p(-self.ruined))


@dataclass(frozen=True)
class PairSides:
    """Hold images (n, h, w, 3) uint8 of the same seeds from first_seed on.

    `against` names who made `full`; `classes` names the labels that seeds take in turn.
    """

    against: str
    first_seed: int
    full: np.ndarray
    other: np.ndarray
    classes: Sequence[str] = ()


def pairs_here(sides: PairSides, limits: PairLimits) -> PairsHere:
    """Return all that pixels say of these pairs. Raises EdgegenError if images are not finite."""
    errors = squared_error(sides.full, sides.other)
    flags = ruined(sides.full, sides.other)
    number, bad = len(errors), int(flags.sum())
    error = AtMost(error_interval(errors, LEVEL), _error_of(limits.psnr_db))
    most = upper_limit(bad, number, LEVEL)
    tail = AtMost(
        Interval(bad / number, lower_limit(bad, number, LEVEL) if bad else 0.0, most),
        limits.ruined,
    )
    order = worst_first(errors, flags)
    few = number < FEWEST
    return PairsHere(
        against=sides.against,
        pairs=number,
        first_seed=sides.first_seed,
        level=LEVEL,
        psnr_db=decibel(error.figure.value),
        psnr_low_db=None if few else decibel(error.figure.high),
        psnr_high_db=None if few else decibel(error.figure.low),
        psnr_limit_db=limits.psnr_db,
        psnr_state=error.state,
        worst_seed=sides.first_seed + order[0],
        worst_psnr_db=decibel(float(errors[order[0]])),
        ruined=bad,
        ruined_at_most=most,
        ruined_limit=limits.ruined,
        ruined_state=tail.state,
        ruined_needs=limits.needs,
        worst_class=_worst_class(sides, errors, limits),
        same_pixels=same_pixels(sides.full, sides.other),
        worst_pairs=[
            WorstSeed(
                seed=sides.first_seed + k,
                psnr_db=decibel(float(errors[k])),
                ruined=bool(flags[k]),
            )
            for k in order[:SHOWN]
        ],
    )


def worst_first(errors: Float64, flags: np.ndarray) -> list[int]:
    """Return the pairs' indices from the worst on: ruined ones first, then by error; equal ones by
    seed.
    """
    return [int(k) for k in np.lexsort((np.arange(len(errors)), -errors, ~flags))]


def state_of(found: PairsHere) -> State:
    """Return the state of the pairs as a whole."""
    own = found.worst_class
    states: list[State] = [found.psnr_state, found.ruined_state, *([own.state] if own else [])]
    return together(states)


def full_state(found: PairsHere) -> State:
    """Return the state of full precision on another runtime: it computes the same or not, which
    needs no statistics.
    """
    return "within" if found.same_pixels >= PIXEL_LIMIT else "outside"


def _worst_class(sides: PairSides, errors: Float64, limits: PairLimits) -> WorstClass | None:
    number = len(errors)
    labels = np.arange(sides.first_seed, sides.first_seed + number) % max(len(sides.classes), 1)
    demands = Demands(_error_of(limits.class_psnr_db), 1.0, LEVEL, number)
    found = worst(judged(sides.classes, labels, errors, None, demands))
    if found is None:
        return None
    psnr = found.psnr_db if math.isfinite(found.psnr_db) else None
    return WorstClass(name=found.group.name, pairs=found.pairs, psnr_db=psnr, state=found.state)


def _error_of(psnr_db: float) -> float:
    return float(10 ** (-psnr_db / 10))
