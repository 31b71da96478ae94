"""Print what an export or verify has proven, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evidence.compare import NOT_COUNTED, Comparison
from ..evidence.judge import DISTANCE_IS_LARGE
from ..evidence.looks import FEW_PAIRS, LEAST_PAIRS
from ..workflows.executor import label
from . import output

if TYPE_CHECKING:
    from ..workflows.export.prove import Proof, RuntimeEvidence


HEAD = ["runtime", "ms/image", "speed", "FD change", "moved", "PSNR", "ruined", "worst class"]


def show(proof: Proof) -> None:
    """Print one row for each runtime, and lines that say what the figures refer to."""
    base = proof.full[proof.baseline]
    rows = [
        [f"{name} FP32", f"{t.cpu_ms / t.batch:.2f}", f"{base.cpu_ms / t.cpu_ms:.2f} x"]
        + [""] * (len(HEAD) - 2)
        for name, t in proof.full.items()
    ]
    rows += [_row(judged) for judged in proof.judged]
    output.table([*HEAD, "verdict"], rows)
    _explain(proof)
    for judged in proof.judged:
        if judged.why:
            print(
                f"{judged.name}: built but not run here ({judged.why}); {judged.executed_by} "
                "executed its Q/DQ graph instead."
            )
        if judged.speed is not None and judged.speed < 1:
            print(
                f"{label(judged.name)} is slower than FP32 here: INT8 brings no advantage on this "
                "machine."
            )
        for failure in judged.judgement.failures():
            print(f"{judged.name}: {failure}")


def _explain(proof: Proof) -> None:
    """Explain the columns."""
    base, one = proof.full[proof.baseline], proof.judged[0].comparison
    if one.is_counted:
        print(
            f"FD: Frechet distance to {one.reference}, over projected features of {one.features} "
            f"at {one.size} px; this is not an Inception FID. FP32: "
            f"{one.distance_full.value:.1f}; intervals of the change hold at {levels(proof)}."
        )
    else:
        print(f"Features: {one.features} at {one.size} px; the intervals hold at {levels(proof)}.")
    show_large(proof.judged)
    if not one.is_counted:
        print(
            "FD is not counted: the other gates decide, and none of them needs a reference. FD "
            "would need a reference of the generator's own photos and three image pairs for each "
            "of its directions."
        )
    if one.images < LEAST_PAIRS:
        print(f"Ruined pairs are counted exactly; {FEW_PAIRS}")
    if one.is_reference_corrected is False:
        print(
            "The reference was made by an older edgegen: these figures include what its limited "
            "number of images adds to FD."
        )
    show_second(proof.judged)
    print(
        "Moved: mean squared movement of the features, as a share of that from seed to seed. "
        "Ruined: below 25 dB, or a part of the image is lost; the true share is at most the one "
        "shown. Worst class: the label that is nearest to failing."
    )
    print(
        f"Latency: CPU time of the mean sampler step of a trajectory, batch {base.batch}, 1 "
        f"thread, median of {base.rounds} interleaved rounds. Speed: relative to the fastest FP32 "
        f"({proof.baseline})."
    )


def show_large(judged: Sequence[RuntimeEvidence]) -> None:
    """Print a line for each runtime whose full precision is far from the reference."""
    for one in judged:
        if one.judgement.is_distance_large:
            print(f"{one.name}: {DISTANCE_IS_LARGE}")


def show_second(judged: Sequence[RuntimeEvidence]) -> None:
    """Print a line for each runtime that a second judge judged."""
    for one in judged:
        if second := one.judgement.gates.second:
            print(
                f"{one.name}, second judge {second.network.name} at {second.network.size} px: "
                f"moved {second.moved.figure.value:.2%}, at most {second.moved.figure.high:.2%}; "
                f"apart {second.apart.figure.value:.2%}, at most {second.apart.figure.high:.2%}."
            )


def levels(proof: Proof) -> str:
    """Return the levels of the intervals, as of the looks that ended each verdict, and of the bound
    on ruined pairs.
    """
    found = {
        f"{j.comparison.look_level:.1%} (ruined: {j.judgement.tail.level:.1%})"
        for j in proof.judged
    }
    return " and ".join(sorted(found))


def _change(found: Comparison) -> str:
    if not found.is_counted:
        return NOT_COUNTED
    change = found.verdict.change
    half = max(change.high - change.value, change.value - change.low)
    return f"{change.value:+.2%} +-{half:.2%}"


def _row(judged: RuntimeEvidence) -> list[str]:
    found, c, latency = judged.judgement, judged.comparison, judged.latency
    one = found.worst_class
    return [
        label(judged.name),
        f"{latency.cpu_ms / latency.batch:.2f}" if latency else "not run",
        f"{judged.speed:.2f} x" if judged.speed else "not run",
        _change(c),
        f"{found.gates.moved.figure.value:.1%}",
        f"{c.psnr_db:.1f} dB",
        f"<= {found.tail.share.figure.high:.2%}",
        f"{one.group.name}: {one.psnr_db:.1f} dB" if one else "no classes",
        f"{found.state}, n = {c.images:,} and {found.tail.pairs:,}",
    ]
