"""What a user gets wrong at `edgegen train`: one clear sentence and the exit code of its class, and
nothing half made.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import PHOTOS, at, go, same, settings
from shards_of import add, folder, png, shard

from edgegen.cli.main import run
from edgegen.core import files
from edgegen.errors import InputError, ResourceError, UsageError
from edgegen.training import checkpoint
from edgegen.training.data import Photos
from edgegen.training.run import train

Captured = pytest.CaptureFixture[str]


def photos(root: Path, count: int = 30) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        (root / f"{k:03d}.png").write_bytes(png(k))
    return root


def one_pixel(root: Path) -> Path:
    Image.new("RGB", (1, 1)).save(photos(root, 10) / "dot.png")
    return root


def unreadable(root: Path) -> Path:
    (photos(root, 10) / "half.png").write_bytes(png(1)[:200])
    return root


def truncated(root: Path) -> Path:
    path = shard(root / "000.tar", range(20))
    path.write_bytes(path.read_bytes()[:9300])
    return root


def trap(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        root.mkdir()
        with tarfile.open(root / "000.tar", "w") as made:
            add(made, "0.png", png(0))
            add(made, name, pickle.dumps([1]))
        return root

    return make


CASES: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "unreadable": (
        unreadable,
        4,
        "error[E-DATA-BAD] 1 of 11 photos cannot be used: half.png: E-IMG-CORRUPT",
    ),
    "one pixel": (
        one_pixel,
        4,
        "dot.png: E-IMG-TOO-SMALL 1x1 pixels; the shorter side must have at least 16",
    ),
    "three photos": (
        lambda root: photos(root, 3),
        4,
        "error[E-DATA-TOO-FEW] 3 photos, 8 are needed",
    ),
    "less than a batch": (
        lambda root: photos(root, 9),
        4,
        "training needs at least 16 photos (one batch), got 9",
    ),
    "no photos": (lambda root: photos(root, 0), 4, "error[E-DATA-EMPTY] found 0 images"),
    "no folder": (
        lambda root: root,
        4,
        "error[E-DATA-MISSING] the folder of photos does not exist",
    ),
    "cut-off shard": (
        truncated,
        4,
        "error[E-SHARD-TRUNCATED] the shard ends where a header should be, at byte 9216",
    ),
    "pickle in a shard": (
        trap("0.pkl"),
        6,
        "error[E-PICKLE] member '0.pkl' is a pickle: edgegen does not read pickle files",
    ),
    "escape": (
        trap("../0.png"),
        6,
        "error[E-SHARD-MEMBER] member '../0.png' leads out of the archive",
    ),
    "label": (trap("0.cls"), 4, "error[E-SHARD-LABEL] '0.cls' is not a whole number"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_an_exit_code(case: str, tmp_path: Path, capsys: Captured) -> None:
    make, code, words = CASES[case]
    data, out = make(tmp_path / "data"), tmp_path / "out"
    flags = ["--recipe", "tiny", "--data", str(data), "--out", str(out), "--threads", "1", "--json"]
    assert run(["train", "cas-dm", *flags]) == code
    shown = capsys.readouterr()
    line = next(line for line in shown.err.splitlines() if line.startswith("error["))
    assert words in line and "Traceback" not in shown.err
    failure = json.loads(shown.out)
    assert not failure["ok"] and failure["exit"] == code and failure["code"] in line
    assert not out.exists()


@pytest.mark.slow
def test_an_empty_class_is_named_and_is_no_class(tmp_path: Path, capsys: Captured) -> None:
    """And photos that training passes over are named, while the rest is trained on."""
    photos(tmp_path / "data" / "cat"), photos(tmp_path / "data" / "dog")
    (tmp_path / "data" / "cow").mkdir()
    (tmp_path / "data" / "cat" / "x.png").write_bytes(b"")
    for k in range(30):
        (tmp_path / "data" / "dog" / f"{k:03d}.png").write_bytes(png(100 + k))
    flags = [
        "--recipe",
        "tiny",
        "--images",
        "16",
        "--threads",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert run(["train", "cas-dm", "--data", str(tmp_path / "data"), *flags]) == 0
    shown = capsys.readouterr()
    assert "W-DATA-CLASS-EMPTY: 1 (such as cow)" in shown.err
    assert "not used: cat/x.png: E-IMG-EMPTY the file has 0 bytes" in shown.err
    assert json.loads(shown.out)["photos"]["classes"] == {"cat": 30, "dog": 30}


@pytest.mark.slow
def test_training_from_shards_and_resuming(tmp_path: Path, capsys: Captured) -> None:
    data, out = folder(tmp_path / "data", 48, 16), tmp_path / "out"
    command = [
        "train",
        "cas-dm",
        "--recipe",
        "tiny",
        "--images",
        "64",
        "--threads",
        "1",
        "--out",
        str(out),
        "--data",
    ]
    assert (
        run([*command, str(data)]) == 0
        and (out / checkpoint.WEIGHTS).is_file()
        and (out / "reference.safetensors").is_file()
    )
    about = json.loads((out / "run.json").read_text())["data"]
    assert about["images"] == 48 and about["classes"] == ["0", "1", "2"]
    assert run([*command, str(data)]) == 2
    assert "error[E-OUT-EXISTS] a run is there already" in capsys.readouterr().err
    assert run([*command, str(data), "--resume"]) == 0
    shard(data / "002.tar", range(33, 49))
    assert run([*command, str(data), "--resume"]) == 2
    assert (
        "error[E-RESUME-MISMATCH] the run was started with another data.sha256"
        in capsys.readouterr().err
    )
    assert run([*command, str(folder(tmp_path / "again", 48, 16)), "--resume", "--seed", "1"]) == 2
    assert (
        "started with another seed" in capsys.readouterr().err
        and str(tmp_path) not in (out / "run.json").read_text()
    )


@pytest.mark.slow
def test_another_config_is_refused_and_named(tmp_path: Path) -> None:
    go(tmp_path / "run", steps=2)
    other = settings(steps=2, rate=0.5)
    with pytest.raises(
        UsageError, match=r"E-RESUME-MISMATCH.*another recipe\.rate.*then 0\.001, now 0\.5"
    ):
        train(other, PHOTOS, tmp_path / "run", True, 10, lambda *_: None)
    with pytest.raises(UsageError, match=r"another config\.timesteps"):
        go(tmp_path / "run", True, steps=2, config=replace(other.recipe.config, timesteps=50))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused(tmp_path: Path, label: int) -> None:
    labels = PHOTOS.labels.copy()
    labels[7] = label
    with pytest.raises(
        InputError, match="the generator has 2 classes, the photos' labels go from"
    ) as caught:
        go(
            tmp_path / "run",
            photos=Photos(PHOTOS.pixels, labels, PHOTOS.classes),
            config=replace(settings().recipe.config, classes=2),
        )
    assert (
        caught.value.code == "E-DATA-CLASSES"
        and caught.value.exit_code == 4
        and not (tmp_path / "run").exists()
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first part", "last part", "pointer"])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while the checkpoint at step 20 is written; with space again, the run ends as one that
    never met it.
    """
    real, write, count = os.fsync, files.put, 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def parts(path: Path, data: bytes) -> None:
        nonlocal count
        count += path.suffix == ".safetensors"
        if (where == "first part" and count == 1) or path.name == "state.json":
            full()
        write(path, data)

    def sync(fd: int) -> None:
        if (
            os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2].startswith(".edgegen-tmp-")
            and (out / "step-00000020").exists()
        ):
            full()
        real(fd)

    def fill() -> None:
        if where == "pointer":
            monkeypatch.setattr(os, "fsync", sync)
        else:
            monkeypatch.setattr("edgegen.training.checkpoint.put", parts)

    out = tmp_path / "run"
    with pytest.raises(
        ResourceError, match=r"cannot write: No space left on device; \d+ MB free"
    ) as caught:
        go(out, progress=at(20, fill))
    assert caught.value.code == "E-DISK-FULL" and caught.value.exit_code == 7
    monkeypatch.undo()
    assert (out / "latest").read_text() == "step-00000010" and not list(out.glob(".edgegen-tmp-*"))
    go(out, resume=True)
    go(tmp_path / "whole")
    same(out, tmp_path / "whole")


def test_the_size_of_photos_must_be_the_generators(tmp_path: Path) -> None:
    wrong = Photos(np.zeros((40, 16, 16, 3), np.uint8), PHOTOS.labels, PHOTOS.classes)
    with pytest.raises(InputError, match="makes 8 x 8 x 3 images, the photos are 16 x 16 x 3"):
        go(tmp_path / "run", photos=wrong)
