"""What was proven, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..workflows.executor import label
from . import output

if TYPE_CHECKING:
    from ..workflows.export.prove import Proof, RuntimeEvidence


def show(proof: Proof) -> None:
    """One row a runtime, and a line that says what the figures are over."""
    base = proof.full[proof.baseline]
    rows = [
        [
            f"{name} FP32",
            f"{t.cpu_ms / t.batch:.2f}",
            f"{base.cpu_ms / t.cpu_ms:.2f} x",
            "1.00 x",
            "",
            "",
            "",
            "",
        ]
        for name, t in proof.full.items()
    ]
    rows += [_row(judged) for judged in proof.judged]
    output.table(
        [
            "runtime",
            "ms/image",
            "speed",
            "size",
            "FD change (95 %)",
            "FD INT8-FP32",
            "PSNR",
            "verdict",
        ],
        rows,
    )
    one = proof.judged[0].comparison
    print(
        f"FD: Frechet distance over {one.features} at {one.size} px, projected, to "
        f"{one.reference}; not an Inception FID. "
        f"FP32: {one.distance_full.value:.1f}."
    )
    print(
        f"Latency: the mean sampler step of a trajectory, batch {base.batch}, 1 thread, CPU time, "
        f"median of {base.rounds} "
        f"interleaved rounds; speed and size against the fastest FP32 ({proof.baseline})."
    )
    for judged in proof.judged:
        if judged.why:
            print(
                f"{judged.name}: built, not run here ({judged.why}); its Q/DQ graph was executed "
                f"by {judged.executed_by}."
            )
        if judged.speed is not None and judged.speed < 1:
            print(
                f"{label(judged.name)} is slower than FP32 here: it does not pay on this machine."
            )


def _row(judged: RuntimeEvidence) -> list[str]:
    c = judged.comparison
    change, latency = c.verdict.change, judged.latency
    return [
        label(judged.name),
        f"{latency.cpu_ms / latency.batch:.2f}" if latency else "not run",
        f"{judged.speed:.2f} x" if judged.speed else "not run",
        f"{judged.size:.2f} x",
        f"{change.value:+.2%} ({change.low:+.2%} to {change.high:+.2%})",
        f"{c.distance_between:.2f}",
        f"{c.psnr_db:.1f} dB",
        f"{c.verdict.state} +-{c.verdict.budget:.0%}, n = {c.images}",
    ]
