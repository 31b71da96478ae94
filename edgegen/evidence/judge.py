"""Judge by every gate whether two pipelines' images are equally good. It needs numpy only.

Each gate guards what the others cannot see: the distance to the reference all images as one, its
two absolute companions the same without a reference, the PSNR each pixel, the classes what only one
of them suffers, the tail the single image. All have to pass.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.verdict import AtMost, State, together
from .classes import ClassFound, Demands, FeaturePairs, decibel, judged, worst
from .compare import Comparison, DistanceLook, Pairs, Progress, comparison
from .distances import Float64, PairedPsnr
from .full_side import FullSide, Images, Pictured
from .limits import skewed_interval
from .looks import LEAST, LookSchedule, chance, chance_at_most, first_look
from .movement import apart, in_percent, moved
from .reference import Reference
from .ruined import ruined
from .second_judge import SecondFound, found_by_second
from .shares import ShareLooks
from .terms import Terms, Trial

# Before a plan is looked at, it is credited with these many times the number of pairs of which one
# may be ruined as sound ones; with the larger number if the worst pair is far from ruined.
FORESEEN, FORESEEN_CLEAR = 0.8, 4.0
CLEAR_DB = 30.0  # PSNR of a worst pair that is far from ruined: it would take three times its error
DISTANCE_IS_LARGE = (
    "full precision itself is so far from the reference that FD says little: the change it lets "
    "pass is more than the two sets may be apart. Moved and apart decide."
)
SHOWN = 8  # number of worst pairs that are kept as pictures


@dataclass(frozen=True)
class WorstPair:
    """Hold one seed's two images (h, w, 3) uint8."""

    seed: int
    psnr_db: float
    is_ruined: bool
    full: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class Tail:
    """Hold how many pairs anybody could tell apart, of all whose pixels were compared."""

    ruined: int
    pairs: int
    share: AtMost  # its upper limit at the look that passed, or at all pairs
    level: float  # level of the upper limit
    state: State  # "within" only at a look; "outside" whenever the lower limit says so
    looks: tuple[int, ...]  # pairs at each look that was taken

    def to_json(self) -> dict[str, Any]:
        return {
            "ruined": self.ruined,
            "pairs": self.pairs,
            "at_most": self.share.figure.high,
            "limit": self.share.limit,
            "level": self.level,
            "state": self.state,
            "looks": list(self.looks),
        }


@dataclass(frozen=True)
class GateFindings:
    """Hold the figures that have to stay below a limit, at the level of the look that a comparison
    ended with.
    """

    psnr: AtMost  # mean squared error of all pairs, in units of the full range
    moved: AtMost
    apart: AtMost
    classes: tuple[ClassFound, ...]
    second: SecondFound | None = None  # None if no second judge was asked for

    @property
    def states(self) -> dict[str, State]:
        return {
            "PSNR": self.psnr.state,
            "moved": self.moved.state,
            "apart": self.apart.state,
            "classes": together(one.state for one in self.classes),
            **(self.second.states if self.second else {}),
        }

    def chance(self, look: DistanceLook, pairs: int, level: float) -> float:
        """Return the probability, given what was seen, that `pairs` fresh pairs pass the gate that
        is least likely to pass.
        """
        gates = [self.psnr, self.moved, self.apart, *(one.error for one in self.classes)]
        gates += [self.second.moved, self.second.apart] if self.second else []
        chances = [chance_at_most(g, look.level, look.count, pairs, level) for g in gates]
        if look.is_counted:
            chances.append(chance(look.verdict, look.level, pairs, level))
        return min(chances)


