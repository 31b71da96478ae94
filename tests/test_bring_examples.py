"""The worked examples of the guide for generators of other programs: each line is run as it stands,
on fewer steps and images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import bring_toys
import numpy as np
import onnx
import onnx_toys
import pytest
import tiny
import torch
from page_commands import blocks, follow
from safetensors.torch import save_file
from test_brought import photos

from edgegen.bring.brought import bring
from edgegen.core.bundle import Bundle
from edgegen.core.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guides" / "bring-your-own.md"
PLAN = "everything.json"
# with random weights, and so few images
MORE = {
    "export": (*tiny.TERMS, "--calibration", "32", "--max-images", "64", "--threads", "1"),
    "verify": (*tiny.TERMS, "--threads", "1"),
}


def shoes(place: Path) -> None:
    """A pipeline with two adapters, prompts and photos."""
    torch.manual_seed(0)
    folder = bring_toys.prompted(place / "shoes-model")
    layer = "down_blocks.0.attentions.0.proj_in"
    weight = bring(folder).networks["denoiser"].tensors[f"{layer}.weight"]
    for name in ("shoes", "style"):
        down, up = torch.randn(2, *weight.shape[1:]) / 4, torch.randn(len(weight), 2, 1, 1) / 4
        own = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
        save_file(own, place / f"{name}.safetensors")
    (place / "prompts.txt").write_text("a red shoe\na blue hat\na bag\na coat\n")
    photos(place / "photos", 40)


def emoji(place: Path) -> None:
    """The folder that is committed."""
    shutil.copytree(ROOT / "tests" / "data" / "emoji", place / "tests" / "data" / "emoji")


def terrain(place: Path) -> None:
    """What the script leaves, as a toy."""
    folder = place / "out" / "real-models" / "terrain"
    folder.mkdir(parents=True)
    names = {"sample": "noisy", "cond": "difficulty"}

    def renamed(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            value.name = names.get(value.name, value.name)
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]

    toy = onnx_toys.denoiser(folder / "model.onnx", 18, t=("sigma", ("n",), "float32"))
    onnx_toys.changed(toy, renamed)
    np.save(folder / "difficulty.npy", np.arange(4))
    steps = {
        "timesteps": [1.0],
        "clean_from_x": [0.0],
        "clean_from_output": [1.0],
        "next_from_x": [0.0],
        "next_from_output": [0.0],
        "next_from_clean": [1.0],
    }
    (folder / "sampler.json").write_text(json.dumps({"kind": "multistep", "start": 1.0, **steps}))


MATERIALS: tuple[Callable[[Path], None], ...] = (shoes, emoji, terrain)


def test_there_are_three_and_each_ends_with_pictures() -> None:
    found = blocks(GUIDE)
    assert len(found) == len(MATERIALS)
    for commands in found:
        assert commands[-1].startswith("edgegen generate out/")
        assert any(line.startswith("edgegen export") for line in commands)
        for line in commands:
            words = line.split()
            assert words[0] in ("edgegen", "python")
            assert words[0] == "edgegen" or (ROOT / words[1]).is_file(), line


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.parametrize("number", range(len(MATERIALS)), ids=[m.__name__ for m in MATERIALS])
def test_a_worked_example_runs(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # a first attempt: from so few pairs a later one, at its stricter level, shows nothing
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    MATERIALS[number](tmp_path)
    (tmp_path / PLAN).write_bytes(Plan((("*", "int8"),), {}).to_bytes())
    more = dict(MORE)
    if MATERIALS[number] is not terrain:  # a search of larger ones takes minutes
        more["export"] += ("--plan", PLAN)
    # what python's lines fetch is there already, as a toy
    follow(blocks(GUIDE)[number], more, capfd)
    (bundle,) = (path.parent for path in tmp_path.glob("out/*/manifest.json"))
    assert Bundle.open(bundle).manifest.runtimes
