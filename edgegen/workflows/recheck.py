"""Compare a manifest's figures about the images with those found when this machine makes them
again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.files import JsonObject
from ..core.seeds import LIMIT
from ..errors import TrustError, UsageError
from ..evidence.compare import NOT_COUNTED
from ..evidence.terms import ERROR, Terms, Trial, trial
from .export.attempts import weights_of

if TYPE_CHECKING:
    from ..core.bundle import Bundle

# figures that another machine, run or occasion may change
NOT_QUALITY = frozenset({"executed_by", "why", "latency", "speed", "placement"})
# figures that another machine must repeat exactly, because neither images nor rounding enter them
LETTERS = frozenset(
    {
        "budget", "features", "first_seed", "last_seed", "level", "limit", "limit_db",
        "class_limit_db", "class", "look_level", "min_psnr_db", "reference", "reference_corrected",
        "reference_sha256", "size", "size_ratio", "terms",  "features_sha256",
    }
)  # fmt: skip
SAME = 1e-6  # relative tolerance of the same arithmetic
DECIBEL = 0.5  # dB by which a PSNR may differ between machines
SPEED = 0.25  # relative difference of a speed between two occasions
COUNTS = 1.1  # another machine may count this many times as many, and two more


@dataclass(frozen=True)
class Difference:
    """Hold one figure of the manifest that this machine does not reproduce."""

    runtime: str
    figure: str  # such as gates.ruined.pairs
    recorded: Any
    here: Any

    def __str__(self) -> str:
        there, here = _shown(self.recorded), _shown(self.here)
        return f"{self.runtime}: {self.figure} is {there} in the manifest, {here} here"

    def to_json(self) -> JsonObject:
        return {"figure": self.figure, "recorded": self.recorded, "here": self.here}


@dataclass(frozen=True)
class JudgeSaid:
    """Identify a second judge that the evidence names."""

    name: str
    sha256: str  # sha256 of its weights
    size: int

    def __str__(self) -> str:
        return f"{self.name}@{self.sha256[:12]} at {self.size} px"


@dataclass(frozen=True)
class RecordedEvidence:
    """Hold what a bundle's evidence was judged by."""

    terms: Terms
    trials: Mapping[str, Trial]
    evidence: Mapping[str, JsonObject]  # by runtime
    is_whole: bool  # False for evidence of an older edgegen that had fewer gates
    second: JudgeSaid | None = None


def recorded(bundle: Bundle) -> RecordedEvidence:
    """Return the terms, seeds and levels that the manifest's evidence names.

    Raises TrustError if one is missing or cannot be that of a verdict.
    """
    try:
        evidence = {
            name: bundle.manifest.evidence["runtimes"][name] for name in bundle.manifest.runtimes
        }
        is_whole = all("terms" in found for found in evidence.values())
        terms = {
            _terms(found) if is_whole else _older_terms(evidence) for found in evidence.values()
        }
        if len(terms) != 1:
            raise ValueError("its runtimes were judged by different terms")
        seconds = {_second(found) for found in evidence.values()}
        if len(seconds) != 1:
            raise ValueError("its runtimes had different second judges")
        weights = weights_of(bundle.manifest.source)
        trials = {name: _trial(found, weights, is_whole) for name, found in evidence.items()}
        if not all(_has_change(found) for found in evidence.values()):
            raise ValueError("a change of the distance is not a number")
        for trial in trials.values():
            if not (0 <= trial.first_seed < LIMIT and 1 - ERROR <= trial.level < 1):
                raise ValueError(
                    f"its verdict holds at {trial.level}, from seed {trial.first_seed}"
                )
        return RecordedEvidence(terms.pop(), trials, evidence, is_whole, seconds.pop())
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, UsageError) as error:
        raise TrustError(
            "E-MANIFEST",
            f"the manifest holds no complete evidence to verify: {error}",
            path=bundle.root,
        ) from error


def _trial(found: JsonObject, weights: str, is_whole: bool) -> Trial:
    """Return the evidence's trial. Raises ValueError unless its seeds and level follow from the
    weights and the number of the attempt.
    """
    said = Trial(int(found["first_seed"]), float(found["level"]), int(found.get("attempt", 0)))
    if is_whole and said != trial(weights, int(found["attempt"])):
        raise ValueError(
            f"seed {said.first_seed} and level {said.level} are not those of attempt {said.number}"
        )
    return said


