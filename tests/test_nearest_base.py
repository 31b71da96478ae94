"""A fine-tuning without a base takes the zoo's generator whose images are nearest to the photos."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from adapting import PEFT
from sites import photo_files

from edgegen.cli.main import run
from edgegen.errors import UsageError
from edgegen.evidence.features import LITE0, feature_network
from edgegen.training.data import Photos
from edgegen.workflows.finetune import nearest, periodic_eval
from edgegen.workflows.finetune.nearest import NearestBase, nearest_base

GREY, RED, BLUE = (0.0, 0.0, 0.0), (0.9, -0.9, -0.9), (-0.9, -0.9, 0.9)


def noisy(colour: tuple[float, ...], count: int, seed: int, size: int = 16) -> np.ndarray:
    """(count, 3, size, size) in [-1, 1] around a colour."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal((count, 3, size, size))
    return np.clip(np.asarray(colour)[:, None, None] + noise, -1, 1).astype(np.float32)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators of one colour each, and one that is too large."""
    colours = {"grey": GREY, "red": RED, "blue": BLUE, "large": RED}

    def entries() -> list[Any]:
        return [
            SimpleNamespace(name=name, card={"config": {"size": 64 if name == "large" else 16}})
            for name in colours
        ]

    def pipeline(name: str) -> Any:
        return lambda seeds: noisy(colours[name], len(seeds), seeds[0])

    monkeypatch.setattr("edgegen.zoo.entries", entries)
    monkeypatch.setattr(nearest, "load_generator", lambda name: SimpleNamespace(generator=name))
    monkeypatch.setattr(nearest, "torch_pipeline", pipeline)
    monkeypatch.setattr(nearest, "COMPARED", 24)


def photos_of(colour: tuple[float, ...], size: int = 16) -> Photos:
    pixels = ((noisy(colour, 40, 99, size) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return Photos(np.ascontiguousarray(pixels), np.zeros(40, np.int64), ("all",))


@pytest.mark.parametrize(("colour", "name"), [(RED, "red"), (BLUE, "blue"), (GREY, "grey")])
def test_the_nearest_generator_is_taken_and_the_others_are_named(
    zoo: None, colour: tuple[float, ...], name: str
) -> None:
    found = nearest_base(photos_of(colour), feature_network(LITE0, size=32))
    assert found.name == name and set(found.distances) == {"grey", "red", "blue"}
    assert found == nearest_base(photos_of(colour), feature_network(LITE0, size=32)), (
        "whenever it is asked"
    )
    assert str(found).startswith(f"base: {name}, whose images are nearest to the photos (KID ")
    assert all(other in str(found) for other in found.distances)


def test_no_generator_draws_as_few_pixels(zoo: None) -> None:
    with pytest.raises(
        UsageError, match="no generator of the zoo draws 8 pixels or fewer on each side"
    ):
        nearest_base(photos_of(RED, 8), feature_network(LITE0, size=32))


@PEFT
@pytest.mark.slow
def test_a_fine_tuning_without_a_base_picks_one_and_resumes_on_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "COMPARED", 4)
    monkeypatch.setattr(periodic_eval, "EVALUATION_IMAGES", 16)
    monkeypatch.setattr(periodic_eval, "FINAL_IMAGES", 24)
    monkeypatch.setattr(nearest, "nearest_base", _isc_gan)
    photos, out = photo_files(_made(tmp_path / "photos")), tmp_path / "site"
    few = ["--steps", "2", "--batch", "4", "--rank", "2", "--looks", "1", "--threads", "1"]
    assert run(["finetune", "--data", str(photos), "-o", str(out), *few]) == 0
    said = capfd.readouterr().err
    assert "base: isc-gan, whose images are nearest" in said
    assert said.count("understood: ") == 1, "the photos are read once"
    assert json.loads((out / "run.json").read_bytes())["adapt"]["base"] == "isc-gan"
    monkeypatch.setattr(nearest, "nearest_base", None)  # asked again, it would be a crash
    again = ["--resume", *few]
    assert run(["finetune", "--data", str(photos), "-o", str(out), *again]) == 0


def _isc_gan(photos: Photos, *_: Any) -> NearestBase:
    assert photos.pixels.shape[1:] == (32, 32, 3), "as large as the zoo's smallest draws"
    return NearestBase("isc-gan", {"isc-gan": 0.25})


def test_a_run_that_does_not_say_its_base_is_not_resumed_without_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photos = photo_files(_made(tmp_path / "photos"))
    given = ["finetune", "--data", str(photos), "-o", str(tmp_path / "new"), "--resume"]
    assert run(given) == 2
    assert "does not record with which generator of the zoo it began" in capfd.readouterr().err


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
