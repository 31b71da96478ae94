"""What a search of plans aims at, and how closely it looks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...calibrate.predict import CHECKED
from ...evidence.terms import Terms


@dataclass(frozen=True)
class SearchSettings:
    """What a search aims at, and how closely it looks; its JSON is part of the key that answers are
    noted under.
    """

    terms: Terms
    # of the sampler's steps, from its end, how many a plan may leave to FP32; half of them at most
    last_steps: int = 1
    images_alone: int = 16  # that the damage of one convolution is measured on
    images_glanced: int = 64  # whose PSNR says which plans are worth a look
    # times the first look, or half of the verdict's images, that an undecided plan is looked at
    patience: int = 4
    # a plan is taken when fresh seeds contradict with no more probability, or than equal images
    doubt: float = 0.1
    hope: float = 0.3  # and left when the probability that they agree is no more than this
    images_timed: int = 8  # in a batch
    kinds_timed: int | None = None  # of layers, those with most multiplications; None: all
    # share of the time that FP32 weights beside INT8 ones have to save
    burden: float = 0.1
    rounds: int = 16  # each beside one with everything in int8; the median counts
    # ms that a convolution saves where nothing can be told: it stays int8 unless it damages
    least_saved_ms: float = 0.01
    # multiplications that the damage of all layers along whole trajectories may take; beyond,
    # it is predicted from errors of `calls_alone` calls and a few layers' trajectories
    whole_work: float = 2e12
    calls_alone: int = 4
    layers_checked: int = CHECKED  # of each graph, that are measured along trajectories then
    # parts that all layers are measured in, each a run of neighbours; None: each layer alone
    groups: int | None = None
    # that the questions for one runtime may take; whoever found an answer, it counts as it took
    seconds: float = math.inf

    def to_json(self) -> dict[str, Any]:
        """Of what answers depend on."""
        found = {**asdict(self), "terms": self.terms.to_json()}
        del found["seconds"]
        return found
