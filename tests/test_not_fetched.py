"""Pointers of Git LFS and git-annex in the place of weights: whatever reads them says what they are
and what fetches the content.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from photo_folders import several, write

from edgegen.cli.main import run
from edgegen.core.reader import POINTERS, pointer, read_bytes
from edgegen.errors import NotFetched
from edgegen.training import checkpoint
from edgegen.training.data import survey
from edgegen.training.layout.understand import understand

LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
ANNEX = "/annex/objects/SHA256E-s12345--4d7a214614ab2935c943f9e0ff69d22eadbb8f32.safetensors\n"
SAID = "it is a Git LFS pointer, not the file itself"
HINT = "run `git lfs pull` where it was cloned"


class Doors:
    """Places in which a pointer may lie, and the words that have it read."""

    def __init__(self, root: Path, runs: Path) -> None:
        self.root, self.run = root, shutil.copytree(runs, root / "run")
        self.photos = write(root / "photos", several("{}.png", 20))

    def train(self, *words: str) -> list[str]:
        tiny = ["--recipe", "tiny", "--images", "8", "--threads", "1"]
        return ["train", "cas-dm", str(self.root / "x"), "--data", str(self.photos), *tiny, *words]

    def put(self, name: str) -> Path:
        return write(self.root, {name: LFS}) / name


DOORS: dict[str, Callable[[Doors], tuple[Path, list[str]]]] = {
    "a run's weights": lambda at: (
        at.put("run/weights.safetensors"),
        ["generate", str(at.run), "-o", str(at.root / "x.png")],
    ),
    "a run's description": lambda at: (
        at.put("run/run.json"),
        ["generate", str(at.run), "-o", str(at.root / "x.png")],
    ),
    "a run's digests": lambda at: (
        at.put("run/digests.json"),
        ["generate", str(at.run), "-o", str(at.root / "x.png")],
    ),
    "a base": lambda at: (
        at.put("run/weights.safetensors"),
        ["finetune", str(at.run), str(at.root / "x"), "--data", str(at.photos)],
    ),
    "--init": lambda at: (at.put("run/weights.safetensors"), at.train("--init", str(at.run))),
    "--feature-weights": lambda at: (
        at.put("w.safetensors"),
        at.train("--feature-weights", str(at.root / "w.safetensors")),
    ),
    "--reference": lambda at: (
        at.put("r.safetensors"),
        [
            *["export", str(at.run), "--int8", "-o", str(at.root / "x")],
            *["--reference", str(at.root / "r.safetensors")],
        ],
    ),
    "an ONNX file": lambda at: (
        at.put("model.onnx"),
        ["generate", str(at.root / "model.onnx"), "-o", str(at.root / "x.png")],
    ),
    "an ONNX file to lint": lambda at: (
        at.put("model.onnx"),
        ["lint", str(at.root / "model.onnx"), "--runtime", "onnxruntime"],
    ),
    "a diffusers folder": lambda at: (
        at.put("pipe/model_index.json"),
        ["generate", str(at.root / "pipe"), "-o", str(at.root / "x.png")],
    ),
    "a bundle's manifest": lambda at: (
        at.put("bundle/manifest.json"),
        ["verify", str(at.root / "bundle")],
    ),
    "an archive of photos": lambda at: (
        at.put("photos.zip"),
        ["photos", "check", str(at.root / "photos.zip")],
    ),
    "a table of photos": lambda at: (
        at.put("photos/metadata.csv"),
        ["photos", "check", str(at.photos)],
    ),
    "a shard": lambda at: (
        at.put("shards/0.tar"),
        ["train", "cas-dm", str(at.root / "x"), "--data", str(at.root / "shards")],
    ),
    "an IDX file": lambda at: (
        write(at.root, {"idx/train-labels-idx1-ubyte": "x"})
        and at.put("idx/train-images-idx3-ubyte"),
        ["photos", "check", str(at.root / "idx")],
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_names_a_pointer(
    door: str, tmp_path: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, words = DOORS[door](Doors(tmp_path, tiny_run))
    assert run(words) == 4
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said == f"error[E-NOT-FETCHED] {SAID} ({file}) - {HINT}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
        "base.safetensors",
        "measured.safetensors",
    ],
)
def test_parts_of_an_adapted_run(name: str, tuned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = (tuned / name).read_bytes()
    (tuned / name).write_text(LFS)
    assert run(["generate", str(tuned), "-o", str(tuned.parent / "x.png")]) == 4
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said == f"error[E-NOT-FETCHED] {SAID} ({tuned / name}) - {HINT}"
    (tuned / name).write_bytes(kept)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter."""
    adapters = pytest.importorskip("adapters")
    return Path(adapters.run("cas-dm", tmp_path_factory.mktemp("tuned") / "run", 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "shoes.safetensors"]
)
def test_parts_of_a_diffusers_folder_and_what_is_added_to_it(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    from bring_toys import unconditional

    folder = unconditional(tmp_path / "pipe")
    (folder / name).write_text(LFS)
    words = ["generate", str(folder), "-o", str(tmp_path / "x.png")]
    if name == "shoes.safetensors":
        words += ["--lora", str(folder / name)]
    assert run(words) == 4
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said == f"error[E-NOT-FETCHED] {SAID} ({folder / name}) - {HINT}"


def test_a_checkpoint_that_was_not_fetched_is_not_passed_over(half: Path) -> None:
    """A damaged one gives way to the one before; this one can be had."""
    import runs

    newest = checkpoint.newest(half)
    assert newest is not None
    for part in newest.glob("*.safetensors"):
        part.write_text(LFS)
    with pytest.raises(NotFetched, match="Git LFS"):
        runs.go(half, resume=True)


def test_git_annex_is_told_from_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text(ANNEX)
    (tmp_path / "link").symlink_to(f".git{ANNEX.strip()}")
    for name in ("w.safetensors", "link"):
        with pytest.raises(NotFetched, match="it is a git-annex pointer") as caught:
            read_bytes(tmp_path / name, 10)
        assert caught.value.exit_code == 4 and "`git annex get`" in caught.value.hint
    assert pointer(b"version 1") is None and pointer(b"") is None
    assert {pointer(start) for start in POINTERS} == set(POINTERS.values())


def test_a_run_whose_weights_are_annexed_links(
    tmp_path: Path, tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A link that leads nowhere is no run that has not ended."""
    for name in ("weights.safetensors", "run.json"):
        copied = shutil.copytree(tiny_run, tmp_path / name)
        (copied / name).unlink()
        (copied / name).symlink_to(f"../.git{ANNEX.strip()}")
        assert run(["generate", str(copied), "-o", str(tmp_path / "x.png")]) == 4
        assert "git annex get" in capfd.readouterr().err


def test_photos_that_were_not_fetched(tmp_path: Path) -> None:
    root = write(tmp_path / "p", {**several("{}.png", 3), "a.jpg": LFS, "b.jpg": ANNEX})
    (root / "c.jpg").symlink_to(f".git{ANNEX.strip()}")
    said = {bad.name: (bad.code, bad.reason) for bad in survey(root, 16).report.bad}
    assert said == {
        "a.jpg": ("E-IMG-NOT-IMAGE", "this is a Git LFS pointer; run `git lfs pull`"),
        "b.jpg": ("E-IMG-NOT-IMAGE", "this is a git-annex pointer; run `git annex get`"),
        "c.jpg": (
            "E-IMG-NOT-IMAGE",
            "it is a git-annex link whose content is not here; run `git annex get`",
        ),
    }
    assert understand(root, follow_links=True).bad[0].reason == said["c.jpg"][1]
