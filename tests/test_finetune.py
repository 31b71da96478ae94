"""edgegen finetune, merge and compare, from photos to a proven bundle; what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from adapting import PEFT
from listeners import Heard
from PIL import Image
from runs import nothing
from sites import go, photo_files
from toys import shapes

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle, sha256
from edgegen.evidence import reference, small_sample_distance
from edgegen.evidence.features import feature_network
from edgegen.families import FAMILIES, family
from edgegen.training import digests
from edgegen.training import run as runs
from edgegen.training.adapt.files import TENSORS
from edgegen.training.data import Photos
from edgegen.training.run import RunSettings, train
from edgegen.workflows.finetune import periodic_eval
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.periodic_eval import doubted
from edgegen.workflows.finetune.setup import merge_small_classes
from edgegen.workflows.initial import open_initial

pytestmark = [PEFT, pytest.mark.slow, pytest.mark.export]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_files(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(periodic_eval, "EVALUATION_IMAGES", 16)
        patch.setattr(periodic_eval, "FINAL_IMAGES", 24)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, family_run: Callable[[str], Path]) -> Path:
    return family_run(request.param)


@pytest.fixture(scope="module")
def adapted(base: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "site"
    assert go(base, out, photos) == 0
    return out


def test_a_site_s_photos_become_a_proven_bundle(
    base: Path, adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fine-tune, merge, export --int8, verify: inside the budget, with hashes of base, adapter and
    photos, and no name of one.
    """
    merged, out = tmp_path / "merged", tmp_path / "bundle"
    assert run(["merge", str(adapted), "-o", str(merged), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0 <= said["max_abs_difference"] <= 1e-5
    _, one = runs.load(adapted)
    _, two = runs.load(merged)
    for name, tensor in two.shipped.state_dict().items():
        assert tensor.equal(one.shipped.state_dict()[name]), name
    classes = [
        json.loads((at / "run.json").read_text())["data"]["classes"] for at in (adapted, merged)
    ]
    assert classes == [["box", "disc"], ["0", "1"]], "names of folders stay at the site"
    bases = [
        {name.partition(".")[0] for name in open_base(str(found)).tensors}
        for found in (base, adapted, merged)
    ]
    assert bases[0] == bases[1] == bases[2], (
        "a run that adapts them again has the networks that never ship"
    )
    network = feature_network("efficientnet-lite0", size=tiny.SIZE)
    photos = reference.build(network(shapes(80, 16, seed=3).pixels), network, "photos", 8)
    digests.keep(adapted, {"reference.safetensors": photos.to_bytes()})
    # test_every_export.py has the others
    assert tiny.export(adapted, out, runtimes="onnxruntime") == 0
    assert run(["verify", str(out), *tiny.TERMS, "--threads", "1"]) == 0
    manifest = Bundle.open(out).manifest
    assert 0 <= manifest.evidence["adapter_max_abs"] <= 1e-5
    about = json.loads((adapted / "run.json").read_text())
    assert (
        manifest.source["base_sha256"]
        == about["adapt"]["base_sha256"]
        == sha256(adapted / "base.safetensors")
    )
    assert (
        manifest.source["adapter_sha256"]
        == sha256(adapted / "adapter" / TENSORS)
        == said["adapter_sha256"]
    )
    assert manifest.source["data"]["sha256"] == about["data"]["sha256"]
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert b"secret" not in path.read_bytes() and b"disc" not in path.read_bytes(), path


def test_an_adapted_run_is_a_start_with_its_adapter(adapted: Path) -> None:
    """Of `train --init`: plain tensors, the adapter in them, and networks that never ship too."""
    init = open_initial(str(adapted))
    _, made = runs.load(adapted)
    assert all(init.tensors[k].equal(v) for k, v in made.shipped.state_dict().items())
    assert init.tensors.keys() == open_base(str(adapted)).tensors.keys() and len(init.sha256) == 64
    assert init.config(family(init.about["family"])) == made.config


def test_what_a_run_leaves(adapted: Path) -> None:
    looked = json.loads((adapted / "looks.json").read_text())
    # looks begin with the last stage
    staged = json.loads((adapted / "run.json").read_text())["family"] in ("lcd", "dkgm")
    steps = [look["step"] for look in looked["watch"]["looks"]]
    assert steps[-1] == 12 and (steps[0] > 3 if staged else steps == [6, 12])
    last = looked["last"]
    assert last["ratio"]["low"] <= last["ratio"]["value"] <= last["ratio"]["high"]
    assert "efficientnet-lite0" in last["what"] and "24 images" in last["what"]
    small = sum(p.stat().st_size for p in (adapted / "adapter").iterdir())
    assert small < (adapted / "base.safetensors").stat().st_size / 2
    for path in (p for p in adapted.rglob("*") if p.is_file()):
        assert b"secret" not in path.read_bytes(), path


def test_two_runs_side_by_side(
    base: Path, adapted: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = base.with_name("other")
    assert go(base, other, photos, "--rank", "0", "--rate", "0.001") == 0
    assert not (other / "adapter").exists() and (other / "weights.safetensors").is_file()
    capsys.readouterr()
    assert run(["compare", str(adapted), str(other), "-o", str(tmp_path / "both.png")]) == 0
    said = capsys.readouterr().out
    assert "site" in said and "other" in said and " all " in said and "FD / base" in said
    assert np.asarray(Image.open(tmp_path / "both.png")).std() > 0


def test_generate_takes_an_adapted_run(adapted: Path, tmp_path: Path) -> None:
    assert run(["generate", str(adapted), "-n", "4", "-o", str(tmp_path / "a.png")]) == 0


# what is refused, on one family


@pytest.fixture(scope="module")
def cas_dm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "base"
    recipe = replace(family("cas-dm").recipes["tiny"](), images=8, batch=8, warmup=2)
    train(RunSettings("cas-dm", "tiny", recipe), shapes(64), folder, False, 24, nothing)
    return folder


@pytest.mark.parametrize(
    "more, code, said",
    [
        (["--base", "int4"], 2, "--base must be fp32, int8 or nf4, got 'int4'"),
        (
            ["--time", "1m"],
            2,
            "--steps and --time exclude each other: both set the length of the training",
        ),
        (
            ["--rank", "0", "--base", "nf4"],
            2,
            "--rank 0 trains every weight: --base and --recompute are for adapters",
        ),
        (["--held-out", "1.5"], 2, "--held-out must be above 0 and below 1, got 1.5"),
        (["--rate", "-1"], 2, "--rate must be above 0 and below 10, got -1.0"),
        (["--device", "tpu"], 2, "tpu"),
        (["-o", "elsewhere"], 2, "give the run folder once"),
    ],
)
def test_flags_that_make_no_sense(
    cas_dm: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    said: str,
) -> None:
    assert go(cas_dm, tmp_path / "out", photos, *more) == code
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_time_instead_of_steps(
    cas_dm: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "finetune",
        str(cas_dm),
        str(tmp_path / "out"),
        "--data",
        str(photos),
        "--threads",
        "1",
    ]
    assert run([*given, "--time", "soon"]) == 2
    assert "--time must be such as 90s, 45m or 2h, got 'soon'" in capsys.readouterr().err
    assert run([*given, "--time", "1s", "--looks", "1"]) == 0
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    steps = about["recipe"]["images"] // 32
    looks = f"{steps} steps of 32 photos fit into 1s, with 1 looks of 64 images"
    assert looks in capsys.readouterr().err
    assert about["finetune"]["looks"] == 1 and about["finetune"]["look_images"] == 64
    last = json.loads((tmp_path / "out" / "looks.json").read_text())["last"]
    assert last["images"] == 128 and last["scale"]["images"] <= 128
    # the time decided: the same command goes on with the run
    assert run([*given, "--time", "1s", "--looks", "3", "--resume"]) == 0


def test_what_is_said_at_the_end_is_in_the_record_and_in_json(
    cas_dm: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After twelve steps a toy draws nobody's products."""
    out = tmp_path / "out"
    assert go(cas_dm, out, photos) == 0
    said = capsys.readouterr()
    kept = json.loads((out / "looks.json").read_text())["last"]
    scale = kept["scale"]
    assert scale["far"] is True and scale["adapted"]["KID"]["value"] > scale["far_above"]
    assert scale["photos"]["KID"]["value"] < scale["blurred"]["KID"]["high"]
    assert [words.split(":")[0] for words in kept["warnings"]][-1] == "W-TUNE-FAR"
    assert "W-TUNE-FAR: these pictures are not your products yet" in said.err
    assert "these pictures are not your products yet" in said.out.splitlines()[-1]
    assert "edgegen export" not in said.out
    assert go(cas_dm, out, photos, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["last"] == kept


def test_bases_and_photos_that_are_not_there(
    cas_dm: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert go("cas-md", tmp_path / "out", photos) == 2
    assert "'cas-md' is no zoo name and no run" in capsys.readouterr().err
    assert go(cas_dm, tmp_path / "out", tmp_path / "nowhere") == 4
    assert "E-DATA-MISSING" in capsys.readouterr().err
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.rglob("*.png"))[:10]:
        shutil.copy(path, few)
    assert go(cas_dm, tmp_path / "out", few) == 4
    assert "10 photos, 16 are needed" in capsys.readouterr().err


def test_a_resume_knows_its_settings_and_is_held_to_them(
    cas_dm: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert go(cas_dm, out, photos, "--rank", "3", "--seed", "4") == 0
    before = {p.name: p.read_bytes() for p in (out / "adapter").iterdir()}
    resumed = [
        "finetune",
        str(cas_dm),
        str(out),
        "--data",
        str(photos),
        "--threads",
        "1",
        "--resume",
    ]
    assert run(resumed) == 0
    assert {p.name: p.read_bytes() for p in (out / "adapter").iterdir()} == before
    assert run([*resumed, "--rank", "2"]) == 2
    assert "the run was started with another adapt.rank" in capsys.readouterr().err
    assert go(cas_dm, out, photos) == 2
    assert "a run is there already" in capsys.readouterr().err


def test_small_classes_are_drawn_as_one() -> None:
    made = shapes(40)
    labels = np.repeat([0, 1, 2, 3], [20, 9, 8, 3])
    heard = Heard()
    four = Photos(made.pixels, labels, ("a", "b", "c", "d"))
    assert merge_small_classes(four, 1, heard) is four, "kept if the family allows it"
    assert heard.notes.pop() == (
        "W-CLASS-SMALL: these classes have few photos to learn from, but are learned: d (3)"
    )
    found = merge_small_classes(four, 8, heard)
    assert found.classes == ("a", "b", "other") and np.bincount(found.labels).tolist() == [
        20,
        9,
        11,
    ]
    assert heard.notes == [
        "W-CLASS-MERGED: this family needs 8 photos of each class, so these classes are merged "
        "into one class named other: d, c"
    ]
    assert (found.labels[labels == 1] == 1).all() and (found.labels[labels >= 2] == 2).all()
    same = Photos(made.pixels, labels % 2, ("a", "b"))
    assert merge_small_classes(same) is same
    gone = merge_small_classes(Photos(made.pixels, labels % 2, ("a", "b", "c")), 1, heard)
    assert gone.classes == ("a", "b") and (gone.labels == labels % 2).all()
    assert heard.notes[1:] == [
        "W-CLASS-GONE: these classes have no photo to train on, because all of them are held out: c"
    ], "it cannot be learned, and takes no other with it"


def test_a_run_that_ended_early_stays_ended(
    cas_dm: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert go(cas_dm, out, photos, "--looks", "6", "--patience", "1") == 0
    assert "ended early: 1 looks since step" in capsys.readouterr().err
    before = {p.name: p.read_bytes() for p in (*(out / "adapter").iterdir(), out / "metrics.jsonl")}
    assert len((out / "metrics.jsonl").read_text().splitlines()) < 12
    assert (
        run(
            [
                "finetune",
                str(cas_dm),
                str(out),
                "--data",
                str(photos),
                "--threads",
                "1",
                "--resume",
                "--time",
                "45m",
            ]
        )
        == 0
    )
    assert {
        p.name: p.read_bytes() for p in (*(out / "adapter").iterdir(), out / "metrics.jsonl")
    } == before


def test_an_adapter_that_fails_its_gate_is_not_left_to_be_used(
    cas_dm: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(
        "bitsandbytes", reason="bases are rounded by bitsandbytes, which is not installed"
    )
    out = tmp_path / "out"
    monkeypatch.setattr(periodic_eval, "VIEW_DB", 500.0)
    assert go(cas_dm, out, photos, "--base", "int8") == 3
    assert "E-BASE-VIEW" in capsys.readouterr().err
    assert (out / "rejected").is_dir() and not (out / "adapter").exists()
    assert run(["generate", str(out), "-n", "1", "-o", str(tmp_path / "a.png")]) == 4
    assert "this run's adapter failed its gate" in capsys.readouterr().err


def test_the_end_is_looked_at_once(cas_dm: Path, photos: Path, tmp_path: Path) -> None:
    """13 steps and two looks: at the sixth, and not at both the twelfth and the last."""
    assert go(cas_dm, tmp_path / "out", photos, "--steps", "13") == 0
    looked = json.loads((tmp_path / "out" / "looks.json").read_text())["watch"]["looks"]
    assert [look["step"] for look in looked] == [6, 13]


def test_an_adapter_that_gained_nothing_says_so() -> None:
    assert doubted({"value": 0.5, "low": 0.4, "high": 0.6}) == "" == doubted(None)
    assert "farther from your photos than what the base draws" in doubted(
        {"value": 1.3, "low": 1.2, "high": 1.4}
    )
    assert "not measurably nearer to your photos" in doubted(
        {"value": 0.95, "low": 0.8, "high": 1.1}
    )


def test_a_base_that_is_there_already_has_no_ratio() -> None:
    rng = np.random.default_rng(0)
    made, held = (rng.normal(size=(n, 12)).astype(np.float32) for n in (40, 30))
    near = small_sample_distance.frechet(made, held, small_sample_distance.directions(made, 30))
    far = small_sample_distance.frechet(made + 9, held, small_sample_distance.directions(made, 30))
    assert periodic_eval._ratio(near, far) is None and periodic_eval.ratio_text(None).startswith(
        "not told"
    )
    found = periodic_eval._ratio(far, near)
    assert found is not None and found["value"] < 0.1


def test_merge_and_compare_want_adapted_runs(
    cas_dm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["merge", str(cas_dm), "-o", str(tmp_path / "m")]) == 2
    assert "this is not a run of `edgegen finetune` with an adapter" in capsys.readouterr().err
    assert run(["compare", str(cas_dm)]) == 2
    assert "this is not a run of `edgegen finetune`" in capsys.readouterr().err
