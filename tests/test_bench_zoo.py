"""The zoo in a bench: what is missing is exported once, what is there stays, and what cannot be
is a row that says why.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benched import TOY, toy
from test_bench_report import OWN

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, digest
from edgegen.core.files import read_json, to_json
from edgegen.core.progress import silent
from edgegen.core.samplers import sampler_from_json, sampler_to_json
from edgegen.errors import GateFailed, RuntimeMissing, UsageError
from edgegen.evidence.bench_document import read_document
from edgegen.workflows.bench_report import measured, zoo
from edgegen.workflows.bench_report.run import bench_bundles
from edgegen.workflows.bench_report.settings import BenchReportSettings
from edgegen.workflows.export import run as export_run

ABOUT = read_json(TOY / MANIFEST)["source"]
SAMPLER: Any = sampler_from_json(read_json(TOY / MANIFEST)["sampler"])


class Steppable:
    """A generator of two steps that takes one, and no more than two."""

    embeds_training_data = "none"
    image_shape = (3, 16, 16)
    latent: Any = None

    def __init__(self, sampler: Any = SAMPLER) -> None:
        self.sampler = sampler

    def graphs(self) -> dict[str, Any]:
        return {}

    def with_steps(self, steps: int) -> Steppable:
        if steps > 2:
            raise UsageError("E-USAGE", f"--steps: it has no {steps} steps")
        times, signal = SAMPLER.timesteps[:steps], SAMPLER.signal[:steps]
        return Steppable(replace(SAMPLER, timesteps=times, signal=signal))


class Exports:
    """Stands in for an export: copies the toy bundle with the sampler that was asked for."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def __call__(self, source: Any, out: Path, settings: Any, listen: Any) -> None:
        self.made.append(out.name)
        if out.name in self.fails:
            raise self.fails[out.name]
        if settings.overwrite:
            shutil.rmtree(out)
        toy(out)
        generator = source.generator
        if settings.steps is not None:
            generator = generator.with_steps(settings.steps)
        changed(out, sampler=sampler_to_json(generator.sampler))


def changed(folder: Path, **fields: Any) -> None:
    manifest = read_json(folder / MANIFEST) | fields
    manifest["sha256"] = digest(manifest)
    (folder / MANIFEST).write_bytes(to_json(manifest))


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    def load(name: str, listen: Any) -> Any:
        return SimpleNamespace(
            name=name, family="cas-dm", generator=Steppable(), about={**ABOUT, "name": name}
        )

    made = Exports()
    monkeypatch.setattr(zoo, "load_generator", load)
    monkeypatch.setattr(export_run, "export_bundle", made)
    monkeypatch.setattr(zoo, "need_torch", lambda: None)
    monkeypatch.setattr(zoo, "zoo_models", lambda: [SimpleNamespace(name=n) for n in ("a", "b")])
    return made


def bundles(work: Path, steps: Any = None, runtimes: Any = ("onnxruntime",)) -> Any:
    places, absent = zoo.zoo_bundles(work, steps, runtimes, silent)
    return [place.name for place in places], {one.name: (one.state, one.why) for one in absent}


def test_what_is_missing_is_made_once(exports: Exports, tmp_path: Path) -> None:
    assert bundles(tmp_path) == (["a", "b"], {})
    assert bundles(tmp_path, [1, 2]) == (["a-1-step", "a", "b-1-step", "b"], {})
    assert exports.made == ["a", "b", "a-1-step", "b-1-step"]
    shutil.rmtree(tmp_path / "b")
    bundles(tmp_path)
    assert exports.made[4:] == ["b"]


def test_a_number_of_steps_that_a_generator_does_not_take_is_skipped(
    exports: Exports, tmp_path: Path
) -> None:
    made, absent = bundles(tmp_path, [2, 50])
    why = ("skipped", "E-USAGE: --steps: it has no 50 steps")
    assert made == ["a", "b"] and absent == {"a-50-steps": why, "b-50-steps": why}


