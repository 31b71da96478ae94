"""Five photos of one class beside 115 of another, from the folder to what is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from adapting import PEFT
from photo_folders import several, write
from runs import nothing
from sites import go
from toys import shapes

from edgegen.cli.main import run
from edgegen.core.start import write_start
from edgegen.export.onnx import to_onnx
from edgegen.families import family
from edgegen.training.run import RunSettings, train
from edgegen.workflows.finetune import periodic_eval
from edgegen.workflows.generators import load_generator

pytestmark = [PEFT, pytest.mark.slow, pytest.mark.export]


def test_both_classes_are_learned_named_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(periodic_eval, "EVALUATION_IMAGES", 16)
    monkeypatch.setattr(periodic_eval, "FINAL_IMAGES", 24)
    plain = family("cas-dm").recipes["tiny"]()
    recipe = replace(plain, config=replace(plain.config, classes=2), images=8, batch=8, warmup=2)
    base, out = tmp_path / "base", tmp_path / "site"
    train(RunSettings("cas-dm", "tiny", recipe), shapes(64), base, False, 24, nothing)
    photos = several("chair/{}.png", 115) | several("sofa/{}.png", 5, 200)
    assert go(base, out, write(tmp_path / "photos", photos), "--steps", "4") == 0
    said = capfd.readouterr().err
    assert "understood: 2 classes, chair and sofa" in said
    assert (
        "W-CLASS-SMALL: these classes have few photos to learn from, but are learned: sofa ("
        in said
    )
    assert "W-CLASS-MERGED" not in said and "W-CLASS-GONE" not in said

    about = json.loads((out / "run.json").read_text())
    assert about["data"]["classes"] == ["chair", "sofa"] and about["config"]["classes"] == 2
    picture = str(tmp_path / "x.png")
    assert run(["generate", str(out), "-o", picture, "--label", "1"]) == 0
    assert run(["generate", str(out), "-o", picture, "--label", "2"]) == 2

    generator = load_generator(out).generator
    assert write_start(generator.latent, tmp_path)["classes"] == 2
    for name, graph in generator.graphs().items():
        inputs = {value.name: value.type.tensor_type for value in to_onnx(graph, name).graph.input}
        assert [axis.dim_value for axis in inputs["label"].shape.dim][1:] == [2], name
