"""Runs and checkpoints that are refused: of another run, in use, or damaged."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from runs import PHOTOS, SMALL, TOY, go, redigest, settings
from safetensors.torch import load_file, save_file
from toys import shapes

from edgegen.errors import Busy, EdgegenError, InputError, ResourceError, TrustError, UsageError
from edgegen.families.cas_dm import CasDm
from edgegen.training import checkpoint, digests, run
from edgegen.training.data import Photos
from edgegen.training.loop import Trainer

# refusals


@pytest.mark.parametrize(
    ("change", "name", "hint"),
    [
        ({"config": replace(TOY, metric_weight=0.2)}, "config.metric_weight", "then 0.1, now 0.2"),
        (
            {"config": replace(TOY, theta=replace(SMALL, dropout=0.1))},
            "config.theta.dropout",
            "then 0.2, now 0.1",
        ),
        ({"photos": shapes(40, 8, seed=9)}, "data.sha256", "then '"),
        ({"seed": 1}, "seed", "then 0, now 1"),
        ({"rate": 2e-3}, "recipe.rate", "then 0.001, now 0.002"),
        ({"steps": 50}, "recipe.images", "then 320, now 400"),
    ],
)
def test_a_resume_of_another_run_is_refused_by_name(
    half: Path, change: dict[str, Any], name: str, hint: str
) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*"))
    with pytest.raises(UsageError) as caught:
        go(half, resume=True, **change)
    assert caught.value.code == "E-RESUME-MISMATCH" and hint in caught.value.hint
    assert caught.value.message == f"the run was started with another {name}"
    assert sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*")) == before


def test_another_torch_is_refused(half: Path) -> None:
    about = json.loads((half / "run.json").read_text())
    (half / "run.json").write_text(json.dumps({**about, "torch": "2.0.0"}))
    (half / digests.FILE).unlink()  # as a run of before has none
    with pytest.raises(UsageError, match=r"started with another torch .* - then '2.0.0', now"):
        go(half, resume=True)


def test_folders_that_are_taken(half: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"E-OUT-EXISTS. a run is there already .*add --resume, or choose another --out",
    ):
        go(half)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(
            UsageError, match=r"E-OUT-EXISTS. the run folder is not empty and not a run"
        ):
            go(tmp_path / "foreign", resume=resume)
    with pytest.raises(ResourceError, match="cannot write"):
        go(tmp_path / "foreign" / "thesis.txt")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".edgegen-tmp-0").write_text("of a kill while run.json was written")
    go(tmp_path / "killed", steps=1)


def test_a_folder_in_use_is_busy(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with (
        FileLock(tmp_path / "run.lock"),
        pytest.raises(Busy, match="another process is writing it") as caught,
    ):
        go(out, steps=1)
    assert (caught.value.code, caught.value.exit_code) == ("E-LOCKED", 8)
    go(out, steps=1)

    def second(trainer: Trainer, report: dict[str, float]) -> None:
        with pytest.raises(Busy):
            go(tmp_path / "other", steps=2, resume=True)

    go(tmp_path / "other", steps=2, progress=second)


def test_a_checkpoint_interval_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every 1 or more steps, got 0"):
        go(tmp_path / "run", every=0)


@pytest.mark.parametrize(
    ("photos", "code", "text"),
    [
        (shapes(7, 8), "E-DATA-TOO-FEW", r"at least 8 photos \(one batch\), got 7"),
        (
            shapes(40, 16),
            "E-DATA-SIZE",
            "the generator makes 8 x 8 x 3 images, the photos are 16 x 16 x 3",
        ),
        (
            replace(PHOTOS, labels=PHOTOS.labels + 1),
            "E-DATA-CLASSES",
            "has 2 classes, the photos' labels go from 1 to 2",
        ),
        (
            replace(PHOTOS, labels=PHOTOS.labels - 1),
            "E-DATA-CLASSES",
            "has 2 classes, the photos' labels go from -1 to 0",
        ),
    ],
)
def test_photos_that_do_not_fit(tmp_path: Path, photos: Photos, code: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        go(tmp_path / "run", photos=photos, config=replace(TOY, classes=2))
    assert caught.value.code == code and not (tmp_path / "run").exists()


def test_labels_of_photos_mean_nothing_to_an_unconditional_generator(tmp_path: Path) -> None:
    go(tmp_path / "run", steps=1, photos=replace(PHOTOS, labels=PHOTOS.labels + 7))
    assert run.load(tmp_path / "run")[1].latent.classes == 0


def test_a_run_that_has_not_ended_cannot_be_loaded(half: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"E-RUN-OPEN. this run has not ended yet .* - finish it with --resume"
    ):
        run.load(half)
    with pytest.raises(InputError, match="E-JSON"):
        run.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ([], "the description names no family and config"),
        ({"family": "cas-dm"}, "names no family and config"),
        ({"family": ["cas-dm"], "config": {}}, "names no family"),
        ({"family": "gan", "config": {}}, "unknown family 'gan'; known: cas-dm"),
        (
            {"family": "cas-dm", "config": {"size": "32"}},
            "E-CONFIG. size: Input should be a valid integer",
        ),
        (
            {"family": "cas-dm", "config": {"theta": {"widht": 3}}},
            "E-CONFIG. theta.widht: Unexpected keyword argument",
        ),
        ({"family": "cas-dm", "config": {"size": 18}}, "size 18 must divide by 4"),
    ],
)
def test_descriptions_that_build_nothing(about: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        checkpoint.build(about, Path("run.json"))


# damaged checkpoints


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """With digests that fit: as another edgegen might have written it."""
    rewrite(path, change)
    redigest(path)


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[next(k for k, v in tensors.items() if v.is_floating_point() and v.ndim)].flatten()[
        :1
    ] = float("nan")


def widen(tensors: dict[str, torch.Tensor]) -> None:
    name = next(k for k, v in tensors.items() if v.ndim)
    tensors[name] = torch.zeros(*tensors[name].shape, 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unknown(tensors: dict[str, torch.Tensor]) -> None:
    tensors["77777.exp_avg"] = torch.zeros(1)


PARTS = ("networks", "average", "adam-theta", "adam-phi")
DAMAGE: dict[str, tuple[Callable[[Path], object], type[EdgegenError], str]] = {
    "pickle": (
        lambda p: p.write_bytes(pickle.dumps({"a": 1})),
        TrustError,
        "E-PICKLE. edgegen does not read pickle files",
    ),
    "torch": (lambda p: torch.save({"a": torch.zeros(1)}, p), TrustError, "E-PICKLE"),
    "empty": (lambda p: p.write_bytes(b""), InputError, "E-ST-HEADER. not a safetensors file"),
    "text": (lambda p: p.write_bytes(b"<html>404</html>"), InputError, "E-ST-HEADER"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), InputError, "E-ST-HEADER"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"\0"), InputError, "E-ST-HEADER"),
    "missing": (lambda p: p.unlink(), InputError, "E-WEIGHTS. cannot be read: No such file"),
    "folder": (into_a_folder, InputError, "E-WEIGHTS. not a file"),
    "nan": (
        lambda p: rewrite(p, poison),
        InputError,
        r"E-NONFINITE. .*: 1 of \d+ values are NaN or infinite",
    ),
    "shape": (
        lambda p: refit(p, widen),
        InputError,
        r"E-KEYS. 1 tensors do not fit: .* is \(.*, 2\), wanted \(",
    ),
    "key": (
        lambda p: refit(p, lambda t: t.pop(sorted(t)[0])),
        InputError,
        "E-KEYS. 1 tensors do not fit: .* is missing",
    ),
    "unknown": (lambda p: refit(p, unknown), InputError, "E-KEYS.* 77777.exp_avg is unknown"),
    "bit": (flip, TrustError, "E-HASH"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_refused_for_its_reason(damaged: Path, part: str, damage: str) -> None:
    path = damaged / "step-00000020" / f"{part}.safetensors"
    state = path.with_name("state.json")
    before, state_before = path.read_bytes(), state.read_bytes()
    spoil, kind, text = DAMAGE[damage]
    spoil(path)
    fresh = Trainer.start(CasDm(TOY), settings().recipe, PHOTOS, 0)
    try:
        with pytest.raises(kind, match=text) as caught:
            checkpoint.resume(damaged, fresh)
    finally:
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
        state.write_bytes(state_before)
    assert caught.value.path == str(path) and fresh.step == 0
    checkpoint.resume(damaged, fresh)
    assert fresh.step == 20


@pytest.fixture(scope="module")
def damaged(half_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its last checkpoint alone: there is none to fall back to."""
    run = shutil.copytree(half_run, tmp_path_factory.mktemp("damaged") / "run")
    shutil.rmtree(run / "step-00000010")
    return run


