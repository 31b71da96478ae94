"""The main job end to end, as a user types it: run -> proven bundle -> images; and every way it
says no.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from filelock import FileLock
from PIL import Image
from test_bundle import bundle

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.images import to_uint8
from edgegen.core.temporary import PREFIX
from edgegen.errors import UsageError
from edgegen.export import executing, packages, runtime
from edgegen.workflows.export.run import ExportSettings, export_bundle
from edgegen.workflows.plans import read_plan

pytestmark = pytest.mark.export

NAMES = tiny.RUNTIMES.split(",")
QUICKLY = ("--threads", "1", "--runtime", "onnxruntime", *tiny.TERMS)
Capture = pytest.CaptureFixture[str]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_bundle_holds_its_whole_evidence(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    assert list(manifest.runtimes) == sorted(NAMES)
    evidence = manifest.evidence
    assert (
        set(evidence["fp32_torch_max_abs"]) == {"theta", "phi"}
        and max(evidence["fp32_torch_max_abs"].values()) <= 1e-4
    )
    assert evidence["fp32_same_pixels"] >= 0.999 and evidence["baseline"] in evidence["fp32"]
    for name in NAMES:
        found = evidence["runtimes"][name]
        assert found["verdict"] == "within" and found["images"] == 500 and found["budget"] == 1.0
        assert found["change"]["low"] <= found["change"]["value"] <= found["change"]["high"]
        assert found["psnr_db"] > 20 and set(found["referee"]) == {"theta", "phi"}
        assert 0 < found["size_ratio"] < 1 and found["size"] == tiny.SIZE, (
            "of the files, and of the images features look at"
        )
        assert found["first_seed"] > manifest.calibration["samples"], (
            "what chose the scales must not judge them"
        )
        assert found["executed_by"] == executing(runtime(name)).name
        assert (found["latency"] is not None) == (found["executed_by"] == name)
    coverage = manifest.calibration["samples_at_timestep"]
    assert coverage == {
        k: {str(t): 32 for t in tiny.generator().sampler.timesteps} for k in ("theta", "phi")
    }
    assert pixels(tiny_bundle / "evidence" / "same-seeds.png").std() > 10
    if "tensorrt-rtx" in NAMES:
        assert [n for n in manifest.files if n.endswith(".SM89.engine")] and manifest.runtimes[
            "tensorrt-rtx"
        ].code


def test_its_model_card_says_what_the_manifest_says(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    card = (tiny_bundle / "README.md").read_text()
    assert card.startswith(
        '---\nlibrary_name: edgegen\nlicense: other\nlicense_name: "the owner\'s"\n'
    )
    assert "Makes images of 16 x 16 pixels from seeds. Licence: the owner's." in card
    assert (
        "It holds no training photos and no features of them." in card
        and manifest.evidence["machine"]["cpu"] in card
    )
    for name, found in manifest.evidence["runtimes"].items():
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert f"{found['change']['value']:+.2%}" in row and row.endswith(
            f"{found['executed_by']} |"
        )


def test_nothing_of_this_machine_or_the_site_is_in_it(tiny_bundle: Path, tiny_run: Path) -> None:
    here = [
        str(tiny_run.parent),
        str(tiny_bundle.parent),
        str(Path(__file__).resolve().parent),
        "site-packages",
        sys.prefix,
    ]
    for path in tiny_bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert [h for h in here if h.encode() in data] == [], path


def test_verify_and_bench_say_so_in_json(tiny_bundle: Path, capfd: Capture) -> None:
    assert run(["verify", str(tiny_bundle), "--files-only"]) == 0
    assert "files verified" in capfd.readouterr().out
    assert run(["verify", str(tiny_bundle), *QUICKLY, "--json"]) == 0
    verified = json.loads(capfd.readouterr().out)
    assert verified["ok"] and abs(verified["drift"]["onnxruntime"]) < 1e-3
    assert run(["bench", str(tiny_bundle), "--rounds", "5", "--batch", "2", "--json"]) == 0
    timed = json.loads(capfd.readouterr().out)
    assert {"onnxruntime INT8", "onnxruntime FP32"} <= set(timed["latency"])
    assert set(timed["skipped"]) == {n for n in NAMES if runtime(n).cannot_run()}


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_images_of_a_bundle_are_those_of_torch_in_any_batch(
    precision: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """FP32 within a level on nearly all pixels; INT8 near it; a bundle makes one image as it makes
    ten.
    """
    flags = ["--seed", "7", "--precision", precision, "--runtime", "onnxruntime"]
    assert run(["generate", str(tiny_bundle), *flags, "-n", "10", "-o", str(tmp_path / "ten")]) == 0
    made = np.stack([pixels(tmp_path / "ten" / f"{seed:08d}.png") for seed in range(7, 17)])
    wanted = to_uint8(tiny.torch_images()(range(7, 17)))
    difference = np.abs(made.astype(int) - wanted)
    assert (difference <= 1).mean() > 0.999 if precision == "fp32" else difference.mean() < 16
    assert (
        run(
            [
                "generate",
                str(tiny_bundle),
                "--seed",
                "9",
                *flags[2:],
                "-n",
                "1",
                "-o",
                str(tmp_path / "one"),
            ]
        )
        == 0
    )
    # a batch of another size may sum in another order: a pixel moves by a level here and there
    alone = np.abs(pixels(tmp_path / "one" / "00000009.png").astype(int) - made[2])
    assert alone.max() <= 1 and (alone == 0).mean() > 0.99


def test_a_run_generates_too(tiny_run: Path, tmp_path: Path) -> None:
    assert run(["generate", str(tiny_run), "-n", "4", "-o", str(tmp_path / "grid.png")]) == 0
    assert pixels(tmp_path / "grid.png").shape == (2 * 34, 2 * 34, 3)


def test_the_same_export_twice_is_the_same_files(
    tiny_run: Path, tmp_path: Path, capfd: Capture
) -> None:
    """All but the evidence, which holds timings; the second finds what the first one's search has
    noted. Engines are left out: on a loaded machine one in some dozens has differed.
    """
    places = (tmp_path / "first", tmp_path / "second")
    assert [tiny.export(tiny_run, out, runtimes="onnxruntime,openvino") for out in places] == [0, 0]
    first, second = (Bundle.open(out).manifest for out in places)
    kept, again = (
        [name for name in manifest.files if name.startswith(("graphs/", "int8/"))]
        for manifest in (first, second)
    )
    assert kept == again
    assert [name for name in again if first.files[name] != second.files[name]] == []
    assert first.calibration == second.calibration and first.calibration["search"]
    assert first.sampler == second.sampler
    search = read_plan(places[1], "openvino").search
    assert search is not None and {"time of each layer", "damage of each layer"} <= {
        step["step"] for step in search.steps
    }
    assert all(one["plan"] and one["why"] for one in search.unasked)
    capfd.readouterr()
    assert run(["plan", "show", str(places[1]), "--runtime", "openvino"]) == 0
    said = capfd.readouterr().out
    assert "measured: each along whole trajectories." in said and "took" in said
    assert ("plans that were not tried" in said) == bool(search.unasked)


def test_a_budget_that_does_not_hold_leaves_nothing_under_the_name(
    tiny_run: Path, tmp_path: Path, capfd: Capture
) -> None:
    out = tmp_path / "b"
    bundle(tmp_path / "rejected" / "b")  # of an earlier try: it is replaced
    assert tiny.export(tiny_run, out, runtimes="onnxruntime", budget="0.0001%") == 3
    said = capfd.readouterr()
    assert (
        "error[E-GATE] onnxruntime " in said.err
        and "nothing was written under the name asked for" in said.err
    )
    assert "onnxruntime INT8" in said.out, "the table is shown all the same"
    assert left(tmp_path) == ["rejected"]
    kept = Bundle.open(tmp_path / "rejected" / "b").manifest
    assert kept.evidence["runtimes"]["onnxruntime"]["verdict"] in ("outside", "undecided")


def test_what_is_there_stays_until_it_is_told_to_go(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(request: Any) -> Any:
        shutil.copytree(tiny_bundle, request.folder, dirs_exist_ok=True)

    monkeypatch.setattr("edgegen.workflows.export.run._export", exported)
    bundle(out := tmp_path / "b")
    before = (out / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match="E-OUT-EXISTS"):
        export_bundle(tiny_run, out)
    assert (out / MANIFEST).read_bytes() == before
    export_bundle(tiny_run, out, ExportSettings(overwrite=True))
    assert (out / MANIFEST).read_bytes() == (tiny_bundle / MANIFEST).read_bytes()
    assert left(tmp_path) == ["b"]
    (other := tmp_path / "photos").mkdir()
    (other / "a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError):
        export_bundle(tiny_run, other, ExportSettings(overwrite=True))
    assert left(other) == ["a.jpg"], "a folder that is not ours stays"


def test_two_exports_into_one_folder(tiny_run: Path, tmp_path: Path, capfd: Capture) -> None:
    with FileLock(tmp_path / "b.lock"):
        assert tiny.export(tiny_run, tmp_path / "b") == 8
    assert "error[E-LOCKED] another process is writing it" in capfd.readouterr().err


def wait_for(what: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not what() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert what(), "the export ended before it could be interrupted"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_export_that_is_stopped_leaves_no_half_bundle(
    number: signal.Signals, tiny_run: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "edgegen",
        "export",
        str(tiny_run),
        "--int8",
        "-o",
        str(tmp_path / "b"),
        "--threads",
        "1",
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: any(tmp_path.glob(f"{PREFIX}*/graphs")), child)
        child.send_signal(number)
        assert child.wait(120) == (-9 if number == signal.SIGKILL else 130)
    finally:
        child.kill()
    assert not (tmp_path / "b").exists() and not (tmp_path / "rejected").exists()
    assert bool(list(tmp_path.glob(f"{PREFIX}*"))) == (number == signal.SIGKILL)
    with FileLock(tmp_path / "b.lock", timeout=0):
        pass  # the lock went with its holder


def spoiled(tiny_run: Path, to: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(tiny_run, to)
    change(to)
    return to


@pytest.mark.parametrize(
    "change, code, said",
    [
        (lambda r: (r / "weights.safetensors").write_bytes(pickle.dumps({"a": 1})), 6, "E-PICKLE"),
        (
            lambda r: (r / "weights.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 99),
            6,
            "E-PICKLE",
        ),
        (
            lambda r: (r / "weights.safetensors").write_bytes(
                (r / "weights.safetensors").read_bytes()[:999]
            ),
            4,
            "E-ST-HEADER",
        ),
        (lambda r: (r / "weights.safetensors").unlink(), 4, "this run has not ended yet"),
        (lambda r: (r / "reference.safetensors").unlink(), 2, "there are no reference statistics"),
        (
            lambda r: (r / "reference.safetensors").write_bytes(b"hello"),
            4,
            "not a usable reference",
        ),
        (lambda r: (r / "run.json").unlink(), 2, "this folder is no run"),
        (lambda r: (r / "run.json").write_text("{"), 4, "E-JSON"),
    ],
)
def test_a_run_that_cannot_be_exported_is_refused_before_any_work(
    change: Callable[[Path], object],
    code: int,
    said: str,
    tiny_run: Path,
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "edgegen.workflows.export.run.fp32_models",
        lambda *_: pytest.fail("the long work has begun"),
    )
    (place := tmp_path / "place").mkdir()
    assert tiny.export(spoiled(tiny_run, tmp_path / "run", change), place / "b") == code
    assert said in capfd.readouterr().err and left(place) == []


@pytest.mark.parametrize(
    "source, flags, code, said",
    [
        ("cas-dn", [], 2, "did you mean cas-dm?"),
        ("no-such-thing-at-all", [], 2, "the zoo has: cas-dm"),
        (
            "RUN",
            ["--fid-budget", "0%"],
            2,
            "--fid-budget must be a share such as 2% or 0.02, got '0%'",
        ),
        ("RUN", ["--fid-budget", "nan"], 2, "E-BUDGET"),
        ("RUN", ["--fid-budget", "-1"], 2, "E-BUDGET"),
        ("RUN", ["--runtime", "onnxruntime,,"], 2, "unknown runtime ''"),
        ("RUN", ["--runtime", "reference"], 2, "it is no runtime to export for"),
        ("RUN", ["--runtime", "tensorflow"], 2, "unknown runtime 'tensorflow'"),
        ("RUN", ["--calibration", "7"], 2, "calibration"),
        ("BUNDLE", [], 2, "this is a bundle"),
    ],
)
def test_a_call_that_cannot_be_meant(
    source: str,
    flags: list[str],
    code: int,
    said: str,
    tiny_run: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capfd: Capture,
) -> None:
    what = {"RUN": str(tiny_run), "BUNDLE": str(tiny_bundle)}.get(source, source)
    capfd.readouterr()
    assert run(["export", what, "--int8", "-o", str(tmp_path / "b"), *flags]) == code
    assert said in capfd.readouterr().err and not (tmp_path / "b").exists()


def test_export_without_a_precision(tiny_run: Path, tmp_path: Path, capfd: Capture) -> None:
    assert (
        run(["export", str(tiny_run), "-o", str(tmp_path / "b")]) == 2
        and "add --int8" in capfd.readouterr().err
    )


def test_an_output_that_cannot_be_made(tiny_run: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "file").write_text("x")
    assert (
        tiny.export(tiny_run, tmp_path / "file" / "b") == 7 and "E-DISK" in capfd.readouterr().err
    )
    assert tiny.export(tiny_run, tmp_path / "file") == 2


def test_a_missing_runtime_is_told_before_any_work(
    tiny_run: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        packages, "find_spec", lambda name: None if name == "openvino" else found(name)
    )
    assert tiny.export(tiny_run, tmp_path / "b", runtimes="onnxruntime,openvino") == 5
    assert (
        'openvino is not installed: pip install "edgegen[openvino]"' in capfd.readouterr().err
        and left(tmp_path) == []
    )