def test_one_that_was_killed_goes_on_where_it_was(exports: Exports, tmp_path: Path) -> None:
    exports.fails["b"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        bundles(tmp_path)
    exports.fails.clear()
    assert bundles(tmp_path)[0] == ["a", "b"] and exports.made == ["a", "b", "b"]


def test_what_a_gate_refused_is_not_exported_again(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.fails["a"] = GateFailed("E-GATE", "openvino: outside", path="/secret")
    failed = ("failed", "its export: E-GATE: openvino: outside")
    for _ in range(2):
        assert bundles(tmp_path) == (["b"], {"a": failed})
    assert exports.made == ["a", "b"]
    monkeypatch.setattr(zoo, "__version__", "99")
    exports.fails.clear()
    assert bundles(tmp_path)[0] == ["a", "b"] and exports.made == ["a", "b", "a"]
    assert not (tmp_path / f"a{zoo.FAILED}").exists()


def test_another_bundle_in_its_place_is_refused_and_stays(exports: Exports, tmp_path: Path) -> None:
    toy(tmp_path / "a")
    changed(tmp_path / "a", source={**ABOUT, "weights_sha256": "0" * 64})
    with pytest.raises(UsageError, match="a bundle that is not a with 2 steps"):
        bundles(tmp_path)
    assert exports.made == [] and (tmp_path / "a" / MANIFEST).is_file()


def test_a_bundle_without_a_runtime_that_is_asked_for_is_made_anew(
    exports: Exports, tmp_path: Path
) -> None:
    bundles(tmp_path)
    bundles(tmp_path, runtimes=("onnxruntime", "openvino"))
    assert exports.made == ["a", "b", "a", "b"]


def test_runtimes_are_those_that_build_and_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgegen.export.ov import OpenVino

    assert {"onnxruntime", "openvino"} <= set(zoo.zoo_runtimes(None))
    assert "reference" not in zoo.zoo_runtimes(None)
    monkeypatch.setattr(OpenVino, "missing", lambda self: "openvino is not installed")
    assert "openvino" not in zoo.zoo_runtimes(None)
    with pytest.raises(RuntimeMissing, match="openvino is not installed"):
        zoo.zoo_runtimes(["openvino"])


def test_what_was_not_made_stays_in_the_report(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)
    exports.fails["b"] = GateFailed("E-GATE", "onnxruntime: <b>outside</b>")
    (gate := tmp_path / "gates.toml").write_text("[runtimes.onnxruntime]\nmin_psnr_db = 20\n")
    settings = BenchReportSettings(
        batch=1, rounds=5, pairs=8, runtimes=["onnxruntime"], zoo=True, zoo_steps=[2, 50],
        gates=gate,
    )  # fmt: skip
    with pytest.raises(GateFailed, match="1 gates failed: b: onnxruntime INT8"):
        bench_bundles([], tmp_path / "report", settings)
    assert (tmp_path / "report-bundles" / "a" / MANIFEST).is_file(), "kept beside the report"
    document = read_document(tmp_path / "report")
    states = {row.name: row.state for row in document.rows}
    assert states == {
        "a: onnxruntime INT8": "undecided",
        "a: onnxruntime FP32": "within",
        "a-50-steps: onnxruntime INT8": "skipped",
        "b: onnxruntime INT8": "failed",
        "b-50-steps: onnxruntime INT8": "skipped",
    }
    assert [one.steps for one in document.bundles] == [2, 50, 2, 50]
    assert document.command.startswith("edgegen bench --zoo --steps 2,50 --runtime onnxruntime")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "its export: E-GATE: onnxruntime: &lt;b&gt;outside" in page
    assert "stands in the table: a-50-steps, b, b-50-steps." in page
    assert {gate.row for gate in document.gates} == {"a: onnxruntime INT8", "b: onnxruntime INT8"}


def test_a_report_is_written_where_no_export_passed(exports: Exports, tmp_path: Path) -> None:
    exports.fails = {name: GateFailed("E-GATE", "outside") for name in "ab"}
    flags = ["--runtime", "onnxruntime", "--report", str(tmp_path / "report")]
    assert run(["bench", "--zoo", *flags]) == 0
    document = json.loads((tmp_path / "report" / "bench.json").read_text())
    assert [row["state"] for row in document["rows"]] == ["failed", "failed"]
    assert all(one["manifest_sha256"] is None for one in document["bundles"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "name a bundle, or add --zoo"),
        (["--zoo"], "--zoo needs a folder for its exports: add --report, or --work FOLDER"),
        ([str(TOY), "--steps", "4"], "a bundle runs with the steps that it was calibrated"),
        ([str(TOY), "--work", "w"], "--work has no meaning without --zoo"),
        (["--zoo", "--work", "w", "--steps", "1,x"], "--steps must be whole numbers such as 1,2,4"),
        (["--zoo", "--work", "w", "--steps", "0"], "--steps must be 1 or more, got 0"),
        (
            ["--zoo", "--work", "w", "--public-key", "k"],
            "--zoo and --public-key exclude each other",
        ),
        (
            [str(TOY), "--peer", "mxnet=p"],
            "--peer mxnet: there is no such tool; the known tools are onnxruntime, nncf",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: list[str], said: str, capfd: Any) -> None:
    assert run(["bench", *flags]) == 2
    assert said in capfd.readouterr().err
