"""edgegen finetune --recover: pairs that make up for rounding, carried back into the networks' own weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from adapters import master

from edgegen.calibrate.choose import plan as choose
from edgegen.calibrate.equalize import ChannelObserver, equalized
from edgegen.calibrate.observe import Observer
from edgegen.cli import recover as verb
from edgegen.cli.hosted import hosted
from edgegen.cli.main import run
from edgegen.cli.source import torch_pipeline
from edgegen.core.bundle import sha256
from edgegen.core.plan import Plan
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import asked
from edgegen.evidence.bench import record
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq
from edgegen.export.ort import OnnxRuntime
from edgegen.export.rounding import rounding
from edgegen.families import FAMILIES, family
from edgegen.training import run as runs
from edgegen.training.adapt import recover, site
from edgegen.training.adapt.recover import Course, Student, Subject

COURSE = Course(rank=4, steps=60, batch=8, rate=5e-4, seed=0)


def plan_of(generator: Any, models: Mapping[str, Any]) -> tuple[dict[str, Any], Plan]:
    """Even graphs, and a plan that rounds every convolution."""
    channels = {k: ChannelObserver(m, 1) for k, m in models.items()}
    Pipeline(generator.latent, generator.sampler, channels)(range(32))
    even = {k: equalized(m, channels[k].largest) for k, m in models.items()}
    seen = {k: Observer(m, qdq.candidates(m), asked(generator.sampler, k), 1) for k, m in even.items()}
    Pipeline(generator.latent, generator.sampler, seen)(range(32))
    return even, Plan((("*", "int8"),), choose(even, {k: o.stats for k, o in seen.items()}).ranges)


@cache
def subjects(name: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """A tiny generator's graphs, and their Q/DQ files."""
    found = family(name)
    generator = site.plain(found, found.recipes["tiny"]().config, master(name))
    traced = {k: onnx_files.traced(g, k) for k, g in generator.graphs().items()}
    even, plan = plan_of(generator, {k: m for k, (m, _) in traced.items()})
    files = {k: qdq.quantize(m, k, plan, OnnxRuntime.dialect) for k, m in even.items()}
    calls = record(torch_pipeline(generator), range(100, 116))
    made = {k: Subject(g, traced[k][1], rounding(even[k], files[k]), calls[k]) for k, g in generator.graphs().items()}
    return made, files


def inputs(subject: Subject) -> list[torch.Tensor]:
    return [torch.from_numpy(subject.calls[-1][spec.name]) for spec in subject.graph.inputs]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_rounds_as_the_file_that_ships(name: str) -> None:
    """A few values fall on the other side of a half, no more: the error left is far below that of rounding."""
    found, files = subjects(name)
    found_family = family(name)
    generator = site.plain(found_family, found_family.recipes["tiny"]().config, master(name))
    call = hosted(files, generator, 1).call
    rounds = 0
    for graph, subject in found.items():
        student = Student(subject)
        ours = student(inputs(subject), {}).numpy()
        theirs, exact = call[graph](**subject.calls[-1]), student.teacher(*inputs(subject)).numpy()
        if not subject.rounding.int8:
            np.testing.assert_allclose(ours, exact, atol=1e-5)
            continue
        rounds += 1
        assert np.square(ours - theirs).mean() < 0.25 * np.square(exact - theirs).mean(), graph  # 0.14 at most was seen: lcd
    assert rounds


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_learnt_is_an_exact_adapter_that_lowers_the_error(name: str) -> None:
    """Graphs of the merged networks are the graphs the students ended with; the error of rounding has fallen."""
    found, _ = subjects(name)
    config, base = family(name).recipes["tiny"]().config, master(name)
    losses: list[float] = []
    adapter = recover.recover(family(name), config, base, found, COURSE, losses.append)
    assert len(losses) == COURSE.steps
    merged = adapter.merged(base, Path())
    students = {k: Student(s) for k, s in found.items() if s.rounding.int8}
    before, after = (recover._tensors(family(name), config, t) for t in (base, merged))
    places = recover.places(family(name), config, base, students)
    assert {p.layer for p in places} == {k.removesuffix(".lora_A.weight") for k in adapter.tensors if "lora_A" in k}
    for place in places:
        delta = merged[f"{place.layer}.weight"] - base[f"{place.layer}.weight"]
        assert torch.linalg.matrix_rank(delta.flatten(1).double(), atol=1e-5) <= COURSE.rank
        student = students[place.graph]
        was, even = before[place.graph][place.weight], student.values[place.weight]
        moved = after[place.graph][place.weight] - was
        torch.testing.assert_close(place.factor * delta, moved * (even / was), atol=1e-5, rtol=1e-4)
    left = []
    for graph, student in students.items():
        asked, wanted = student.inputs(range(len(student.subject.calls)), 8)
        error = student.loss(asked, wanted, {})
        learnt = {p.weight: p.factor * (merged[f"{p.layer}.weight"] - base[f"{p.layer}.weight"])
                  for p in places if p.graph == graph}
        student.values |= {n: t for n, t in after[graph].items() if n not in student.weights and not t.equal(before[graph][n])}
        left.append(float(student.loss(asked, wanted, learnt) / error))
    assert np.mean(left) < 0.99, left  # measured: 0.98 (cas-dm), 0.85 (dkgm), 0.92 (isc-gan), 0.88 (lcd)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.finished_run(tmp_path_factory.mktemp("recover") / "base")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LEARNT", 16), ("JUDGED", 128), ("SAMPLES", 32)):
        monkeypatch.setattr(verb, name, value)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(Plan((("*", "int8"),), tiny.plan().ranges).to_bytes())
    return path


