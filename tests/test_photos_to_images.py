"""From photos to a run and from a run to images, by the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgegen.cli.main import run
from edgegen.core.files import read_json

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]


def test_photos_become_a_run_and_a_run_becomes_images(tmp_path: Path) -> None:
    photos = Path(__file__).parent / "data" / "photos"
    out = tmp_path / "run"
    assert (
        run(
            [
                "train",
                "cas-dm",
                "--data",
                str(photos),
                "--out",
                str(out),
                "--recipe",
                "tiny",
                "--images",
                "320",
                "--threads",
                "1",
            ]
        )
        == 0
    )
    assert read_json(out / "run.json")["config"]["classes"] == 3
    assert (out / "reference.safetensors").is_file() and (out / "weights.safetensors").is_file()
    assert (
        run(["generate", str(out), "-n", "3", "--label", "2", "-o", str(tmp_path / "grid.png")])
        == 0
    )
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape[2] == 3


def test_a_run_resumes_on_its_own_threads_or_not_at_all(tmp_path: Path, capfd: Capture) -> None:
    """Sums round differently on other threads: the default takes the run's, and another number is
    refused by name.
    """
    photos = Path(__file__).parent / "data" / "photos"
    flags = [
        "train",
        "cas-dm",
        "--data",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--recipe",
        "tiny",
        "--images",
        "64",
    ]
    assert run([*flags, "--threads", "1"]) == 0
    assert run([*flags, "--resume", "--threads", "2"]) == 2
    assert "E-RESUME-MISMATCH] the run was started with another threads" in capfd.readouterr().err
    assert run([*flags, "--resume"]) == 0
    assert read_json(tmp_path / "run" / "run.json")["threads"] == 1


def test_too_few_photos_are_told_before_training(tmp_path: Path, capfd: Capture) -> None:
    (few := tmp_path / "few").mkdir()
    for path in sorted((Path(__file__).parent / "data" / "photos" / "kitchen").iterdir())[:4]:
        shutil.copy(path, few)
    assert (
        run(
            [
                "train",
                "cas-dm",
                "--data",
                str(few),
                "--out",
                str(tmp_path / "run"),
                "--recipe",
                "tiny",
            ]
        )
        == 4
    )
    assert "4 photos, 8 are needed" in capfd.readouterr().err and not (tmp_path / "run").exists()


def test_models_lists_the_zoo(capfd: Capture) -> None:
    assert run(["models", "--json"]) == 0
    listed: list[dict[str, Any]] = json.loads(capfd.readouterr().out)["models"]
    assert "cas-dm" in [m["name"] for m in listed] and all(
        Path(m["grid"]).is_file() for m in listed
    )
