"""dkgm's two stages: losses, their order, and a bank, a kernel and a network of every mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dkgm_toys import TINY, batches, generator, trained
from runs import same
from safetensors.torch import load_file
from torch import Tensor
from toys import shapes, tensor

from edgegen.core.runtime import Pipeline
from edgegen.families.dkgm.debias import Bridge, bridge_loss, deviation
from edgegen.families.dkgm.family import FAMILY
from edgegen.training import checkpoint, run
from edgegen.training.loop import Trainer
from edgegen.training.run import RunSettings
from edgegen.workflows.generators import torch_pipeline

pytestmark = pytest.mark.slow


def test_both_weightings_have_one_optimum_and_differ_by_the_scale() -> None:
    x, coarse, xi = torch.zeros(4, 3), torch.ones(4, 3), torch.zeros(4, 3)
    t = torch.tensor([0.25, 0.5, 0.75, 1.0])
    out = deviation(t, 0.7, 0.3)

    def right(y: Tensor, t: Tensor) -> Tensor:
        return y / out[:, None]  # x is 0, so F = X_t / c_out

    for weighting in ("scaled", "image"):
        assert bridge_loss(right, x, coarse, t, xi, Bridge(0.3, 0.7), weighting) < 1e-12
    shifted = [
        bridge_loss(lambda y, t: right(y, t) + 1, x, coarse, t, xi, Bridge(0.3, 0.7), w)
        for w in ("scaled", "image")
    ]
    assert shifted[0].item() == pytest.approx(1) and shifted[1].item() == pytest.approx(
        out.square().mean().item()
    )


# the stages


def test_a_fresh_generator_s_second_stage_changes_nothing_and_its_loss_is_one() -> None:
    made = generator()
    stream = batches(made)
    for objective in made.objectives():
        assert objective.begin is not None
        objective.begin(stream)
    made.networks.train()
    found = np.mean([float(made.debias_loss(next(stream)).detach()) for _ in range(10)])
    # of F, before anything is learned: so the spread is the data's
    assert found == pytest.approx(1, abs=0.15)
    graphs, x = made.graphs(), torch.randn(2, 3, 16, 16)
    label = torch.eye(2)
    for t in (0.0, 500.0, 1000.0):
        torch.testing.assert_close(graphs["debias"].module(x, torch.full((2,), t), label), x)


def test_at_level_zero_the_image_stays_whatever_is_learned() -> None:
    made = generator()
    trained(made, 40)
    x = torch.randn(2, 3, 16, 16)
    graph = made.graphs()["debias"].module
    assert torch.equal(graph(x, torch.zeros(2), torch.eye(2)), x)
    assert not torch.allclose(graph(x, torch.full((2,), 500.0), torch.eye(2)), x, atol=0.01)


def test_stage_one_runs_first_and_stage_two_sees_it_still() -> None:
    first, second = generator().objectives()
    assert (first.name, first.span, second.name, second.span) == (
        "coarse",
        (0.0, 0.25),
        "debias",
        (0.25, 1.0),
    )
    made = generator()
    losses = trained(made, 40)
    assert len(losses["coarse"]) == 10 and len(losses["debias"]) == 30
    before = {
        k: v.clone() for k, v in made.networks.state_dict().items() if not k.startswith("debias")
    }
    made.networks.train()
    made.networks.zero_grad()
    made.debias_loss(next(batches(made))).backward()  # type: ignore[no-untyped-call]
    assert all(net.training for net in made.networks.modules())
    # batch norms and bank as well
    assert all(torch.equal(v, made.networks.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in made.networks["coarse"].parameters())


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "pixel", "bank": "exemplars"},
        {"mode": "pixel", "kernel": "epanechnikov", "classes": 0},
        {
            "mode": "dae",
            "bank": "exemplars",
            "coarse_net": "unet",
            "debias_net": "dae",
            "weighting": "image",
            "times": "grid",
        },
        {
            "mode": "dae",
            "kernel": "radial",
            "bandwidth": 8.0,
            "noise": 0.0,
            "solver": "heun",
            "power": 1.0,
        },
        {"mode": "latent", "bank": "exemplars", "cond_coarse": True},
        {
            "mode": "latent",
            "bank": "centroids",
            "schedule": "approximation",
            "variance": "lower",
            "classes": 0,
        },
    ],
)
def test_every_mode_learns_and_is_a_function_of_its_seeds(change: dict[str, Any]) -> None:
    made = generator(**change)
    losses = trained(made, 30)
    assert list(losses) == (["debias"] if change["mode"] == "pixel" else ["coarse", "debias"])
    for name, values in losses.items():
        assert np.isfinite(values).all() and np.mean(values[-3:]) < 0.97 * np.mean(values[:3]), (
            name,
            values[:3],
            values[-3:],
        )
    pipeline = torch_pipeline(made)
    images = pipeline(range(6))
    assert (
        images.shape == (6, 3, 16, 16)
        and np.abs(images).max() <= 1
        and images.std(0).mean() > 0.001
    )
    np.testing.assert_allclose(pipeline([4]), images[4:5], atol=1e-5)
    again = generator(**change)
    trained(again, 30)
    np.testing.assert_array_equal(torch_pipeline(again)(range(6)), images)
    assert "encoder" not in made.shipped


def test_labels_choose_among_the_class_s_own_vectors() -> None:
    """Mode "pixel" with a narrow kernel shows the bank: every draw is next to a disc for label 0,
    to a box for label 1.
    """
    made = generator(mode="pixel", bank="exemplars", bandwidth=0.01)
    trained(made, 1)
    pipeline = Pipeline(made.latent, made.config.sampler(steps=0), torch_pipeline(made).call)
    photos = shapes(128, 16)
    flat = tensor(photos).flatten(1)
    for label in range(2):
        drawn = torch.from_numpy(pipeline(range(24), label)).flatten(1)
        assert (photos.labels[torch.cdist(drawn, flat).argmin(1).numpy()] == label).all()


# the engine


def go(out: Path, fail_at: int = 0, resume: bool = False, **change: Any) -> None:
    recipe = replace(
        FAMILY.recipes["tiny"](),
        config=replace(TINY, **change),
        images=8 * 12,
        batch=8,
        precision="bf16",
        warmup=2,
    )

    def progress(trainer: Trainer, _: dict[str, float]) -> None:
        if trainer.step == fail_at:
            raise RuntimeError("stopped")

    run.train(RunSettings("dkgm", "toy", recipe, 0), shapes(40, 16), out, resume, 1, progress)


@pytest.mark.parametrize("change", [{}, {"mode": "latent", "bank": "exemplars"}])
def test_a_resumed_run_is_the_uninterrupted_one(change: dict[str, Any], tmp_path: Path) -> None:
    """Killed in stage 1, where stage 2 begins (12 steps: at 3), and in stage 2: bank, spread and
    weights are the same bits.
    """
    go(tmp_path / "whole", **change)
    for name in ("first", "between", "second"):
        with pytest.raises(RuntimeError, match="stopped"):
            go(tmp_path / name, fail_at={"first": 2, "between": 4, "second": 8}[name], **change)
        go(tmp_path / name, resume=True, **change)
        same(tmp_path / "whole", tmp_path / name)
    shipped = load_file(tmp_path / "whole" / checkpoint.WEIGHTS)
    assert {k.partition(".")[0] for k in shipped} == {"coarse", "debias", "bank"}
    assert shipped["bank.values"].dtype == torch.uint8 and (shipped["bank.counts"] > 0).sum() >= 4
    last = load_file(tmp_path / "whole" / "step-00000012" / "networks.safetensors")
    # measured, not averaged with what was there before
    assert shipped["debias.spread"] == last["debias.spread"] != 1
    about, made = run.load(tmp_path / "whole")
    assert about["family"] == "dkgm" and torch_pipeline(made)(range(3)).shape == (3, 3, 16, 16)
