"""Bundles to a report: one run, one folder, whatever fails on the way."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benched import TOY, toy

from edgegen.cli.main import run
from edgegen.core.conditions import Prompts
from edgegen.core.latent import Latent
from edgegen.core.progress import silent
from edgegen.core.prompt_encoder import EncodedPrompt
from edgegen.core.spec import TensorSpec
from edgegen.errors import GateFailed, InputError, RuntimeMissing, UsageError
from edgegen.evidence.bench_document import FILE, OwnProcess, PeakMemory, read_document
from edgegen.evidence.image_latency import GRAPH
from edgegen.machine.resident import peak_bytes
from edgegen.workflows.bench_report import measured, own_process
from edgegen.workflows.bench_report.candidates import Candidate
from edgegen.workflows.bench_report.documented import command
from edgegen.workflows.bench_report.run import (
    BenchReport,
    BenchReportSettings,
    bench_bundles,
    remake_report,
)

QUICK = BenchReportSettings(batch=2, rounds=5, pairs=12, runtimes=["onnxruntime"])
FLAGS = ("--rounds", "5", "--batch", "2", "--pairs", "12")
OWN = OwnProcess(
    load_ms=1.0, first_cpu_ms=1.0, first_wall_ms=1.0, peak=[PeakMemory(batch=1, bytes=1)]
)


def scaled(held: dict[str, Any]) -> None:
    held["trunk.up.0.0.second.conv.weight.scale"] *= np.float32(4)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of its own finds is not looked at here."""
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    """A sound bundle and a damaged one, each candidate in a process of its own; read it only."""
    folder = tmp_path_factory.mktemp("bench")
    bundles = [toy(folder / "sound"), toy(folder / "damaged", scaled)]
    return bench_bundles(bundles, folder / "report", QUICK)


@pytest.mark.slow
def test_a_report_is_whole_and_says_what_was_measured(made: BenchReport) -> None:
    assert made.out is not None
    document = read_document(made.out)
    assert document == made.document
    assert {p.name for p in made.out.iterdir()} == {
        "index.html", "bench.json", "bench.csv", "bench.md", "chart-1.svg", "pictures"
    }  # fmt: skip
    assert [row.name for row in document.rows] == [
        f"{bundle}: onnxruntime {precision}"
        for bundle in ("sound", "damaged")
        for precision in ("INT8", "FP32")
    ]
    for row in document.rows:
        assert [one.batch for one in row.latency] == [1, 2]
        for one in row.latency:
            assert len(one.samples.cpu_ms) == one.rounds == 5 and one.cpu.p90 is None
            assert sum(part.cpu_ms for part in one.stages) in one.samples.cpu_ms
            graphs = {part.stage: part.calls for part in one.stages}
            assert graphs[GRAPH + "theta"] == graphs[GRAPH + "phi"] == 2
        own = row.own
        assert own is not None and own.load_ms > 0 and own.first_wall_ms > 0
        assert 10 << 20 < own.peak[0].bytes <= own.peak[1].bytes
        assert row.placement["theta"]
    assert str(made.out.parent) not in document.to_bytes().decode(), "no place of this machine"


@pytest.mark.slow
def test_damage_is_outside_and_the_maker_s_verdict_stays_its_own(made: BenchReport) -> None:
    sound, full, damaged, _ = made.document.rows
    assert (sound.state, full.state, damaged.state) == ("undecided", "within", "outside")
    assert (
        "PSNR of" in damaged.why and full.why == "the other rows of its bundle are compared with it"
    )
    for row in (sound, damaged):
        assert row.verdict is not None and row.verdict.state == "within"
        assert row.verdict.pairs == 500 and row.verdict.signed_by is None
        assert row.verdict.features == "efficientnet-lite0 at 32 px"
    assert damaged.quality is not None and damaged.quality.against == "onnxruntime FP32"
    assert full.verdict is None
    one, other = made.document.bundles
    assert one.full_sha256 == other.full_sha256 and one.manifest_sha256 != other.manifest_sha256


@pytest.mark.slow
def test_a_page_is_made_anew_from_the_document(made: BenchReport, tmp_path: Path) -> None:
    assert made.out is not None
    shutil.copytree(made.out, folder := tmp_path / "report")
    (folder / "notes.txt").write_text("mine")
    for name in ("index.html", "bench.csv", "bench.md", "chart-1.svg"):
        (folder / name).unlink()
    assert remake_report(folder) == folder / "index.html"
    for path in made.out.rglob("*"):
        if path.is_file():
            assert (folder / path.relative_to(made.out)).read_bytes() == path.read_bytes()
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "pictures" / "row-0.png").unlink()
    with pytest.raises(InputError, match=r"row-0\.png"):
        remake_report(folder)


