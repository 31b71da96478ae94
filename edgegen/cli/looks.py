"""Looks at a fine-tuning while it runs: held-out photos beside what it draws now, the best adapter kept, an end in time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import read_json, to_json, write_bytes
from ..core.images import to_uint8
from ..evidence.distances import kernel_distance
from ..evidence.novelty import novelty
from . import output

if TYPE_CHECKING:
    from ..evidence.features import FeatureNetwork
    from ..training.data import Photos
    from ..training.loop import Trainer
    from .finetune import Plan

DRAWN = 256           # images a look
LOOK_SEED = 3_000_000  # of their first: no verdict and no search uses these
FILE = "looks.json"


class Looks:
    """What was seen at each look, in the run's looks.json; a resumed run goes on with them."""

    def __init__(self, run: Path, plan: Plan, train: Photos, held: Photos, network: FeatureNetwork, count: int,
                 patience: int) -> None:
        self.run, self.plan, self.count, self.patience, self._network = run, plan, count, patience, network
        with output.progress("features of the photos", len(train) + len(held)) as advance:
            self._train, self._held = (self._features(part.pixels, advance) for part in (train, held))
        self.seen: list[dict[str, Any]] = read_json(run / FILE)["looks"] if (run / FILE).is_file() else []

    @property
    def kept(self) -> bool:
        """Whether a look's adapter is on disk."""
        return bool(self.seen)

    def after(self, trainer: Trainer) -> None:
        """Called after each step: looks when it is time, keeps the best, ends the run when it only gets worse."""
        every = max(1, trainer.steps // self.count)
        if trainer.step % every and not trainer.over:
            return
        self.seen = [look for look in self.seen if look["step"] < trainer.step]
        from ..training.record import averages_in, pipeline

        draw = pipeline(trainer)
        images = np.concatenate([to_uint8(draw(range(LOOK_SEED + k, LOOK_SEED + k + 64))) for k in range(0, DRAWN, 64)])
        made = self._features(images, lambda _: None)
        found = novelty(made, self._held, self._train)
        look = {"step": trainer.step, "images": trainer.images, "kernel_distance": kernel_distance(self._held, made),
                "novelty": found.ratio, "copies": found.copies}
        best = min((entry["kernel_distance"] for entry in self.seen), default=np.inf)
        self.seen.append(look)
        output.note(f"look at step {trainer.step}: kernel distance {look['kernel_distance']:.4f}, novelty {found.ratio:.2f}")
        if look["kernel_distance"] < best and self.plan.rank:
            from ..training.adapt import site

            with averages_in(trainer):
                generator: Any = trainer.generator
                site.write(self.run, generator.adapter(self.plan.digest), generator.measured())
        write_bytes(self.run / FILE, to_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        return {"looks": self.seen}

    def _features(self, pixels: np.ndarray, advance: Any) -> np.ndarray:
        parts = []
        for k in range(0, len(pixels), 64):
            parts.append(self._network(pixels[k : k + 64]))
            advance(len(parts[-1]))
        return np.concatenate(parts)