@dataclass(frozen=True)
class Judgement:
    """Hold what all gates say of one pipeline's images against full precision."""

    comparison: Comparison
    gates: GateFindings
    tail: Tail
    terms: Terms
    attempt: int
    psnr_of_all_db: float  # PSNR over all pairs of the tail
    worst: tuple[WorstPair, ...]

    @property
    def states(self) -> Mapping[str, State]:
        """Return the state of each gate by its name."""
        counted = {"FD": self.comparison.verdict.state} if self.comparison.is_counted else {}
        return {
            **counted,
            **self.gates.states,
            "ruined": self.tail.state,
        }

    @property
    def state(self) -> State:
        """Return the state of all gates as one.

        A mean over the pairs that only the tail needed must not contradict the decision on the
        pairs with features: the state is then undecided.
        """
        found = together(self.states.values())
        low = self.psnr_of_all_db < self.terms.psnr
        return "undecided" if found == "within" and low else found

    @property
    def is_distance_large(self) -> bool:
        """Return whether full precision itself is so far from the reference that a change within
        the budget exceeds the limit on the distance of the two sets: FD then says little.
        """
        found, terms = self.comparison, self.terms
        return found.distance_full.value * terms.budget > found.seed_to_seed * terms.apart

    @property
    def worst_class(self) -> ClassFound | None:
        return worst(self.gates.classes)

    @property
    def _wanted(self) -> str:
        """Return what the tail would need to decide, if it had too few pairs for that, else ""."""
        first = self.terms.tail_looks(self.comparison.level).first
        enough = self.terms.pixel_pairs >= first
        return "" if enough else f"; {first} pairs without one would say so"

    def failures(self) -> list[str]:
        """Return a clause for each gate that is not passed."""
        terms, gates = self.terms, self.gates
        said = {
            "FD": str(self.comparison.verdict),
            "PSNR": f"PSNR of {self.comparison.psnr_db:.1f} dB where {terms.psnr:g} are asked",
            "moved": f"features moved by {in_percent(gates.moved)}",
            "apart": f"the sets are apart by {in_percent(gates.apart)}",
            "classes": _class_failure(self.worst_class, terms),
            "ruined": f"{self.tail.ruined} of {self.tail.pairs} pairs ruined, at most "
            f"{self.tail.share.figure.high:.2%} where {terms.ruined:.2%} are asked{self._wanted}",
            **(gates.second.failures if gates.second else {}),
        }
        out = [said[name] for name, state in self.states.items() if state != "within"]
        if not out and self.state != "within":
            out = [f"PSNR of {self.psnr_of_all_db:.1f} dB over {self.tail.pairs} pairs"]
        return out

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's form: the comparison, and each gate beside it."""
        error, second = self.gates.psnr.figure, self.gates.second
        return {
            **self.comparison.to_json(),
            "state": self.state,
            "terms": self.terms.to_json(),
            "attempt": self.attempt,
            "gates": {
                "psnr": {
                    "low_db": decibel(error.high),
                    "high_db": decibel(error.low),
                    "limit_db": self.terms.psnr,
                    "state": self.gates.psnr.state,
                },
                "moved": self.gates.moved.to_json(),
                "apart": self.gates.apart.to_json(),
                "classes": [one.to_json() for one in self.gates.classes],
                "class_limit_db": self.terms.class_psnr,
                "ruined": self.tail.to_json(),
                "psnr_of_all_db": _finite(self.psnr_of_all_db),
            },
            **({"second_judge": second.to_json()} if second else {}),
            **({"distance_is_large": True} if self.is_distance_large else {}),
            "worst_pairs": [
                {"seed": pair.seed, "psnr_db": _finite(pair.psnr_db), "ruined": pair.is_ruined}
                for pair in self.worst
            ],
        }


class Noted:
    """Note of every pair as it is made whether it is ruined, and keep the worst pairs."""

    def __init__(self, full: FullSide) -> None:
        self.full = full
        self.ruined: list[bool] = []
        self._worst: list[tuple[float, int, WorstPair]] = []  # a heap with the least bad pair first

    def __call__(self, made: Pictured, errors: Float64) -> None:
        flags = ruined(made.full, made.other)
        self.ruined.extend(flags.tolist())
        for k, error in enumerate(errors.tolist()):
            seed = self.full.start + made.part.start + k
            # ruined pairs first, then by error; equal ones by seed
            bad = (error + bool(flags[k]), -seed)
            if len(self._worst) == SHOWN and bad <= self._worst[0][:2]:
                continue
            psnr = -10 * math.log10(error) if error > 0 else math.inf
            pair = WorstPair(seed, psnr, bool(flags[k]), made.full[k], made.other[k])
            add = heapq.heappush if len(self._worst) < SHOWN else heapq.heappushpop
            add(self._worst, (*bad, pair))

    @property
    def worst(self) -> tuple[WorstPair, ...]:
        return tuple(pair for *_, pair in sorted(self._worst, key=lambda w: w[:2], reverse=True))


