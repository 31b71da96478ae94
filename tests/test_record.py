"""What a run leaves beside checkpoints: grids of images from fixed seeds, TensorBoard, the last few
checkpoints.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from runs import PHOTOS, TOY, at, nothing, same, settings, stop_at
from toys import trainer

from edgegen.cli import output
from edgegen.cli.main import run as verb
from edgegen.training import run
from edgegen.training.record import SAMPLES, pipeline

pytestmark = pytest.mark.slow

DATA = str(Path(__file__).parent / "data" / "photos")


def go(out: Path, resume: bool = False, progress: run.Progress = nothing, **other: Any) -> Path:
    return run.train(
        settings(steps=6, precision="fp32"),
        PHOTOS,
        out,
        resume,
        2,
        progress,
        run.RunOptions(**other),
    )


def test_grids_come_at_intervals_and_at_the_end_and_change_nothing(tmp_path: Path) -> None:
    go(tmp_path / "with", samples_every=4)
    grids = sorted((tmp_path / "with" / "samples").iterdir())
    assert [p.name for p in grids] == ["step-00000004.png", "step-00000006.png"]
    first, last = (np.asarray(Image.open(p)) for p in grids)
    # 4 x 10 images of 8 px, 8 times as wide
    assert first.shape == last.shape == (8 * (4 * 8 + 3 * 2), 8 * (10 * 8 + 9 * 2), 3)
    assert not np.array_equal(first, last)
    go(tmp_path / "without")
    for name in ("weights.safetensors", "metrics.jsonl", "step-00000006/average.safetensors"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_a_resumed_run_leaves_the_same_grids(tmp_path: Path) -> None:
    go(tmp_path / "whole", samples_every=3)
    with pytest.raises(RuntimeError):
        go(tmp_path / "half", samples_every=3, progress=at(5, lambda: stop_at(5)))
    go(tmp_path / "half", resume=True, samples_every=3)
    same(tmp_path / "whole", tmp_path / "half")


def test_grids_show_the_averaged_weights_and_leave_the_run_as_it_is() -> None:
    made = trainer(TOY, PHOTOS, steps=4)
    for _ in made.run():
        pass
    before = {k: v.clone() for k, v in made.generator.networks.state_dict().items()}
    images = pipeline(made)(range(2))
    assert all(torch.equal(v, before[k]) for k, v in made.generator.networks.state_dict().items())
    made.generator.networks.load_state_dict(made.averages.state_dict())
    assert np.array_equal(pipeline(made)(range(2)), images) and SAMPLES % 10 == 0


def test_the_last_few_checkpoints_stay(tmp_path: Path) -> None:
    for keep in (1, 3):
        go(tmp_path / str(keep), keep=keep)
        assert [int(p.name[5:]) for p in sorted((tmp_path / str(keep)).glob("step-*"))] == [
            2,
            4,
            6,
        ][-keep:]


class Board:
    """tensorboard's writer, remembered."""

    made: ClassVar[list[Board]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.seen, self.closed = (
            folder,
            purge_step,
            list[tuple[str, int]](),
            False,
        )
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert np.isfinite(value)
        self.seen.append((name, step))

    def add_image(self, name: str, pixels: np.ndarray, step: int, dataformats: str) -> None:
        assert pixels.dtype == np.uint8 and dataformats == "HWC"
        self.seen.append((name, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_hears_losses_and_grids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Board  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with pytest.raises(RuntimeError):
        go(tmp_path / "run", samples_every=3, tensorboard=True, progress=at(5, lambda: stop_at(5)))
    go(tmp_path / "run", resume=True, samples_every=3, tensorboard=True)
    first, second = Board.made
    # what it saw of step 5 is void
    assert first.closed and second.closed and first.purge_step == 1 and second.purge_step == 5
    assert first.folder == str(tmp_path / "run" / "tensorboard")
    assert [seen for seen in second.seen if seen[0] != "samples"] == [
        (f"loss/{n}", k) for k in (5, 6) for n in ("theta", "phi")
    ]
    assert ("samples", 3) in first.seen and ("samples", 6) in second.seen


def test_without_its_package_tensorboard_is_refused_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert (
        verb(
            [
                "train",
                "cas-dm",
                str(tmp_path / "run"),
                "--data",
                str(tmp_path / "nowhere"),
                "--tensorboard",
            ]
        )
        == 5
    )
    assert "E-BACKEND] --tensorboard needs a package that is not here" in (
        told := capfd.readouterr().err
    )
    assert 'pip install "edgegen[tensorboard]"' in told and not (tmp_path / "run").exists()


def test_progress_says_how_fast_and_how_long() -> None:
    show = output._Lines("training", 100, "images")
    show.advance(40)
    assert show.rate() == ""  # a resumed run begins with what it has
    show.advance(10)
    assert show.first is not None
    show.first = (40, show.first[1] - 5)
    assert show.rate() in (
        ", 2 images/s, 25 s left",
        ", 1.99 images/s, 25 s left",
        ", 2.00 images/s, 25 s left",
    )
    assert output._Lines("photos", 100, "").rate() == ""
