"""`edgegen train`: naming the run, resuming it without repeating its settings, one objective from
another run's weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edgegen.cli.main import run
from edgegen.core.files import read_json, to_json
from edgegen.training import digests

pytestmark = pytest.mark.slow

DATA = str(Path(__file__).parent / "data" / "photos")
Capture = pytest.CaptureFixture[str]


def train(*flags: str, family: str = "cas-dm") -> int:
    return run(["train", family, "--data", DATA, *flags])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("verb") / "run"
    flags = [
        "--recipe",
        "tiny",
        "--images",
        "64",
        "--seed",
        "3",
        "--threads",
        "1",
        "--set",
        "steps=3",
    ]
    assert train("--out", str(out), *flags) == 0
    return out


def test_a_run_is_resumed_by_its_name_alone(first: Path, tmp_path: Path, capfd: Capture) -> None:
    """Recipe, images, seed and threads are the run's own; the folder is an argument or --out."""
    out = tmp_path / "run"
    shutil.copytree(first, out)
    before = (out / "run.json").read_bytes()
    (out / "weights.safetensors").unlink()
    for named in ([str(out)], ["--out", str(out)]):
        assert train("--resume", *named) == 0
        assert (out / "run.json").read_bytes() == before
        assert (out / "weights.safetensors").read_bytes() == (
            first / "weights.safetensors"
        ).read_bytes()
    changes = (
        ("--seed", "4", "seed"),
        ("--images", "128", "recipe.images"),
        ("--set", "steps=5", "config.steps"),
    )
    for flag, value, name in changes:
        assert train("--resume", str(out), flag, value) == 2
        assert (
            f"E-RESUME-MISMATCH] the run was started with another {name}" in capfd.readouterr().err
        )
    assert run(["train", "isc-gan", "--data", DATA, "--resume", str(out), "--recipe", "tiny"]) == 2
    assert "E-RESUME-MISMATCH" in capfd.readouterr().err


def test_the_run_is_named_once(tmp_path: Path, capfd: Capture) -> None:
    for flags in ([], [str(tmp_path / "a"), "--out", str(tmp_path / "b")]):
        assert train(*flags) == 2
        assert "E-USAGE] give the run folder once" in capfd.readouterr().err


@pytest.mark.parametrize("about", [{"recipe": {"images": "many"}}, {"seed": -1.5}, {"config": 3}])
def test_a_damaged_description_is_refused(about: Any, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    assert train("--resume", str(tmp_path / "run"), "--recipe", "tiny") == 4
    assert "E-RUN] not a run's description" in capfd.readouterr().err


def test_one_objective_starts_from_another_run(first: Path, tmp_path: Path, capfd: Capture) -> None:
    out = tmp_path / "run"
    flags = [
        "--recipe",
        "tiny",
        "--images",
        "64",
        "--threads",
        "1",
        "--only",
        "phi",
        "--init",
        str(first),
    ]
    assert train(str(out), *flags, "--set", "mode=frozen") == 0
    start = load_file(next(first.glob("step-*")) / "average.safetensors")
    end = load_file(out / "weights.safetensors")
    theta = [k for k in start if k.startswith("theta")]
    assert theta and all(torch.equal(start[k], end[k]) for k in theta)
    assert any(not torch.equal(start[k], end[k]) for k in start if k.startswith("phi"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["images", "phi", "step"]] * 4
    about = read_json(out / "run.json")
    assert about["only"] == "phi" and len(about["init"]) == 64
    assert train("--resume", str(out)) == 0  # neither --only nor --init has to be said again
    assert train("--resume", str(out), "--only", "theta") == 2
    assert "the run was started with another only" in capfd.readouterr().err
    shutil.rmtree(next(out.glob("step-*")))
    for name in ("latest", "weights.safetensors", digests.FILE):  # as if killed before it
        (out / name).unlink()
    assert train("--resume", str(out)) == 2
    assert "E-INIT] the run ended before its first checkpoint" in capfd.readouterr().err
    assert train("--resume", str(out), "--init", str(first)) == 0


def test_what_goes_on_from_trained_weights_needs_them(
    first: Path, tmp_path: Path, capfd: Capture
) -> None:
    """And takes their size: the recipe's own says nothing of a generator of somebody else's."""
    flags = ["--images", "32", "--batch", "8", "--threads", "1"]
    qat = ["--recipe", "qat32", *flags]
    assert train(str(tmp_path / "qat"), *qat, family="isc-gan") == 2
    assert (
        "E-INIT] qat32 trains a finished generator on - give a run folder or a zoo name with "
        "--init" in capfd.readouterr().err
    )
    assert train(str(tmp_path / "qat"), *qat, "--init", str(first), family="isc-gan") == 2
    assert "E-SOURCE] --init is a generator of the family cas-dm, not of isc-gan" in (
        capfd.readouterr().err
    )
    assert train(str(tmp_path / "qat"), *qat, "--init", "isc-gan", family="isc-gan") == 4
    said = capfd.readouterr().err
    assert "E-DATA-CLASSES] the generator has 10 classes, but the photos have" in said
    assert not (tmp_path / "qat").exists()
    assert train(str(tmp_path / "gan"), "--recipe", "tiny", *flags, family="isc-gan") == 0
    assert (
        train(str(tmp_path / "qat"), *qat, "--init", str(tmp_path / "gan"), family="isc-gan") == 0
    )
    before, after = (load_file(tmp_path / name / "weights.safetensors") for name in ("gan", "qat"))
    assert before.keys() == after.keys() and any(
        not torch.equal(v, after[k]) for k, v in before.items()
    )
    about, own = (read_json(tmp_path / name / "run.json")["config"] for name in ("qat", "gan"))
    assert about == own | {"qat": True}


def test_a_run_of_before_a_setting_was_there_goes_on(tmp_path: Path, capfd: Capture) -> None:
    run = tmp_path / "gan"
    assert (
        train(str(run), "--recipe", "tiny", "--images", "32", "--threads", "1", family="isc-gan")
        == 0
    )
    about = read_json(run / "run.json")
    for changed, code in (({}, 0), ({"ratio": 8}, 2)):
        config = {k: v for k, v in about["config"].items() if k != "qat"} | changed
        digests.keep(run, {"run.json": to_json(about | {"config": config})})
        assert (
            train(
                "--resume",
                str(run),
                "--recipe",
                "tiny",
                "--images",
                "32",
                "--threads",
                "1",
                family="isc-gan",
            )
            == code
        )
    assert "the run was started with another config.ratio" in capfd.readouterr().err


def test_what_cannot_be_started_from_is_refused(
    first: Path, tmp_path: Path, capfd: Capture
) -> None:
    for init, told in ((str(tmp_path), "E-SOURCE] --init"), (str(first), "E-KEYS]")):
        assert train(
            str(tmp_path / "run"),
            "--recipe",
            "tiny",
            "--images",
            "64",
            "--init",
            init,
            family="isc-gan",
        ) in (2, 4)
        assert told in capfd.readouterr().err
    assert train(str(tmp_path / "run"), "--recipe", "tiny", "--only", "critic") == 2
    assert (
        "E-OBJECTIVE] there is no objective 'critic'; known: theta, phi" in capfd.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_the_zoo_is_a_start_too(tmp_path: Path, capfd: Capture) -> None:
    """Of another size, it is refused for its tensors, not for its name."""
    assert train(str(tmp_path / "run"), "--recipe", "tiny", "--init", "cas-dm") == 4
    assert "E-KEYS]" in capfd.readouterr().err