def state_with(**other: object) -> bytes:
    return json.dumps(
        {"step": 20, "skipped": 0, "averaged": {"theta": 20, "phi": 20}, "sha256": {}, **other}
    ).encode()


@pytest.mark.parametrize(
    ("name", "data", "code", "text"),
    [
        (
            "step-00000020/state.json",
            b"{}",
            "E-CHECKPOINT",
            "a count for the average of each trained network",
        ),
        ("step-00000020/state.json", b"[]", "E-CHECKPOINT", "not this run's state"),
        ("step-00000020/state.json", state_with(step=20.5), "E-CHECKPOINT", "whole numbers"),
        ("step-00000020/state.json", state_with(step=-1), "E-CHECKPOINT", "whole numbers"),
        (
            "step-00000020/state.json",
            state_with(averaged={"theta": 20, "phi": True}),
            "E-CHECKPOINT",
            "whole numbers",
        ),
        (
            "step-00000020/state.json",
            state_with(averaged={"theta": 20}),
            "E-CHECKPOINT",
            "not this run's state",
        ),
        (
            "step-00000020/state.json",
            state_with(sha256=None),
            "E-CHECKPOINT",
            "the sha256 of each file",
        ),
        ("step-00000020/state.json", b'{"step": 20', "E-JSON", "not usable JSON"),
        ("step-00000020/state.json", state_with(more=1), "E-CHECKPOINT", "state has no 'more'"),
        ("step-00000020/state.json", state_with(digest="0"), "E-HASH", "not the state"),
        ("run.json", b"{", "E-HASH", "not the bytes that the run was left with"),
    ],
)
def test_damaged_pointers_never_restart_from_zero(
    damaged: Path, name: str, data: bytes, code: str, text: str
) -> None:
    before = (damaged / name).read_bytes()
    (damaged / name).write_bytes(data)
    try:
        with pytest.raises((InputError, TrustError), match=text) as caught:
            go(damaged, resume=True)
    finally:
        (damaged / name).write_bytes(before)
    assert caught.value.code == code