def go(base: Path, plan: Path, out: Path, *more: str) -> int:
    return run(["finetune", str(base), "-o", str(out), "--recover", str(plan), "--threads", "1", *more])


def test_a_recovered_run_is_a_run(base: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Taken for better (three steps on random weights are not): what is published loads, merges and does not compare."""
    pytest.importorskip("peft", reason="merging is proven against peft, which is not installed")
    word, out = verb._word, tmp_path / "out"
    monkeypatch.setattr(verb, "_word", lambda *given: word(*given) | {"better": True})
    assert go(base, plan, out, "--steps", "3") == 0, capsys.readouterr().err
    assert "INT8 against full precision, same seeds" in capsys.readouterr().out
    assert json.loads((out / "looks.json").read_text())["recover"]["before"]["pooled_db"] > 0
    about, _ = runs.load(out)
    assert about["adapt"]["base_sha256"] == sha256(out / "base.safetensors")
    assert (out / "reference.safetensors").read_bytes() == (base / "reference.safetensors").read_bytes()
    assert run(["merge", str(out), "-o", str(tmp_path / "merged")]) == 0
    assert run(["finetune", "--compare", str(out)]) == 2
    assert "saw no photos: it does not compare" in capsys.readouterr().err


def test_images_that_came_no_nearer_are_said_and_kept_elsewhere(base: Path, plan: Path, tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert go(base, plan, tmp_path / "out", "--steps", "3", "--rate", "0.01") == 3
    assert "E-RECOVER" in (said := capsys.readouterr().err) and "came no nearer: squared error x" in said
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "rejected" / "out" / "looks.json").read_text())["recover"]["better"] is False


def test_what_is_refused(base: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(base, plan, tmp_path / "out", "--data", str(tmp_path), "--looks", "3") == 2
    assert "--recover learns from the generator itself, without photos: leave out --data, --looks" in capsys.readouterr().err
    other = tmp_path / "plan.json"
    other.write_bytes(Plan((("denoiser/student.stem", "fp32"), ("*", "int8")), {}).to_bytes())
    assert go(base, other, tmp_path / "out") == 4
    assert "the plan is another generator's: denoiser/student.stem is not in these graphs" in capsys.readouterr().err
    other.write_bytes(Plan((("*", "int8"),), {"theta": {"nowhere": tiny.plan().ranges["theta"]["x"]}}).to_bytes())
    assert go(base, other, tmp_path / "out") == 4
    assert "theta/nowhere is not in these graphs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