def _second(found: JsonObject) -> JudgeSaid | None:
    second = found.get("second_judge")
    if second is None:
        return None
    said = JudgeSaid(second["features"], second["sha256"], second["size"])
    if [type(part) for part in (said.name, said.sha256, said.size)] != [str, str, int]:
        raise ValueError(f"it names no second judge: {said!r}")
    return said


def _has_change(found: JsonObject) -> bool:
    """Return whether the change of the distance is a number, which it must be if it decides."""
    return found.get("verdict") == NOT_COUNTED or math.isfinite(found["change"]["value"])


def _terms(found: JsonObject) -> Terms:
    said = {"is_distance_counted": True, "pixels": 0, **found["terms"]}
    return _in_numbers(Terms(**{n: said[n] for n in Terms.__dataclass_fields__}))


def _older_terms(evidence: Mapping[str, JsonObject]) -> Terms:
    """Return the terms of older evidence that has no `terms`; limits that it does not name get
    their defaults.
    """
    return _in_numbers(
        Terms(
            max(float(found["budget"]) for found in evidence.values()),
            max(int(found["images"]) for found in evidence.values()),
            min(float(found.get("min_psnr_db", 0)) for found in evidence.values()),
        )
    )


def _in_numbers(terms: Terms) -> Terms:
    """Return the terms. Raises ValueError for NaN or infinite ones, which every or no image would
    meet.
    """
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in terms.to_json().values()):
        raise ValueError("its terms are not numbers")
    return terms


def is_same_machine(bundle: Bundle, name: str) -> bool:
    """Return whether this machine and its runtime are those that the evidence was made with."""
    from ..export import runtime
    from ..machine.describe import measured_on

    built, target = bundle.manifest.runtimes[name], runtime(name)
    return (
        bundle.manifest.evidence.get("machine") == measured_on()
        and target.cannot_run() is None
        and built.version == target.version()
    )


def differences(
    runtime: str, found: JsonObject, here: JsonObject, same_machine: bool
) -> list[Difference]:
    """Return every quality figure of a runtime's evidence that this machine does not
    reproduce.

    On the machine of the export the arithmetic is the same and so must the figures be; elsewhere
    kernels round differently, and a figure may differ by half of its interval.
    """
    if "terms" not in found:  # evidence of an older edgegen with fewer gates
        here = {name: value for name, value in here.items() if name in found}
    return [
        Difference(runtime, figure, a, b)
        for figure, a, b, reach in _figures("", found, here)
        if not _agree(figure.rpartition(".")[2], a, b, 0.0 if same_machine else reach, same_machine)
    ]


def slower_or_faster(runtime: str, found: JsonObject, here: float | None) -> list[Difference]:
    """Return the speed of a runtime's evidence if it differs here; a runtime that does not run here
    has no speed.
    """
    said: Any = found.get("speed")
    if said is None or here is None:
        near = said is here
    else:
        near = _number(said) and abs(here - said) <= SPEED * said
    return [] if near else [Difference(runtime, "speed", said, here)]


MISSING = "nothing"


def _figures(
    place: str, found: Any, here: Any, reach: float = math.nan
) -> Iterator[tuple[str, Any, Any, float]]:
    """Yield (name, recorded, here, half of the interval that the figure lies in) for every leaf."""
    if isinstance(found, dict) and isinstance(here, dict):
        if _number(here.get("low")) and _number(here.get("high")):
            reach = (here["high"] - here["low"]) / 2
        for name in dict.fromkeys([*found, *here]):
            if name not in NOT_QUALITY:
                yield from _figures(
                    f"{place}.{name}".lstrip("."),
                    found.get(name, MISSING),
                    here.get(name, MISSING),
                    reach,
                )
    elif isinstance(found, list) and isinstance(here, list) and len(found) == len(here):
        for k, (a, b) in enumerate(zip(found, here, strict=True)):
            yield from _figures(f"{place}.{k}", a, b, reach)
    else:
        yield place, found, here, reach


def _agree(name: str, found: Any, here: Any, reach: float, same_machine: bool) -> bool:
    if type(found) is bool or type(here) is bool or not (_number(found) and _number(here)):
        return bool(found == here) or (
            not same_machine and name in ("psnr_db", "low_db", "high_db")
        )
    if same_machine or name in LETTERS:
        return math.isclose(found, here, rel_tol=SAME, abs_tol=SAME)
    if math.isfinite(reach):
        return abs(found - here) <= reach
    if name.endswith("_db"):
        return abs(found - here) <= DECIBEL
    few, many = sorted((abs(found), abs(here)))
    return many <= COUNTS * few + (2 if isinstance(found, int) else 0.0)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
