"""Compare the rows of a bench with other toolkits' rows of the same graphs. It needs numpy only."""

from __future__ import annotations

from ..core.verdict import Interval
from .bench_document import FULL, BenchDocument, BenchRow
from .image_latency import median_interval, ratios


def is_undamaged(row: BenchRow) -> bool:
    """Return whether the row has pairs and they show no damage."""
    found = row.quality
    return row.state in ("within", "undecided") and found is not None and not found.ruined


def is_sound(row: BenchRow) -> bool:
    """Return whether the row is undamaged and also has a time to compare."""
    return is_undamaged(row) and row.first is not None and not row.first.unstable


def own_rows(document: BenchDocument, bundle: str) -> list[BenchRow]:
    """Return edgegen's own rows of the bundle that are not full precision."""
    return [row for row in document.of(bundle) if row.precision != FULL and not row.peer]


def fastest_peer(document: BenchDocument, bundle: str) -> BenchRow | None:
    """Return the fastest row of another toolkit whose pairs show no damage, or None."""
    timed = [
        (document.compared(row.first).p50, number, row)
        for number, row in enumerate(document.of(bundle))
        if row.peer and is_sound(row) and row.first is not None
    ]
    return min(timed)[-1] if timed else None


def times_as_fast(document: BenchDocument, row: BenchRow, other: BenchRow) -> Interval | None:
    """Return how many times as fast a row is as another, compared round by round; None if either
    has no stable time.
    """
    if row.first is None or other.first is None or row.first.unstable or other.first.unstable:
        return None
    found = ratios(document.samples(other.first), document.samples(row.first))
    return median_interval(found) if found else None


def peers_in_words(document: BenchDocument, bundle: str) -> str:
    """Say how edgegen's fastest sound row compares with the other toolkits; "" if none was
    measured.
    """
    peers = [row for row in document.of(bundle) if row.peer]
    if not any(row.state != "skipped" for row in peers):
        return ""
    best = fastest_peer(document, bundle)
    if best is None and any(map(is_undamaged, peers)):
        return "Times of other toolkits without damage scatter too much to be compared."
    if best is None:
        tried = sum(row.state != "skipped" for row in peers)
        return (
            f"None of {tried} ways of other toolkits makes images without damage from its graphs."
        )
    own = [row for row in own_rows(document, bundle) if is_sound(row)]
    found = [ratio for row in own if (ratio := times_as_fast(document, row, best))]
    if not found:
        return f"The fastest of other toolkits without damage is {best.label}."
    most = max(found, key=lambda ratio: ratio.value)
    return (
        f"The fastest of other toolkits without damage is {best.label}; edgegen's fastest is "
        f"{most.value:.2f} x as fast ({most.low:.2f} to {most.high:.2f})."
    )