def judge(
    full: FullSide,
    other: Images,
    terms: Terms,
    trial: Trial,
    progress: Progress | None = None,
) -> Judgement:
    """Compare paired images from growing runs of seeds until every gate is decided, one fails, or
    the terms' pairs are spent.

    Features decide in the looks of LookSchedule; the tail is counted further, by pixels alone, in
    looks of its own.

    Raises InputError if full precision makes the same image from every seed.
    """
    when = LookSchedule(min(terms.maximum, first_look(full.reference)), terms.maximum, trial.level)
    seen = Noted(full)
    pairs = Pairs(full, other, seen)
    looks = terms.tail_looks(trial.level)
    for look in pairs.looks(when, terms.budget, progress):
        gates = gates_at(pairs, look, terms)
        states = [*([look.verdict.state] if look.is_counted else []), *gates.states.values()]
        tail = counted(seen.ruined, looks, terms.ruined)
        if together(states) != "undecided" or tail.state == "outside":
            break
    if together(states) == "within":
        for count in looks.looks:
            if tail.state != "undecided":
                break
            if count > len(pairs):
                pairs.extend(count, False, progress, terms.pixel_pairs)
                tail = counted(seen.ruined, looks, terms.ruined)
    return Judgement(
        comparison(pairs, look, when),
        gates,
        tail,
        terms,
        trial.number,
        PairedPsnr.of(pairs.errors).pooled_db,
        seen.worst,
    )


def counted_reference(stored: Reference | None, terms: Terms) -> Reference | None:
    """Return the reference to which a distance is counted: None if the terms count none, or the
    pairs are too few for its directions.
    """
    if stored is None or not terms.is_distance_counted:
        return None
    return stored if terms.maximum >= LEAST * stored.k else None


def gates_at(pairs: Pairs, look: DistanceLook, terms: Terms) -> GateFindings:
    """Return what the pairs of a look say beside the distance."""
    full, count, level = pairs.full, look.count, look.level
    errors, projected = pairs.errors[:count], full.projected(count)
    full.check_variety()
    mean = float(errors.mean())
    known = None
    if full.reference is not None:
        known = FeaturePairs(full.reference.moments, projected, look.projected, look.full)
    demands = Demands(10 ** (-terms.class_psnr / 10), terms.budget, level, terms.maximum)
    return GateFindings(
        AtMost(skewed_interval(mean, errors - mean, level), 10 ** (-terms.psnr / 10)),
        AtMost(moved(projected, look.projected, level), terms.moved),
        AtMost(apart(*look.between, level), terms.apart),
        tuple(judged(full.classes, full.labels(count), errors, known, demands)),
        found_by_second(pairs, look, terms),
    )


def counted(flags: Sequence[bool], looks: ShareLooks, limit: float) -> Tail:
    """Return the tail of these pairs (`flags`: which are ruined) after all looks that they are
    enough for.
    """
    bad, pairs = sum(flags), len(flags)
    taken = tuple(count for count in looks.looks if count <= pairs)
    for count in taken:
        figure = looks.interval(sum(flags[:count]), count)
        # pairs made after the look must not contradict it
        if figure.high <= limit and bad <= limit * pairs:
            share = AtMost(figure, limit)
            return Tail(bad, pairs, share, looks.level(count), "within", taken)
    figure = looks.interval(bad, pairs)
    state: State = "outside" if figure.low > limit else "undecided"
    return Tail(bad, pairs, AtMost(figure, limit), looks.level(pairs), state, taken)


def tail_chance(noted: Noted, terms: Terms, level: float) -> float:
    """Return the probability that fresh pairs pass the tail, given what was noted of these.

    It averages over all shares that they leave possible (Jeffreys' prior and some more sound
    pairs), because no ruined pair among a few hundred says little.
    """
    bad, worst = sum(noted.ruined), noted.worst[:1]
    clear = not bad and all(pair.psnr_db >= CLEAR_DB for pair in worst)
    return _tail_chance(bad, len(noted.ruined), clear, terms.tail_looks(level))


def best_tail_chance(pairs: int, terms: Terms, level: float) -> float:
    """Return what `tail_chance` says of so many pairs if none of them is close to ruined: even the
    terms' own pairs may be too few for more.
    """
    return _tail_chance(0, pairs, True, terms.tail_looks(level))


def _tail_chance(bad: int, pairs: int, clear: bool, looks: ShareLooks) -> float:
    sound = pairs - bad + (FORESEEN_CLEAR if clear else FORESEEN) / looks.limit
    shares = np.geomspace(1e-7, 0.5, 100)
    logs = (bad + 0.5) * np.log(shares) + sound * np.log1p(-shares)
    weights = np.exp(logs - logs.max())
    likely = weights > weights.sum() * 1e-4
    chances = [looks.passing(float(share)) for share in shares[likely]]
    return float(np.average(chances, weights=weights[likely]))


def _class_failure(one: ClassFound | None, terms: Terms) -> str:
    if one is None:
        return "no class"
    said = f"class {one.group.name} has {one.psnr_db:.1f} dB where {terms.class_psnr:g} are asked"
    if one.change is None:
        return said
    change = one.change.change
    return f"{said}, and alone changes FD by {change.low:+.2%} to {change.high:+.2%}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