def test_a_checkpoint_of_an_older_edgegen_is_refused_in_words(damaged: Path) -> None:
    path = damaged / "step-00000020" / "state.json"
    state = json.loads(before := path.read_text())
    old = {k: v for k, v in state.items() if k not in ("digest", "metrics")}
    path.write_text(json.dumps({**old, "averaged": 20}))
    fresh = Trainer.start(CasDm(TOY), settings().recipe, PHOTOS, 0)
    with pytest.raises(
        InputError,
        match=r"E-CHECKPOINT. an older edgegen wrote this checkpoint.* - start the run anew",
    ):
        checkpoint.resume(damaged, fresh)
    path.write_text(before)
    assert fresh.step == 0


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x580])
def test_a_header_whose_length_looks_like_pickle_is_read(tmp_path: Path, length: int) -> None:
    """The first byte of a safetensors file is the low byte of its header's length, and 0x80 is
    pickle's.
    """
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(
        length.to_bytes(8, "little") + header.ljust(length) + bytes(4)
    )
    assert checkpoint.read_weights(tmp_path / "w.safetensors")["x"].tolist() == [0]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_binary_pickle_is_known_by_its_bytes_and_files_by_their_names(
    tmp_path: Path, protocol: int
) -> None:
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps({"x": [1.0] * 100}, protocol=protocol))
    # the last three are not opened
    for path in (tmp_path / f"w.{suffix}" for suffix in ("safetensors", "pt", "ckpt", "bin")):
        with pytest.raises(
            TrustError, match="convert it to safetensors on a machine you trust"
        ) as caught:
            checkpoint.read_weights(path)
        assert (caught.value.code, caught.value.exit_code) == ("E-PICKLE", 6)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="not a file"):
        checkpoint.read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "NOPE", "F64", "BF16", "F8_E4M3"])
def test_types_are_read_or_refused_in_words(tmp_path: Path, dtype: str) -> None:
    size = {"F4": 1, "F64": 16, "BF16": 4}.get(dtype, 2)
    header = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(size)
    )
    try:
        assert checkpoint.read_weights(tmp_path / "w.safetensors")["x"].numel() == 2
    except InputError as error:
        assert error.code == "E-ST-HEADER"
