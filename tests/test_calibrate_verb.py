"""edgegen calibrate: statistics of trajectories or files, the same from one process and from two;
what is wrong is named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from runs import HERE

from edgegen.calibrate.observe import ENOUGH
from edgegen.cli import main
from edgegen.cli.calibrate import show
from edgegen.core.plan import Plan
from edgegen.core.samplers import asked
from edgegen.errors import InputError, UsageError
from edgegen.evidence.bench import record
from edgegen.export import qdq, runtime
from edgegen.training.processes import World
from edgegen.workflows.calibrate import CalibrateSettings, calibrate_generator
from edgegen.workflows.context import Context
from edgegen.workflows.export import fp32
from edgegen.workflows.export.calibration import calibrate_graphs
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.generators import load_generator

pytestmark = pytest.mark.slow

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """The run's weights are those of tiny.models(), whose export takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp32, "fp32_models", lambda *_: tiny.models())
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.finished_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every call of 32 trajectories, one file a timestep."""
    folder = tmp_path_factory.mktemp("feeds")
    for name, calls in record(tiny.torch_images(), range(32)).items():
        (folder / name).mkdir()
        for k, inputs in enumerate(calls):
            np.savez(folder / name / f"{k:02}.npz", **inputs)  # type: ignore[arg-type]
    return folder


def calibrate(source: Path, out: Path, *flags: str) -> int:
    return main.run(["calibrate", str(source), "--threads", "1", "-o", str(out), *flags])


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "stats"
    assert calibrate(run, out, "--samples", "32") == 0
    return out


def test_a_plan_that_export_reads_and_a_report_of_every_quantized_tensor(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == ["plan.json", "report.json"]
    plan, report = Plan.read(made / "plan.json"), json.loads((made / "report.json").read_text())
    sampler = tiny.generator().sampler
    for name, graph in report["graphs"].items():
        assert graph["samples_at_timestep"] == {str(t): 32 for t in asked(sampler, name)}
        for tensor, one in graph["tensors"].items():
            covered = plan.ranges[name][tensor]
            assert one["range"] == [covered.low, covered.high] and one["method"] in one["errors"]
            assert one["seen"][0] <= covered.low <= covered.high <= one["seen"][1]
    assert set(report["graphs"]) == {"theta", "phi"}
    read = {
        conv for one in report["graphs"]["theta"]["tensors"].values() for conv in one["read_by"]
    }
    assert "trunk.middle.first.conv" in read and "trunk.stem.conv" not in read
    for name in ("onnxruntime", "openvino", "tensorrt-rtx"):
        for graph, model in tiny.models().items():
            qdq.quantize(model, graph, plan, runtime(name).dialect)


def test_the_same_files_twice(run: Path, made: Path, tmp_path: Path) -> None:
    assert calibrate(run, tmp_path / "again", "--samples", "32") == 0
    assert all(
        (made / p).read_bytes() == (tmp_path / "again" / p).read_bytes()
        for p in ("plan.json", "report.json")
    )


def test_files_of_what_the_trajectories_held_give_the_same_ranges(
    run: Path, made: Path, feeds: Path, tmp_path: Path
) -> None:
    assert calibrate(run, tmp_path / "stats", "--data", str(feeds)) == 0
    by_hand, own = (Plan.read(p / "plan.json") for p in (tmp_path / "stats", made))
    assert by_hand.rules == own.rules
    for name, ranges in own.ranges.items():
        for tensor, wanted in ranges.items():
            found = by_hand.ranges[name][tensor]
            np.testing.assert_allclose(
                (found.low, found.high), (wanted.low, wanted.high), rtol=1e-3, atol=1e-4
            )
    report = json.loads((tmp_path / "stats" / "report.json").read_text())
    assert report["feeds"] == "files" and len(report["files"]) == 8 and report["samples"] == 256


def test_a_program_gets_the_report_and_nothing_is_printed(
    run: Path, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = CalibrateSettings(samples=32, threads=1)
    result = calibrate_generator(load_generator(run), tmp_path / "stats", settings)
    assert capfd.readouterr() == ("", "")
    assert result.written and result.report == json.loads((made / "report.json").read_text())
    assert result.plan.read_bytes() == (made / "plan.json").read_bytes()
    assert result.to_json() == {"out": str(tmp_path / "stats"), **result.report}


def test_the_table_names_coverage_and_outliers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(run, tmp_path / "stats", "--samples", "48") == 0
    said = capsys.readouterr().out
    assert "samples at each" in said and "theta  4          48" in said
    assert f"calibrated: {tmp_path / 'stats'}" in said


def changed(
    feeds: Path, folder: Path, change: Callable[[Arrays], Arrays], name: str = "theta/00.npz"
) -> Path:
    """A copy of the feeds with one file changed."""
    for path in feeds.rglob("*.npz"):
        (folder / path.relative_to(feeds)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(feeds)).write_bytes(path.read_bytes())
    with np.load(folder / name) as held:
        arrays = change(dict(held))
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]
    return folder


def poisoned(held: Arrays) -> Arrays:
    held["x"][20, 0, 0, 0] = np.nan
    return held


def far(held: Arrays) -> Arrays:
    held["x"][20, 0, 0, 0] = -1e6
    return held


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: {"x": held["x"]}, "theta takes x, t; the file has x"),
        (lambda held: {**held, "label": held["t"]}, "theta takes x, t; the file has label, t, x"),
        (
            lambda held: {**held, "x": held["x"].astype(np.float64)},
            "x must be float32, got float64",
        ),
        (
            lambda held: {**held, "x": held["x"][..., :8]},
            "x must have the shape (n, 3, 16, 16), got (32, 3, 16, 8)",
        ),
        (
            lambda held: {**held, "t": held["t"][:5]},
            "the arrays must have the same rows, one or more, got {'x': 32, 't': 5}",
        ),
        (
            lambda held: {k: v[:0] for k, v in held.items()},
            "the arrays must have the same rows, one or more, got {'x': 0, 't': 0}",
        ),
        (lambda held: {**held, "x": np.asfortranarray(held["x"])}, "x is stored column by column"),
        (lambda held: {**held, "t": np.array([{}] * 32)}, "t must be float32, got object"),
        (lambda held: {**held, "t": held["t"] + 1}, "at which the sampler never runs theta"),
        (poisoned, "x holds NaN or infinite values in rows 16 to 23"),
        (far, "x of theta is 1e+06 in row 20, and the sampler's own inputs stay within"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    run: Path,
    feeds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Arrays], Arrays],
    said: str,
) -> None:
    folder = changed(feeds, tmp_path / "feeds", change)
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    error = capsys.readouterr().err
    assert "error[E-FEEDS]" in error and said in error and "00.npz" in error
    assert not (tmp_path / "stats").exists()


def test_inputs_that_are_0_throughout_are_named(
    run: Path, feeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "feeds"
    for path in (feeds / "phi").glob("*.npz"):
        changed(feeds, folder, lambda held: {**held, "x": held["x"] * 0}, f"phi/{path.name}")
        feeds = folder
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    assert "x of phi is 0 in every row" in capsys.readouterr().err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def longer(path: Path) -> None:
    """A header that promises more than there is."""
    with zipfile.ZipFile(path) as held:
        parts = {name: held.read(name) for name in held.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            new.writestr(name, data.replace(b"(32,", b"(99,"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "no .npz file that can be read"),
        (lambda p: p.write_bytes(b"photo"), "no .npz file that can be read"),
        (longer, "x is not as long as its header says"),
    ],
)
def test_a_damaged_file_is_named(
    run: Path,
    feeds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Any,
    said: str,
) -> None:
    folder = changed(feeds, tmp_path / "feeds", lambda held: held)
    damage(folder / "theta" / "01.npz")
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    assert said in (error := capsys.readouterr().err) and "01.npz" in error


def test_folders_must_be_the_graphs(
    run: Path, feeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(feeds, tmp_path / "feeds", lambda held: held)
    (folder / "phi").rename(folder / "psi")
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    assert "no graph is named so; the graphs are theta, phi" in capsys.readouterr().err
    (folder / "psi").rename(tmp_path / "elsewhere")
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    assert "the graph phi has no .npz files" in capsys.readouterr().err
    assert calibrate(run, tmp_path / "stats", "--data", str(tmp_path / "nowhere")) == 4
    assert "there is no such folder of feeds" in capsys.readouterr().err


def test_fewer_feeds_than_enough_are_refused(
    run: Path, feeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(
        feeds,
        tmp_path / "feeds",
        lambda held: {k: v[: ENOUGH - 1] for k, v in held.items()},
        "phi/02.npz",
    )
    assert calibrate(run, tmp_path / "stats", "--data", str(folder)) == 4
    assert f"on {ENOUGH - 1} samples, {ENOUGH} are needed" in capsys.readouterr().err
    assert calibrate(run, tmp_path / "stats", "--samples", f"{ENOUGH - 1}") == 2
    assert calibrate(run, tmp_path / "stats", "--samples", "32", "--data", str(feeds)) == 2
    assert "--samples is of the sampler's own trajectory" in capsys.readouterr().err


def test_a_network_that_overflows_is_told_by_its_tensor(run: Path) -> None:
    models = {}
    for name, model in tiny.models().items():
        models[name] = onnx.ModelProto()
        models[name].CopyFrom(model)
        for weight in models[name].graph.initializer:
            if weight.name.endswith("middle.first.conv.weight"):
                weight.CopyFrom(
                    onnx.numpy_helper.from_array(
                        onnx.numpy_helper.to_array(weight) * np.float32(1e38), weight.name
                    )
                )
    source = load_generator(str(run))
    with pytest.raises(
        InputError, match=r"E-CALIB\] \w+ holds NaN or infinite values while calibrating"
    ):
        calibrate_graphs(source, models, Trajectories(source.generator, 32), Context())


def test_two_processes_write_what_one_does(run: Path, feeds: Path, tmp_path: Path) -> None:
    """Byte for byte, from seeds and from files."""
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "feeds").symlink_to(feeds)
    for name, model in tiny.models().items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    code = [
        sys.executable,
        str(Path(__file__).with_name("pairs.py")),
        str(tmp_path),
        "calibrate",
        "calibrate-files",
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(HERE)}
    done = subprocess.run(code, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    for job, flags in (
        ("calibrate", ["--samples", "40"]),
        ("calibrate-files", ["--data", str(feeds)]),
    ):
        codes = [(tmp_path / f"{job}.{rank}.code").read_text() for rank in "01"]
        assert codes == ["0", "0"], (tmp_path / f"{job}.0.err").read_text()
        assert calibrate(run, tmp_path / "one" / job, *flags) == 0
        for name in ("plan.json", "report.json"):
            assert (tmp_path / job / name).read_bytes() == (
                tmp_path / "one" / job / name
            ).read_bytes()


def test_more_processes_than_batches_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"E-PROCESSES. 5 processes cannot share 4 batches of 8 inputs"
    ):
        Trajectories(tiny.generator(), 32, World(0, 5)).run({}, "calibrating")
    with pytest.raises(UsageError, match="9 processes cannot share 8 batches of 4 inputs"):
        Trajectories(tiny.generator(), 32, World(0, 9), batch=4).run({}, "calibrating")


def test_an_earlier_result_is_replaced_only_when_asked(
    run: Path, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "stats").mkdir()
    (tmp_path / "stats" / "notes.txt").write_text("mine")
    assert calibrate(run, tmp_path / "stats", "--samples", "32", "--overwrite") == 2
    assert calibrate(run, made, "--samples", "32") == 2
    assert calibrate(run, made, "--samples", "32", "--overwrite") == 0


def test_outliers_and_constant_tensors_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def one(outlier: float, constant: bool = False, **other: Any) -> dict[str, Any]:
        return {
            "seen": [-2.0, 60.0],
            "range": [-2.0, 9.0],
            "method": "least error",
            "read_by": ["mid.conv"],
            "one_sided": False,
            "outlier": outlier,
            "constant": constant,
            **other,
        }

    tensors = {"a": one(0.0), "b": one(7.5), "c": one(2.5, read_by=[]), "still": one(0.0, True)}
    show({"graphs": {"theta": {"samples_at_timestep": {"1": 32, "2": 40}, "tensors": tensors}}})
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert said[2][:8] == ["theta", "2", "32", "to", "40", "4", "1", "0"]
    assert ["theta/still", "is", "constant:", "all", "its", "values", "are", "equal."] in said
    assert said[-2] == ["theta/b", "60", "7.5", "-2", "to", "9", "mid.conv"]
    assert said[-1] == ["theta/c", "60", "2.5", "-2", "to", "9", "no", "layer"]
