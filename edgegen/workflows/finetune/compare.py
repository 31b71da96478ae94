"""Fine-tuned runs side by side, in one table and one picture, from what each run keeps of
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import read_json
from ...core.progress import Listener, silent
from ...errors import InputError, UsageError
from ..generators import need_torch

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ComparedRun:
    """What a fine-tuned run says of itself."""

    path: Path
    family: str
    rank: int  # 0: every weight was trained
    images: int  # seen
    last: dict[str, Any]  # the last evaluation, as looks.json has it
    adapter_bytes: int | None  # None where every weight was trained


@dataclass(frozen=True)
class RunComparison:
    """Runs on the same photos; picture: where base, runs and photos are drawn side by side."""

    runs: tuple[ComparedRun, ...]
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen compare --json`, but for its frame."""
        return {
            "compared": [{"run": str(run.path), **run.last} for run in self.runs],
            "picture": str(self.picture),
        }


def compare_runs(
    runs: Sequence[str | Path], picture: str | Path, listen: Listener = silent
) -> RunComparison:
    """Read the last word of each run and draw base, runs and photos into `picture`.

    Raises UsageError for a folder that is no fine-tuned run or for runs on different photos,
    InputError for a run that has not ended.
    """
    need_torch()
    from ...core.images import save_png
    from ...evidence.timeline import comparison

    if not runs:
        raise UsageError("E-USAGE", "there are no runs to compare: give at least one run folder")
    with listen.progress("comparing runs", len(runs)) as advance:
        opened = []
        for run in runs:
            opened.append(_open(Path(run)))
            advance(1)
        if len({sha256 for _, sha256, _ in opened}) > 1:
            raise UsageError(
                "E-USAGE",
                "the runs used different photos or held out different ones, so their distances "
                "cannot be compared",
            )
        first = opened[0][2]
        adapted = {run.path.name: pictures["adapted"] for run, _, pictures in opened}
        drawn = {"base": first["base"], **adapted, "photos": first["photos"]}
        save_png(Path(picture), comparison(drawn))
    return RunComparison(tuple(run for run, _, _ in opened), Path(picture))


def _open(run: Path) -> tuple[ComparedRun, str, dict[str, np.ndarray]]:
    """What the run says, the sha256 of its photos, and its pictures."""
    from ...training.adapt import files, site
    from ...training.digests import description, hold
    from .periodic_eval import FILE, PICTURES, pictures

    if not (run / FILE).is_file():
        raise UsageError("E-SOURCE", "this is not a run of `edgegen finetune`", path=run)
    about = description(run)
    hold(run, FILE, PICTURES)
    evaluations = read_json(run / FILE)
    if "recover" in evaluations:
        raise UsageError(
            "E-SOURCE",
            "this is a run of `edgegen recover`, which uses no photos: it cannot be compared",
            path=run,
        )
    last = evaluations.get("last")
    if not last or not (run / PICTURES).is_file():
        raise InputError(
            "E-RUN-OPEN", "this run is not finished yet", path=run, hint="finish it with --resume"
        )
    adapter = run / site.ADAPTER / files.TENSORS
    compared = ComparedRun(
        run,
        about["family"],
        about["finetune"]["rank"],
        about["recipe"]["images"],
        last,
        adapter.stat().st_size if adapter.is_file() else None,
    )
    return compared, about["data"]["sha256"], pictures(run)
