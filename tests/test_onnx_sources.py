"""ONNX files as sources of verbs: from the file of another program to images on a device."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_toys
import pytest
import tiny
from onnx import helper
from onnx_toys import changed, written

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.errors import EdgegenError, UsageError
from edgegen.workflows.brought_onnx import load_onnx
from edgegen.workflows.export.protect import Protect
from edgegen.workflows.generators import load_generator
from edgegen.workflows.source_choices import SourceChoices


@pytest.fixture
def no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that tries what nobody vouches for has tests of its own, and takes seconds."""
    monkeypatch.setattr("edgegen.export.door.tried", lambda *given: None)


@pytest.mark.usefixtures("no_door")
def test_it_is_a_source_like_our_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_toys.one_step(tmp_path / "theirs.onnx", 13, channels=1)
    loaded = load_generator(path)
    assert loaded.family == "onnx" and loaded.executed_by == "onnxruntime"
    assert str(tmp_path) not in json.dumps(loaded.about)
    with pytest.raises(UsageError, match="taken apart by torch"):
        Protect("1", "2x2").numbers(loaded)
    assert loaded.generate(range(2)).shape == (2, 16, 16, 3)
    assert run(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "ONNX file, opset 13" and document["solver"] == "single"
    assert document["bytes_stored"] == path.stat().st_size
    for verb in ("explain", "layers"):
        out = ["-o", str(tmp_path / "out")] if verb == "explain" else []
        assert run([verb, str(path), *out]) == 2
        assert "cannot use an ONNX file" in capsys.readouterr().err
    assert run(["generate", str(path), "--lora", "a.safetensors", "-o", "g.png"]) == 2
    assert "an ONNX file cannot use --lora" in capsys.readouterr().err
    assert run(["inspect", str(path), "--output-range", "0;1"]) == 2
    assert "--output-range must be two numbers" in capsys.readouterr().err
    with pytest.raises(UsageError, match="a folder of diffusers cannot use --inputs"):
        SourceChoices(inputs=("x=noise",)).check_only(frozenset(), "a folder of diffusers")


def test_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    def custom(model: onnx.ModelProto) -> None:
        model.graph.node[-1].domain = "com.microsoft"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    path = changed(onnx_toys.one_step(tmp_path / "theirs.onnx"), custom)
    with pytest.raises(EdgegenError, match=r"com\.microsoft"):
        load_onnx(path, SourceChoices())


def test_the_whole_export_of_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From an ONNX file of an old opset to images on a device, by verbs alone."""
    path = onnx_toys.denoiser(tmp_path / "theirs.onnx", 13)
    choices = written(tmp_path)
    words = ("--inputs", ",".join(choices["inputs"]), "--sampler", str(choices["sampler"]))
    out = tmp_path / "out"
    asked = (*words, "--steps", "2", "--no-reference", "--max-images", "64")
    assert tiny.export(path, out, *asked, runtimes="onnxruntime,openvino") == 0, capfd.readouterr()
    manifest = Bundle.open(out).manifest
    assert manifest.family == "onnx" and str(tmp_path) not in (out / "manifest.json").read_text()
    grid = tmp_path / "grid.png"
    assert run(["generate", str(out), "-n", "2", "-o", str(grid)]) == 0 and grid.is_file()
