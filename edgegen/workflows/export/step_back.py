"""Judge what was built, and step back to safer plans where the verdict contradicts the search."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.bundle import Bundle
from ...core.runtime import Runtime
from ...evidence.terms import Terms
from ..context import Context
from .allowance import Stopwatch
from .attempts import Attempts
from .build import Build, rebuild
from .prove import Proof, prove

PLANS = 3  # most plans that one export judges for a runtime


def prove_or_step_back(
    build: Build,
    targets: Sequence[Runtime],
    terms: Terms,
    context: Context,
    attempts: Attempts,
    watch: Stopwatch,
) -> tuple[Proof, Bundle]:
    """Judge the bundle; a runtime whose plan fails gets a safer one, as the next attempt on seeds
    of its own, if there is time.

    Returns the proof and the bundle that it belongs to.
    """

    def judged(some: Sequence[Runtime]) -> Proof:
        trials = {target.name: attempts.trial(build.bundle, target.name, terms) for target in some}
        # the engines were just built here, so they are trusted
        return prove(build.bundle, trials, terms, context, trust_engines=True)

    before = watch.left
    proof = judged(targets)
    took = before - watch.left if watch.seconds else 0.0
    for _ in range(1, PLANS):
        if took > watch.left:
            context.listen.note("no time is left to try a plan with more layers in FP32")
            break
        failed = {j.name: j for j in proof.judged if not j.passed}
        again = [t for t in targets if t.name in failed and build.plans[t.name].safer()]
        if not again:
            break
        for target in again:
            context.listen.note(f"{failed[target.name]}; trying a plan with more layers in FP32")
        build = rebuild(build, again, context.listen)
        proof = proof.again(judged(again))
    return proof, build.bundle
