"""Full precision in torch, beside the runtimes of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benched import toy
from test_bench_report import OWN, QUICK

from edgegen.cli.main import run
from edgegen.evidence.bench_document import BenchRow
from edgegen.training.checkpoint import WEIGHTS
from edgegen.workflows.bench_report import in_torch, measured
from edgegen.workflows.bench_report.candidates import Candidate, OpenedForBench
from edgegen.workflows.bench_report.in_torch import PROGRAMS
from edgegen.workflows.bench_report.run import bench_bundles
from edgegen.workflows.bundles import read_bundle
from edgegen.workflows.generators import load_generator

BOTH = ["torch", "torch.compile"]
ASKED = replace(QUICK, torch=True)


@pytest.fixture
def of_zoo(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny run is what the zoo has by the name "run", and each candidate's process is left
    out.
    """
    loaded = load_generator(tiny_run)
    entry = SimpleNamespace(name="run", weights=tiny_run / WEIGHTS)
    monkeypatch.setattr(in_torch, "zoo_models", lambda: [entry])
    monkeypatch.setattr(in_torch, "load_generator", lambda _: loaded)
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)


def rows_of(place: Path) -> dict[str, BenchRow]:
    return {row.runtime: row for row in bench_bundles([place], settings=ASKED).document.rows}


@pytest.mark.slow
@pytest.mark.export
def test_torch_draws_the_bundle_s_images_and_is_timed_beside_them(
    of_zoo: None, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled by what changes nothing: a compiler of C++ is not on every machine."""
    asked: list[torch.nn.Module] = []

    def compiled(module: torch.nn.Module) -> torch.nn.Module:
        asked.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    before = torch.get_num_threads()
    rows = rows_of(tiny_bundle)
    assert len(asked) == len(read_bundle(tiny_bundle).manifest.graphs)
    for name in BOTH:
        row = rows[name]
        assert (row.state, row.precision, row.device) == ("within", "fp32", "CPU"), row.why
        assert row.label == f"{name} FP32" and row.version == torch.__version__
        assert row.quality is not None and row.quality.against == "onnxruntime FP32"
        assert row.quality.same_pixels == 1 and row.quality.ruined == 0
        assert len(row.latency) == 2 and row.verdict is None and row.peer is None
        assert "--torch" in row.command
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.export
def test_a_program_that_fails_is_a_row_and_the_rest_goes_on(
    of_zoo: None, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(module: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no compiler of C++")

    monkeypatch.setattr(torch, "compile", refuse)
    rows = rows_of(tiny_bundle)
    assert rows["torch.compile"].state == "failed"
    assert rows["torch.compile"].why == "no compiler of C++"
    assert rows["torch"].state == "within"


@pytest.mark.slow
@pytest.mark.export
def test_other_weights_of_the_same_name_are_not_taken(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"other weights")
    entry = SimpleNamespace(name="run", weights=tmp_path / WEIGHTS)
    monkeypatch.setattr(in_torch, "zoo_models", lambda: [entry])
    bundle = read_bundle(tiny_bundle)
    for name in BOTH:
        assert PROGRAMS[name].why_not(bundle) == (
            "the zoo of this edgegen version has other weights than the bundle"
        )


def test_a_generator_that_is_not_of_the_zoo_is_skipped_with_the_reason(tmp_path: Path) -> None:
    bundle = read_bundle(toy(tmp_path / "toy"))
    for program in PROGRAMS.values():
        why = program.why_not(bundle)
        assert why == "torch cannot run it, because the generator is not from the zoo"


def test_without_torch_the_rows_say_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = 'torch is not installed: pip install "edgegen[train]"'
    monkeypatch.setattr(in_torch, "absent", lambda *_: said)
    assert PROGRAMS["torch"].why_not(read_bundle(toy(tmp_path / "toy"))) == said


def test_a_sampler_of_other_steps_is_the_bundle_s(
    of_zoo: None, tiny_bundle: Path, tiny_run: Path
) -> None:
    bundle = read_bundle(tiny_bundle)
    one = Candidate(OpenedForBench("tiny", tiny_bundle, bundle), "torch", "fp32")
    pipeline = one.pipeline(1, 4, trust_engines=False)
    assert pipeline.sampler == load_generator(tiny_run).generator.sampler and pipeline.batch == 4
    images = pipeline(range(3))
    assert images.shape[0] == 3 and np.isfinite(images).all()


def test_the_flag_asks_for_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measured, "in_own_process", lambda _: OWN)
    place = toy(tmp_path / "toy")
    flags = ["--rounds", "5", "--batch", "2", "--pairs", "12", "--runtime", "onnxruntime", "--json"]
    assert run(["bench", str(place), "--torch", *flags]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["state"] for row in rows if row["runtime"] in BOTH] == ["skipped", "skipped"]
