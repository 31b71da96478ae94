"""Say what a search of plans aims at, and how closely it looks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...calibrate.predict import CHECKED
from ...evidence.terms import Terms


@dataclass(frozen=True)
class SearchSettings:
    """Say what a search aims at, and how closely it looks; its JSON is part of the key that answers
    are noted under.
    """

    terms: Terms
    # steps at the sampler's end that a plan may leave to FP32; at most half of all steps
    last_steps: int = 1
    images_alone: int = 16  # images that the damage of one convolution is measured on
    images_glanced: int = 64  # images whose PSNR says which plans are worth a look
    # an undecided plan is looked at with at most this many times the first look's images, or half
    # of the verdict's if that is more
    patience: int = 4
    # a plan is taken if fresh seeds contradict it with at most this probability, or with that of
    # equal images
    doubt: float = 0.1
    hope: float = 0.3  # a plan is dropped if fresh seeds agree with at most this probability
    images_timed: int = 8  # images in a timed batch
    # kinds of layers that are timed, those with most multiplications; None: all
    kinds_timed: int | None = None
    # share of the time that a plan must save to keep FP32 weights beside INT8 ones
    burden: float = 0.1
    rounds: int = 16  # each beside a graph with all in INT8; the median counts
    # ms that a convolution is said to save if that is undecided: it stays INT8 unless it damages
    least_saved_ms: float = 0.01
    # multiplications that the damage of all layers along whole trajectories may take; beyond them,
    # damages are predicted from the errors of `calls_alone` calls and a few layers' trajectories
    whole_work: float = 2e12
    calls_alone: int = 4
    # layers of each graph that are measured along trajectories in that case
    layers_checked: int = CHECKED
    # number of groups of neighbours whose damage is measured; None: each layer alone
    groups: int | None = None
    # seconds that the questions for one runtime may take; a noted answer counts as it once took
    seconds: float = math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the settings that answers depend on; the time limit is not one."""
        found = {**asdict(self), "terms": self.terms.to_json()}
        del found["seconds"]
        return found
