"""A run shows damage to its files, and goes on from the checkpoint before a damaged one."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import adapters
import pytest
from adapting import PEFT
from faulty import killed_at, points_of
from runs import PHOTOS, TOY, go, settings

from edgegen.errors import InputError, TrustError
from edgegen.families.cas_dm import CasDm
from edgegen.training import checkpoint, digests, run
from edgegen.training.adapt import site
from edgegen.training.loop import Trainer

FLIPS = 12  # of each file; `make reliability` makes more
STEPS = ("step-00000010", "step-00000020")
PARTS = ("networks", "average", "adam-theta", "adam-phi")


def flips(path: Path, count: int = FLIPS) -> Iterator[str]:
    """The file with one bit flipped, then another; as it was in the end."""
    before, rng = path.read_bytes(), random.Random(path.name)
    for _ in range(count):
        at = rng.randrange(8 * len(before))
        data = bytearray(before)
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(data)
        yield f"bit {at} of {path.name}"
    path.write_bytes(before)


def cuts(path: Path) -> Iterator[str]:
    """The file cut at each 16th."""
    before = path.read_bytes()
    for k in range(16):
        path.write_bytes(before[: len(before) * k // 16])
        yield f"{path.name} cut at {k}/16"
    path.write_bytes(before)


def found(read: Callable[[], object], path: Path) -> None:
    """Every damage to the file is an error of trust when `read` runs; mended, it is none."""
    read()
    for damaged in (flips, cuts):
        for what in damaged(path):
            with pytest.raises(TrustError) as caught:
                read()
            assert caught.value.code == "E-HASH" and caught.value.exit_code == 6, what
    read()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    go(out, steps=4, every=2)
    return out


@pytest.mark.parametrize("name", ["run.json", checkpoint.WEIGHTS, digests.FILE])
def test_damage_to_a_finished_run_is_found(finished: Path, name: str) -> None:
    found(lambda: run.load(finished), finished / name)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapters.run("cas-dm", tmp_path_factory.mktemp("adapted") / "run", steps=2, every=2)


@PEFT
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [site.BASE, site.MEASURED, "adapter/adapter_model.safetensors", "adapter/adapter_config.json"],
)
def test_damage_to_an_adapted_run_is_found(adapted: Path, name: str) -> None:
    about = digests.description(adapted)
    found(lambda: site.merged(adapted, about), adapted / name)


def test_a_run_of_before_is_read_and_that_is_said(finished: Path, tmp_path: Path) -> None:
    old = shutil.copytree(finished, tmp_path / "run")
    assert digests.unnoticed(old) == ""
    (old / digests.FILE).unlink()
    run.load(old)
    assert digests.unnoticed(old).startswith(f"W-RUN-DIGESTS: {old} is of an edgegen")


def test_kill_9_while_a_file_is_replaced_leaves_no_false_alarm(tmp_path: Path) -> None:
    def replace(word: bytes) -> None:
        digests.keep(tmp_path, {"a": word, "b": word})

    (tmp_path / "a").write_bytes(b"of an edgegen without digests")
    replace(b"old")
    for number in range(len(points_of(lambda: replace(b"new")))):
        replace(b"old")
        assert killed_at(number, lambda: replace(b"new"))
        digests.hold(tmp_path, "a", "b")
        assert {(tmp_path / name).read_bytes() for name in "ab"} <= {b"old", b"new"}
        replace(b"end")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", digests.FILE]
        (tmp_path / "a").write_bytes(b"other")
        with pytest.raises(TrustError):
            digests.hold(tmp_path, "a")


# the checkpoint before


def resumed(folder: Path) -> tuple[int, list[str]]:
    """Where a run goes on, and what is said of it."""
    notes: list[str] = []
    fresh = Trainer.start(CasDm(TOY), settings().recipe, PHOTOS, 0)
    checkpoint.resume(folder, fresh, notes.append)
    return fresh.step, notes


@pytest.fixture(scope="module")
def kept(half_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(half_run, tmp_path_factory.mktemp("kept") / "run")


@pytest.mark.parametrize("name", ["state.json", *(f"{part}.safetensors" for part in PARTS)])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(kept: Path, name: str) -> None:
    assert resumed(kept) == (20, [])
    path = kept / STEPS[1] / name
    for what in flips(path, 5):
        step, notes = resumed(kept)
        assert step == 10, what
        assert notes[0].startswith(f"W-CHECKPOINT: {STEPS[1]} cannot be used, the run goes on")
        assert str(path) in notes[0]
    aside = path.rename(path.with_suffix(".aside"))
    assert resumed(kept)[0] == 10
    aside.rename(path)
    assert resumed(kept) == (20, [])


@pytest.mark.parametrize(
    ("said", "step", "words"),
    [
        (b"", 20, "latest names '', which is no checkpoint"),
        (b"../../elsewhere", 20, "latest names '../../elsewhere', which is no checkpoint"),
        (b"\xff", 20, "no checkpoint to read"),
        (b"step-00000099", 20, "step-00000099 cannot be used, the run goes on from step-00000020"),
        (b"step-00000010", 10, "step-00000020 is complete, but latest names step-00000010"),
    ],
)
def test_a_damaged_pointer_is_said(kept: Path, said: bytes, step: int, words: str) -> None:
    before = (kept / "latest").read_bytes()
    (kept / "latest").write_bytes(said)
    found_at, notes = resumed(kept)
    (kept / "latest").write_bytes(before)
    assert found_at == step and words in notes[0] and len(notes) == 1


@pytest.mark.parametrize("also", [[], ["latest"], ["latest", "metrics.jsonl"]])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(half: Path, also: list[str]) -> None:
    for name in STEPS:
        shutil.rmtree(half / name)
    for name in also:
        (half / name).unlink()
    with pytest.raises(InputError) as caught:
        go(half, resume=True)
    assert caught.value.code in ("E-CHECKPOINT", "E-JSON")
    if also:
        assert "all checkpoints of this run are gone" in caught.value.message
        assert "put its newest step- folder back" in caught.value.hint


def test_a_finished_run_without_checkpoints_does_not_begin_anew(
    finished: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(finished, tmp_path / "run")
    for path in [*old.glob("step-*"), old / digests.FILE, old / "latest"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match="all checkpoints of this run are gone"):
        go(old, resume=True, steps=4)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_and_says_so(
    tmp_path: Path, finished: Path
) -> None:
    out = tmp_path / "run"
    assert killed_at(0, lambda: None) is False
    out.mkdir()
    for name in ("run.json", digests.FILE):
        shutil.copy(finished / name, out / name)
    (out / digests.FILE).write_bytes(digests.Digests().to_bytes())
    notes: list[str] = []
    options = run.RunOptions(note=notes.append)
    run.train(settings(4), PHOTOS, out, True, 2, lambda *_: None, options)
    assert notes == ["W-CHECKPOINT: the run ended before its first checkpoint and begins at step 0"]
    assert (out / checkpoint.WEIGHTS).read_bytes() == (finished / checkpoint.WEIGHTS).read_bytes()


def test_losses_that_changed_are_found_and_a_run_goes_on_without_them(half: Path) -> None:
    losses = half / checkpoint.METRICS
    text = losses.read_text()
    losses.write_text(text.replace('"images": 8', '"images": 9', 1))
    with pytest.raises(TrustError, match="remove it to go on without them") as caught:
        go(half, resume=True, steps=40)
    assert caught.value.path == str(losses)
    losses.unlink()
    assert resumed(half) == (20, [])
