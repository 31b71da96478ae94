"""Turn measurements into rows of the document. It needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence

from .bench_document import (
    FULL,
    BatchLatency,
    BenchDocument,
    BenchRow,
    PairsHere,
    Percentiles,
    RawSamples,
    RowState,
    StagePart,
)
from .image_latency import (
    ImageSample,
    Kind,
    is_unstable,
    median_interval,
    middle_round,
    percentile,
    percentiles,
    ratios,
    times,
)
from .paired_quality import full_state, state_of

NO_PAIRS = "no full precision of its bundle runs here: no pairs were made"


def latency_of(
    samples: Sequence[ImageSample], batch: int, threads: int, kind: Kind
) -> BatchLatency:
    """Return the latency of one candidate at one batch size, without its speed, which depends on
    all rows.

    `kind` is the clock that rows are compared by.
    """
    cpu, wall = times(samples, "cpu"), times(samples, "wall")
    compared = cpu if kind == "cpu" else wall
    middle = percentile(wall, 0.5)
    return BatchLatency(
        batch=batch,
        threads=threads,
        rounds=len(samples),
        cpu=_percentiles(cpu),
        wall=_percentiles(wall),
        images_per_second=1e3 * batch / middle if middle else 0.0,
        unstable=is_unstable(compared),
        speed=None,
        speed_low=None,
        speed_high=None,
        stages=[
            StagePart(stage=stage, calls=one.calls, cpu_ms=one.cpu_ms, wall_ms=one.wall_ms)
            for stage, one in middle_round(samples, kind).stages.items()
        ],
        samples=RawSamples(cpu_ms=cpu, wall_ms=wall),
    )


def _percentiles(samples: Sequence[float]) -> Percentiles:
    known = median_interval(samples)
    ends = {"p50_low": known.low, "p50_high": known.high}
    return Percentiles.model_validate({**percentiles(samples), **ends})


def with_speeds(document: BenchDocument) -> BenchDocument:
    """Return the document with each latency compared with the fastest full precision of its bundle
    at the same batch, round by round, so that a drift of the machine cancels.

    Unstable latencies get no speed.
    """
    rows = [_sped(document, row) for row in document.rows]
    return document.model_copy(update={"rows": rows})


def _sped(document: BenchDocument, row: BenchRow) -> BenchRow:
    made = []
    for latency in row.latency:
        full = [
            other
            for one in document.of(row.bundle)
            if one.precision == FULL
            for other in one.latency
            if other.batch == latency.batch and not other.unstable
        ]
        if full and not latency.unstable:
            fastest = min(full, key=lambda other: document.compared(other).p50)
            found = median_interval(ratios(document.samples(fastest), document.samples(latency)))
            known = {"speed": found.value, "speed_low": found.low, "speed_high": found.high}
            latency = latency.model_copy(update=known)
        made.append(latency)
    return row.model_copy(update={"latency": made})


def state_and_why(found: PairsHere | None, is_full: bool) -> tuple[RowState, str]:
    """Return the state of a measured row, and why, from the pairs that were made of it."""
    if found is None:
        return "undecided", NO_PAIRS
    if is_full:
        state = full_state(found)
        said = f"{found.same_pixels:.2%} of its pixels are those of {found.against}"
        return state, "" if state == "within" else said
    state = state_of(found)
    reasons = [text for said, text in _reasons(found) if said == state != "within"]
    return state, "; ".join(reasons)


def _reasons(found: PairsHere) -> list[tuple[RowState, str]]:
    """Return each gate's state and the sentence that explains it."""
    psnr = "equal" if found.psnr_db is None else f"{found.psnr_db:.1f} dB"
    low = "" if found.psnr_low_db is None else f", at least {found.psnr_low_db:.1f} dB,"
    reasons: list[tuple[RowState, str]] = [
        (found.psnr_state, f"PSNR of {psnr}{low} where {found.psnr_limit_db:g} dB are asked"),
        (found.ruined_state, _ruined(found)),
    ]
    if (worst := found.worst_class) is not None:
        own = "equal" if worst.psnr_db is None else f"{worst.psnr_db:.1f} dB"
        reasons.append((worst.state, f"class {worst.name} has a PSNR of {own}"))
    return reasons


def _ruined(found: PairsHere) -> str:
    asked = (
        f"{found.ruined_limit:.2g}" if found.ruined_limit < 1e-4 else f"{found.ruined_limit:.2%}"
    )
    be = "is" if found.ruined == 1 else "are"
    if found.ruined or found.pairs >= found.ruined_needs:
        return (
            f"{found.ruined} of {found.pairs} pairs {be} ruined, so at most "
            f"{found.ruined_at_most:.2%} of all, where {asked} are asked"
        )
    return (
        f"none of {found.pairs} pairs is ruined, which shows at most {found.ruined_at_most:.2%}; "
        f"the {asked} asked take --pairs {found.ruined_needs}"
    )
