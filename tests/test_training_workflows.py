"""Training, fine-tuning and photos as library functions: a program that imports workflows and no
command line; what they return, and that they print nothing.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapting import PEFT
from bad_photos import picture
from listeners import Heard
from sites import photo_files

from edgegen.cli.main import run
from edgegen.errors import InputError, UsageError
from edgegen.workflows.estimate import EstimateSettings, estimate_training
from edgegen.workflows.finetune.adapt import finetune
from edgegen.workflows.finetune.settings import FinetuneSettings, RecoverSettings
from edgegen.workflows.photos import PhotosSettings, check_photos
from edgegen.workflows.train import TrainSettings, train

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT / "tests" / "data" / "photos"

PROGRAM = """
import json, sys
from pathlib import Path
from edgegen.workflows.estimate import EstimateSettings, estimate_training
from edgegen.workflows.finetune import periodic_eval
from edgegen.workflows.finetune.adapt import finetune
from edgegen.workflows.finetune.compare import compare_runs
from edgegen.workflows.finetune.merge import merge_adapter
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.photos import PhotosSettings, check_photos
from edgegen.workflows.train import TrainSettings, train

photos, out = Path(sys.argv[1]), Path(sys.argv[2])
periodic_eval.EVALUATION_IMAGES = periodic_eval.FINAL_IMAGES = 24  # so that it takes seconds
shown = check_photos(photos, PhotosSettings(size=16, contact_sheet=out / "sheet.png"))
assert shown.enough()[0], shown.enough()
size = estimate_training("cas-dm", "tiny", EstimateSettings(threads=1))
tiny = TrainSettings(recipe="tiny", images=64, batch=8, threads=1)
trained = train("cas-dm", out / "base", photos, tiny)
again = TrainSettings(resume=True)
assert train("cas-dm", out / "base", photos, again).weights == trained.weights
steps = FinetuneSettings(steps=4, batch=8, evaluations=1, held_out=0.25, rank=2, threads=1)
adapted = finetune(out / "base", out / "site", photos, steps)
compared = compare_runs([adapted.out], out / "compared.png")
merged = merge_adapter(adapted.out, out / "merged")
results = {"photos check": shown, "estimate": size, "train": trained, "finetune": adapted,
           "compare": compared, "merge": merged}
assert not {"typer", "edgegen.cli"} & set(sys.modules)
(out / "results.json").write_text(json.dumps({k: v.to_json() for k, v in results.items()}))
"""


@pytest.mark.slow
@PEFT
def test_a_program_does_what_the_verbs_do_and_nothing_is_printed(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo_files(photos)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(photos), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["train"]["out"] == str(tmp_path / "base")
    assert results["photos check"]["usable"] and (tmp_path / "sheet.png").is_file()
    assert results["estimate"]["peak_bytes"] > 0
    assert results["finetune"]["watch"]["looks"][-1]["step"] == 4
    assert results["compare"]["compared"][0]["run"] == str(tmp_path / "site")
    assert 0 <= results["merge"]["max_abs_difference"] <= 1e-5


@pytest.mark.slow
def test_a_training_tells_its_listener_and_leaves_torch_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    photos, out = tmp_path / "photos", tmp_path / "run"
    for k in range(20):
        (photos / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        picture(k).save(photos / "ab"[k % 2] / f"{k}.png")
    (photos / "a" / "broken.png").write_bytes(b"")
    heard, before = Heard(), torch.get_num_threads()
    settings = TrainSettings(recipe="tiny", images=16, batch=8, threads=before + 1)
    trained = train("cas-dm", str(out), str(photos), settings, heard)
    assert heard.labels == ["reading photos", "training cas-dm", "reference statistics"]
    assert heard.notes == [
        "understood: 2 classes, a and b",
        "not used: a/broken.png: E-IMG-EMPTY the file has 0 bytes",
    ]
    assert torch.get_num_threads() == before
    assert json.loads((out / "run.json").read_text())["threads"] == before + 1
    assert trained.images == 16 and trained.weights.is_file() and trained.rank == 0
    assert capfd.readouterr() == ("", "")


def test_settings_that_cannot_be_are_refused_where_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--fit must be pad or crop, got 'bucket'"):
        TrainSettings(fit="bucket")
    with pytest.raises(UsageError, match="--on-bad must be skip or fail, got 'ask'"):
        TrainSettings(on_bad="ask")
    with pytest.raises(UsageError, match="--base must be fp32, int8 or nf4, got 'int4'"):
        FinetuneSettings(precision="int4")
    with pytest.raises(UsageError, match="--steps and --time exclude each other"):
        FinetuneSettings(steps=3, time="2h")
    kinds: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (TrainSettings, ("images", "batch", "keep")),
        (FinetuneSettings, ("size", "steps", "batch", "evaluations", "patience")),
        (RecoverSettings, ("rank", "steps", "batch")),
        (EstimateSettings, ("images", "batch")),
    )
    for settings, names in kinds:
        for name in names:
            with pytest.raises(UsageError, match=f"{name} must be 1 or more, got 0"):
                settings(**{name: 0})
    with pytest.raises(UsageError, match="--rate must be above 0 and below 10, got nan"):
        RecoverSettings(rate=math.nan)
    with pytest.raises(UsageError, match="--held-out must be above 0 and below 1"):
        PhotosSettings(held_out=1.5)
    with pytest.raises(UsageError, match="--contact-sheet must be a"):
        PhotosSettings(contact_sheet=tmp_path / "sheet.jpg")
    with pytest.raises(UsageError, match="is no zoo name and no run"):
        finetune("cas-md", tmp_path / "out", PHOTOS)


def test_a_folder_that_no_training_takes_has_a_report_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    report = check_photos(tmp_path)
    assert isinstance(report.refusal, InputError) and report.refusal.code == "E-DATA-BAD"
    assert not report.to_json()["usable"] and report.refusal.details == report.to_json()
    assert report.enough() == (False, "not with this folder")
    assert capfd.readouterr() == ("", "")


def test_an_estimate_follows_its_settings() -> None:
    own = estimate_training("cas-dm", "tiny", EstimateSettings(threads=1))
    other = EstimateSettings(batch=2 * own.recipe.batch, changes=("steps=3",), threads=1)
    larger = estimate_training("cas-dm", "tiny", other)
    assert larger.recipe.config.steps == 3 != own.recipe.config.steps
    assert larger.size.memory["activations"] > own.size.memory["activations"]
    with pytest.raises(UsageError, match="cas-dm has no recipe 'no'"):
        estimate_training("cas-dm", "no")


@pytest.mark.parametrize(
    ("line", "flag", "verb"),
    [
        (["finetune", "--compare", "a", "b", "-o", "c.png"], "--compare", "edgegen compare RUN"),
        (["finetune", "a", "b", "--recover", "plan.json"], "--recover", "edgegen recover BASE RUN"),
        (["train", "lcd", "--dry-run"], "--dry-run", "edgegen estimate FAMILY"),
    ],
)
def test_an_old_spelling_names_the_new_verb(
    line: list[str], flag: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    said = capsys.readouterr().err
    assert f"error[E-MOVED] edgegen {line[0]} no longer has the option {flag} - use {verb}" in said
