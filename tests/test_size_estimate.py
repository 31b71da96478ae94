"""`edgegen estimate FAMILY`: exact parameters, MACs that a hand count gives, memory that a
measurement bears out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import HERE
from torch import nn
from torch.nn import functional as F

from edgegen.cli.main import run
from edgegen.families import FAMILIES, Judged, family
from edgegen.training.size_estimate import _noise, _passes, counted, measure

Captured = pytest.CaptureFixture[str]
SMALL = [
    (name, recipe)
    for name in FAMILIES
    for recipe in family(name).recipes
    if recipe == "tiny" or (name, recipe) == ("cas-dm", "photos32")
]


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """measure() of each family's tiny recipe."""
    made = {}
    for name in FAMILIES:
        recipe = family(name).recipes["tiny"]()
        made[name] = measure(family(name).build(recipe.config), recipe)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_exact(name: str, tiny: dict[str, Any]) -> None:
    generator = family(name).build(family(name).recipes["tiny"]().config)
    wanted = {n: sum(p.numel() for p in net.parameters()) for n, net in generator.networks.items()}
    assert tiny[name].parameters == wanted and sum(tiny[name].trained.values()) <= sum(
        wanted.values()
    )
    assert tiny[name].trained == {
        o.name: sum(p.numel() for p in o.params) for o in generator.objectives()
    }
    assert tiny[name].macs.keys() == generator.graphs().keys() and all(
        n >= 0 for n in tiny[name].macs.values()
    )
    assert tiny[name].memory["Adam"] == 8 * sum(tiny[name].trained.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), SMALL)
def test_every_recipe_can_be_asked_without_data(
    name: str, recipe: str, capsys: Captured, tmp_path: Path
) -> None:
    assert run(["estimate", name, "--recipe", recipe, "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] and told["verb"] == "estimate"
    assert (told["family"], told["recipe"]) == (name, recipe)
    assert told["peak_bytes"] < told["resident_bytes"] < 2 * told["peak_bytes"]
    assert (
        told["peak_bytes"]
        == sum(told["memory_bytes"].values())
        > 4 * told["memory_bytes"]["weights"]
        > 0
    )
    assert sum(told["training_macs"].values()) > 0 and sum(told["macs"].values()) > 0
    if recipe != "tiny":
        return  # what people are shown needs no second large measurement
    assert run(["estimate", name, "--recipe", recipe, "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "Nothing was trained" in shown and "estimated peak" in shown
    for n, count in told["parameters"].items():
        assert any(line.split() == [n, f"{count:,}"] for line in shown.splitlines())


def test_training_needs_photos_and_a_run_folder(tmp_path: Path, capsys: Captured) -> None:
    assert run(["train", "cas-dm", "--data", str(tmp_path)]) == 2
    assert "error[E-USAGE] give the run folder once" in capsys.readouterr().err
    assert run(["train", "cas-dm", str(tmp_path / "run")]) == 2
    assert "error[E-USAGE] training needs --data - `edgegen estimate`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert run(["estimate", "cas-dm", "--recipe", "no"]) == 2
    assert "E-RECIPE] cas-dm has no recipe 'no'" in capsys.readouterr().err


def test_multiply_adds_are_those_of_a_hand_count() -> None:
    conv, linear = nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Linear(12, 5)
    q = torch.randn(2, 3, 16, 4, requires_grad=True)
    with counted() as total:
        linear(conv(torch.randn(2, 8, 6, 6)).mean((2, 3)))
    assert total == [2 * (12 * 2 * 9 * 36 + 12 * 5)]
    with counted() as total:
        F.scaled_dot_product_attention(q, q, q)
    assert total == [2 * 3 * (16 * 16 * 4 * 2)]


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    recipe = family("cas-dm").recipes["tiny"]()
    sizes = [
        measure(family("cas-dm").build(recipe.config), replace(recipe, batch=b)).memory
        for b in (8, 16, 32)
    ]
    assert (
        sizes[0]["weights"] == sizes[2]["weights"]
        and sizes[0]["gradients"] == sizes[2]["gradients"]
    )
    a, b, c = (s["activations"] for s in sizes)
    assert c - b == pytest.approx(2 * (b - a), rel=0.01) and b > a


@pytest.mark.slow
@pytest.mark.parametrize(("name", "recipe"), SMALL)
def test_activations_are_those_of_a_larger_batch(name: str, recipe: str) -> None:
    """Extrapolated to 12 images, as the losses of a fresh generator keep on 12 images: lazy terms
    are in both.
    """
    plan = replace(family(name).recipes[recipe](), batch=12)
    made = family(name).build(plan.config)
    made.networks.train()
    if isinstance(made, Judged):
        made.teach([_noise(made, 2)])
    kept = [p.peak for p in _passes(made, tuple(made.objectives()), plan, 12)]
    assert measure(family(name).build(plan.config), plan).memory["activations"] == pytest.approx(
        max(kept), rel=0.1
    )


CHILD = """
import sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from toys import shapes
from edgegen.training.size_estimate import measure
from edgegen.families import family
from edgegen.training.loop import Trainer

def resident(word):
    return int(Path("/proc/self/status").read_text().partition(word)[2].split()[0]) * 1024

def steps(recipe, count):
    photos = shapes(recipe.batch, recipe.config.size)
    generator = family({name!r}).build(recipe.config)
    trainer = Trainer.start(generator, replace(recipe, images=recipe.batch * count), photos, 0)
    for _ in trainer.run():
        pass

recipe = replace(family({name!r}).recipes["tiny"](), batch=256)
# every stage has a step; what torch itself takes at the first use
steps(replace(recipe, batch=8), 10)
before = resident("VmRSS:")
steps(recipe, 10)
print(resident("VmHWM:") - before, measure(family({name!r}).build(recipe.config), recipe).peak)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_memory_is_near_what_a_training_takes(name: str) -> None:
    """At batch 256, where activations are most of it, in a process that gives back what it
    frees.
    """
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(path=HERE, name=name)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    taken, estimated = map(int, done.stdout.split())
    assert 0.75 < estimated / taken < 1.35, (
        f"estimated {estimated / 1e6:.0f} MB, took {taken / 1e6:.0f} MB"
    )