@pytest.mark.slow
def test_the_report_verb(made: BenchReport, tmp_path: Path, capfd: Any) -> None:
    assert made.out is not None
    shutil.copytree(made.out, folder := tmp_path / "report")
    assert run(["report", str(folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["page"] == str(folder / "index.html")
    (folder / FILE).write_text("{}")
    assert run(["report", str(folder)]) == 4
    assert "E-BENCH] not a usable bench.json" in capfd.readouterr().err
    (folder / FILE).unlink()
    assert run(["report", str(folder)]) == 4
    assert "the folder holds no bench.json" in capfd.readouterr().err
    assert run(["report", str(tmp_path / "nowhere")]) == 4


@pytest.mark.usefixtures("no_processes")
def test_a_gate_that_fails_is_exit_3_and_the_report_is_there(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "gates.toml").write_text("min_psnr_db = 35\n")
    bundles = [toy(tmp_path / "sound"), toy(tmp_path / "damaged", scaled)]
    for bundle, code in zip(bundles, (0, 3), strict=True):
        out = tmp_path / f"{bundle.name}-report"
        flags = ["--gate", str(tmp_path / "gates.toml"), "--report", str(out), *FLAGS]
        assert run(["bench", str(bundle), *flags]) == code
        said = capfd.readouterr()
        assert ("E-GATE] 1 gates failed: damaged: onnxruntime INT8" in said.err) == (code == 3)
        assert "onnxruntime INT8" in said.out
        assert [gate.passed for gate in read_document(out).gates] == [code == 0]


@pytest.mark.usefixtures("no_processes")
def test_the_result_goes_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text("[runtimes.openvino]\nmin_psnr_db = 1\n")
    with pytest.raises(GateFailed, match="no bundle has files for it") as caught:
        bench_bundles([toy(tmp_path / "a")], None, replaced(gates=tmp_path / "gates.toml"))
    assert caught.value.result.document.rows and caught.value.exit_code == 3


def replaced(**fields: Any) -> BenchReportSettings:
    return BenchReportSettings(**{**vars(QUICK), **fields})


@pytest.mark.usefixtures("no_processes")
def test_several_bundles_have_a_table_with_their_names(tmp_path: Path, capfd: Any) -> None:
    bundles = [str(toy(tmp_path / name)) for name in ("a", "b")]
    assert run(["bench", *bundles, *FLAGS, "--json"]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert (found["verb"], found["report"], found["schema_version"]) == ("bench", None, 1)
    assert [row["bundle"] for row in found["rows"]] == ["a", "a", "b", "b"]
    assert "bundle  candidate" in said.err


def crashed(candidate: Any) -> OwnProcess | str:
    return "the process crashed with SIGSEGV" if candidate.precision == "int8" else OWN


def breaking(place: str) -> Callable[[pytest.MonkeyPatch], None]:
    """INT8 fails at that place: when it is loaded, or when its graph is asked."""
    pipeline = Candidate.pipeline

    def broken(self: Candidate, *given: Any) -> Any:
        if self.precision != "int8":
            return pipeline(self, *given)
        if place == "load":
            raise InputError("E-GRAPH-RUN", "it cannot be loaded: <b>no kernel</b>", path="/secret")
        found = pipeline(self, *given)

        def wrong(**inputs: Any) -> Any:
            raise ValueError("no kernel\nfor this")

        return type(found)(found.latent, found.sampler, dict.fromkeys(found.call, wrong), 2)

    return lambda monkeypatch: monkeypatch.setattr(Candidate, "pipeline", broken)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (
            lambda m: m.setattr(measured, "in_own_process", crashed),
            "the process crashed with SIGSEGV",
        ),
        (breaking("load"), "E-GRAPH-RUN: it cannot be loaded: <b>no kernel</b>"),
        (breaking("run"), "no kernel for this"),
    ],
)
@pytest.mark.usefixtures("no_processes")
def test_one_that_fails_stays_in_the_table_and_the_others_go_on(
    fault: Any, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fault(monkeypatch)
    result = bench_bundles([toy(tmp_path / "a")], tmp_path / "report", QUICK)
    int8, full = result.document.rows
    assert (int8.state, int8.why, int8.latency, int8.quality) == ("failed", why, [], None)
    assert full.state == "within" and full.latency and full.quality
    page = (tmp_path / "report" / "index.html").read_text()
    assert "no kernel" in page or "SIGSEGV" in page
    assert "<b>no" not in page and "/secret" not in page


@pytest.mark.usefixtures("no_processes")
def test_a_runtime_that_is_not_here_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgegen.export.ort import OnnxRuntime

    monkeypatch.setattr(OnnxRuntime, "cannot_run", lambda self: "onnxruntime is not installed")
    with pytest.raises(RuntimeMissing, match="onnxruntime INT8: onnxruntime is not installed"):
        bench_bundles([toy(tmp_path / "a")], None, QUICK)


def test_an_error_in_the_child_is_told_and_not_raised(tmp_path: Path) -> None:
    folder = toy(tmp_path / "a")
    (folder / "graphs" / "theta.onnx").write_bytes(b"damaged")
    asked = {
        "place": str(folder), "runtime": "onnxruntime", "precision": "int8", "threads": 1,
        "batches": [1], "public_key": [], "least_release": None, "trust_engines": False,
    }  # fmt: skip
    found = own_process.first_images(tmp_path, json.dumps(asked))
    assert found["failed"].startswith("E-") and str(tmp_path) not in found["failed"]


def test_the_peak_is_that_of_this_process() -> None:
    known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 10 << 20 < peak_bytes() <= 1.1 * known


def test_keys_are_found_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert own_process.keys_of(None) == []
    assert own_process.keys_of("k") == own_process.keys_of([Path("k")]) == [str(tmp_path / "k")]


def test_bad_input_is_refused_before_any_work(tmp_path: Path, capfd: Any) -> None:
    one = toy(tmp_path / "a")
    (tmp_path / "other").mkdir()
    two = toy(tmp_path / "other" / "a")
    (theirs := tmp_path / "theirs").mkdir()
    (theirs / "thesis.txt").write_text("mine")
    for arguments, code, said in (
        (["nowhere", str(one)], 4, "there is no such folder"),
        ([str(theirs), str(one)], 4, "E-BUNDLE"),
        ([str(one), str(two)], 2, "two bundles have the name a"),
        ([str(one), "--report", str(theirs)], 2, "is not empty"),
        ([str(one), "--report", str(theirs), "--overwrite"], 2, "is not one of edgegen's"),
        ([str(one), "--gate", str(tmp_path / "none.toml")], 4, "E-GATES"),
        ([str(one), "--report", "r", "--runtime", "openvino"], 2, "no bundle has INT8 files for"),
        ([str(one), "--report", "r", "--max-ruined", "2"], 2, "--max-ruined must be a share"),
        ([str(one), "--report", "r", "--pairs", "0"], 2, "pairs"),
        ([str(one), "--overwrite"], 2, "--overwrite has no meaning without --report"),
        ([str(one), "--runtime", "openvino"], 2, "no bundle has INT8 files for"),
    ):
        assert run(["bench", *arguments]) == code, arguments
        error = capfd.readouterr().err
        assert said in error and len(error.splitlines()) == 1
    assert (theirs / "thesis.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="there is no bundle"):
        bench_bundles([])


def test_a_command_measures_the_same_again() -> None:
    asked = BenchReportSettings(rounds=50, pairs=1500, min_psnr_db=30.0, trust_engines=True)
    assert command(["a b", "c"], asked, ["openvino"]) == (
        "edgegen bench 'a b' c --runtime openvino --rounds 50 --pairs 1500 --min-psnr 30 "
        "--trust-engines --report report"
    )


def test_a_prompt_goes_through_the_text_encoder_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Prompts(("a shoe", "a shirt"), {"text": np.zeros((2, 3), np.float32)})
    latent = Latent(TensorSpec("z", ("batch", 1, 4, 4)), (bank,))
    asked: list[str] = []

    def encoder(text: str) -> EncodedPrompt:
        asked.append(text)
        return EncodedPrompt({"text": np.full(3, len(asked), np.float32)}, 2, 77, "")

    monkeypatch.setattr(measured, "encoders_of", lambda *_: lambda: encoder)
    found = measured.BenchRun([], QUICK, silent)
    opened: Any = SimpleNamespace(name="a", bundle=SimpleNamespace(latent=latent))
    encode = measured._encoder(found, opened)
    assert encode is not None and found.prompts == {"a": "a shoe"}
    for number in (1, 2):
        shown = encode().condition([5, 6])["text"]
        assert asked == ["a shoe"] * number and (shown == number).all() and len(shown) == 2
    monkeypatch.setattr(measured, "encoders_of", lambda *_: None)
    assert measured._encoder(found, opened) is None


def test_a_flag_of_a_report_makes_one_even_where_it_says_the_default(
    capfd: pytest.CaptureFixture[str],
) -> None:
    few = ("bench", str(TOY), "--rounds", "5", "--batch", "2")
    assert run([*few, "--min-psnr", "35"]) == 0
    assert "verdict of the bundle" in capfd.readouterr().out
    assert run([*few]) == 0
    assert "mean sampler step" in capfd.readouterr().out
