"""What a resumed run does with the choices of what its photos are: as it was begun, and another
choice is refused by name before a photo is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from photo_folders import several, write

from edgegen.cli.main import run
from edgegen.errors import UsageError
from edgegen.training.pool import Pool
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.finetune.setup import choose
from edgegen.workflows.train import TrainSettings, train

pytestmark = pytest.mark.slow
Captured = pytest.CaptureFixture[str]
FLAGS = ["--no-classes", "--follow-links", "--max-megapixels", "100"]
BEGUN: dict[str, Any] = {"no_classes": True, "follow_links": True, "max_megapixels": 100}
# flag -> setting that is another choice than that of a run begun with all, and with none
OTHER: dict[str, tuple[Any, Any]] = {
    "classes": (True, False),
    "follow_links": (False, True),
    "max_megapixels": (200, 100),
}
SAID = {
    "classes": "--no-classes",
    "follow_links": "--follow-links",
    "max_megapixels": "--max-megapixels",
}


def words(root: Path, out: Path, *more: str) -> list[str]:
    tiny = ["--recipe", "tiny", "--images", "16", "--batch", "8", "--threads", "1"]
    return ["train", "cas-dm", str(out), "--data", str(root / "photos"), *tiny, *more]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mixed photos, some of them links: two runs, one begun with all flags and one with none."""
    root = tmp_path_factory.mktemp("site")
    photos = write(root / "photos", several("chair/{}.png", 12) | several("sofa/{}.png", 4, 20))
    assert run(words(root, root / "none")) == 0
    write(photos, {"cover.png": 40, ".store/0.png": 50, ".store/1.png": 51})
    for k in range(2):
        (photos / "sofa" / f"link{k}.png").symlink_to(f"../.store/{k}.png")
    assert run(words(root, root / "all", *FLAGS)) == 0
    return root


def test_a_run_knows_how_it_was_begun(site: Path, capfd: Captured) -> None:
    """Without the flags it reads the same photos, which it would not read so by itself."""
    about = json.loads((site / "all" / "run.json").read_text())["data"]
    assert {name: about[name] for name in BEGUN} == BEGUN
    assert about["images"] == 19 and about["classes"] == []
    before = (site / "all" / "weights.safetensors").read_bytes()
    assert run(words(site, site / "all", "--resume")) == 0
    assert "understood: 19 photos without classes" in capfd.readouterr().err
    assert run(words(site, site / "all", "--resume", *FLAGS)) == 0
    assert (site / "all" / "weights.safetensors").read_bytes() == before
    plain = json.loads((site / "none" / "run.json").read_text())["data"]
    assert plain["classes"] == ["chair", "sofa"] and not BEGUN.keys() & plain.keys()


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("begun", ["all", "none"])
def test_another_choice_is_refused_by_name(
    begun: str, name: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> Any:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr(Pool, "map", decode)
    settings = TrainSettings(resume=True, **{name: OTHER[name][begun == "none"]})
    with pytest.raises(UsageError, match="E-RESUME-MISMATCH") as caught:
        train("cas-dm", site / begun, site / "photos", settings)
    number = " 100" if name == "max_megapixels" and begun == "all" else ""
    how = "with" if begun == "all" else "without"
    assert caught.value.message == f"the run was started {how} {SAID[name]}{number}"
    assert "leave the option out" in caught.value.hint


def test_the_command_line_says_it_too(site: Path, capfd: Captured) -> None:
    assert run(words(site, site / "none", "--resume", "--no-classes")) == 2
    assert "the run was started without --no-classes" in capfd.readouterr().err


@pytest.mark.parametrize("begun", ["all", "none"])
def test_fine_tuning_is_held_to_the_same(begun: str, tmp_path: Path) -> None:
    base = open_base("cas-dm")
    first: dict[str, Any] = {"classes": False, "follow_links": True, "max_megapixels": 100}
    chosen = choose(FinetuneSettings(**(first if begun == "all" else {})), None, base)
    about = {"family": "cas-dm", "finetune": chosen.to_json()}
    (tmp_path / "run.json").write_text(json.dumps(about))
    assert choose(FinetuneSettings(resume=True), tmp_path, base) == chosen
    if begun == "all":
        assert choose(FinetuneSettings(resume=True, **first), tmp_path, base) == chosen
    for name, others in OTHER.items():
        settings = FinetuneSettings(resume=True, **{name: others[begun == "none"]})
        with pytest.raises(UsageError, match=f"E-RESUME-MISMATCH.* {SAID[name]}"):
            choose(settings, tmp_path, base)
