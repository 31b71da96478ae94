"""Cas-DM's choices: theta frozen before phi, the metric's warm-up, gates, phi in a window, recipes,
the zoo's weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from toys import CONFIG, NET, calls, draws, generator, phi, shaken, shapes, tensor, train, trainer

from edgegen.core.graph import Batch, Objective
from edgegen.core.samplers import (
    SingleSampler,
    asked,
    mean_gates,
    sampler_from_json,
    sampler_to_json,
)
from edgegen.export.onnx import to_onnx
from edgegen.families.cas_dm import FAMILY, CasDm, CasDmConfig
from edgegen.families.unet import UNetConfig
from edgegen.training.loop import Trainer
from edgegen.workflows.generators import load_generator, torch_pipeline
from edgegen.zoo import ROOT

DROPS = replace(NET, dropout=0.3)
ZOO = (  # mean and standard deviation of the images of seeds 0 to 9
    (-0.4257, -0.6099, -0.4357, -0.655, -0.3465, -0.8485, -0.3831, -0.7563, -0.5714, -0.5844),
    (0.7763, 0.6735, 0.6027, 0.5721, 0.7492, 0.3774, 0.7226, 0.5048, 0.4776, 0.6359),
)
FROZEN = replace(CONFIG, mode="frozen", theta=DROPS, phi=DROPS)


def batches(count: int, first: int = 0) -> Iterator[Batch]:
    for k in range(first, first + count):
        yield Batch(tensor(shapes(8, seed=k)), torch.zeros(8, 0), torch.Generator().manual_seed(k))


def moved(model: CasDm, names: tuple[str, ...], steps: range) -> CasDm:
    """The model after these steps of these objectives, each with its own optimizer and dropout, as
    the engine has it.
    """
    model.networks.train()
    chosen = [o for o in model.objectives() if o.name in names]
    optimizers = [torch.optim.Adam(o.params, lr=1e-3) for o in chosen]
    for step, batch in zip(steps, batches(len(steps), steps.start), strict=True):
        for number, (objective, optimizer) in enumerate(zip(chosen, optimizers, strict=True)):
            torch.manual_seed(2 * step + number)
            optimizer.zero_grad(set_to_none=True)
            objective.loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# frozen and joint (docs/methods/cas-dm.md, C.2.8)


def test_2_theta_is_bit_identical_after_its_own_steps_in_both_modes() -> None:
    joint = (
        moved(generator(replace(FROZEN, mode="joint")), ("theta", "phi"), range(6))
        .networks["theta"]
        .state_dict()
    )
    start = generator(FROZEN).networks["theta"].state_dict()
    frozen = moved(generator(FROZEN), ("theta",), range(6))
    assert same(frozen.networks["theta"].state_dict(), joint) and not same(start, joint)
    untrained = copy.deepcopy(frozen.networks["phi"].state_dict())
    moved(frozen, ("phi",), range(6, 12))
    # batch norm's statistics are among them
    assert same(frozen.networks["theta"].state_dict(), joint)
    assert frozen.networks["theta"].training and not same(
        frozen.networks["phi"].state_dict(), untrained
    )
    assert all(
        p.grad is None or not p.grad.any() for p in generator(FROZEN).networks["theta"].parameters()
    )


@pytest.mark.slow
def test_2_a_frozen_run_has_the_theta_of_a_joint_run_of_half_its_length() -> None:
    joint, frozen = trainer(replace(FROZEN, mode="joint"), steps=6), trainer(FROZEN, steps=12)
    start = copy.deepcopy(frozen.generator.networks["phi"].state_dict())
    reports = train(joint), train(frozen)
    assert [sorted(report) for report in reports[1]] == 6 * [["theta"]] + 6 * [["phi"]]
    assert [r["theta"] for r in reports[0]] == [r["theta"] for r in reports[1][:6]]
    assert same(joint.averages["theta"].state_dict(), frozen.averages["theta"].state_dict())
    # phi saw what ships
    assert same(
        frozen.generator.networks["theta"].state_dict(), frozen.averages["theta"].state_dict()
    )
    assert not same(frozen.generator.networks["phi"].state_dict(), start)


def test_a_base_is_adapted_with_most_steps_for_theta() -> None:
    model = CasDm(FROZEN)
    spans = {o.name: o.span for o in model.adapting()}
    assert spans == {"theta": (0.0, 0.8), "phi": (0.8, 1.0)}
    assert {o.span for o in CasDm(CONFIG).adapting()} == {(0.0, 1.0)}


def test_a_frozen_theta_speaks_without_dropout() -> None:
    model = shaken(replace(CONFIG, mode="frozen", theta=DROPS))
    model.networks["phi"].eval()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses += [model.phi_loss(batch) for batch in batches(1)]
    assert losses[0] == losses[1]
    assert model.networks["theta"].training


def test_modes_say_which_part_of_a_run_is_whose() -> None:
    assert [o.span for o in generator().objectives()] == [(0, 1), (0, 1)]
    assert [(o.name, o.span) for o in generator(FROZEN).objectives()] == [
        ("theta", (0, 0.5)),
        ("phi", (0.5, 1)),
    ]


# metric warm-up (C.2.8)


def test_the_metric_joins_after_its_warm_up() -> None:
    model = shaken(replace(CONFIG, metric_warmup=0.1))
    silent = shaken(replace(CONFIG, metric_weight=0.0))

    def loss(of: CasDm, progress: float) -> float:
        batch = replace(next(batches(1)), progress=progress)
        of.theta_loss(batch)
        return of.phi_loss(batch).item()

    assert loss(model, 0.0) == loss(model, 0.099) == loss(silent, 0.5)
    assert loss(model, 0.1) == loss(model, 1.0) > loss(silent, 0.5)
    # without a warm-up it is there from the first step
    assert loss(shaken(), 0.0) == loss(model, 1.0)


class Watched(CasDm):
    """Writes down how far its objectives are told they are."""

    def __init__(self, config: CasDmConfig) -> None:
        super().__init__(config)
        self.told: list[tuple[str, float]] = []

    def theta_loss(self, batch: Batch) -> torch.Tensor:
        self.told.append(("theta", batch.progress))
        return super().theta_loss(batch)

    def phi_loss(self, batch: Batch) -> torch.Tensor:
        self.told.append(("phi", batch.progress))
        return super().phi_loss(batch)


@pytest.mark.parametrize(("config", "steps"), [(CONFIG, 5), (FROZEN, 10)])
def test_the_loop_says_how_far_an_objective_is(config: CasDmConfig, steps: int) -> None:
    base, watched = trainer(config, steps=steps), Watched(config)
    run = Trainer.start(watched, base.recipe, base.photos, seed=0)
    train(run)
    assert [p for name, p in watched.told if name == "phi"] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8]
    )
    part = Objective("phi", (), lambda _: torch.zeros(()), span=(0.5, 1.0))
    assert [part.progress(share) for share in (0.0, 0.5, 0.55, 0.75, 1.0)] == pytest.approx(
        [0, 0, 0.1, 0.5, 1]
    )


# gates (C.2.4)


def test_without_a_gate_phi_alone_makes_the_image() -> None:
    model = shaken(replace(CONFIG, gate="none", metric_weight=0.0))
    assert phi(model).trunk.head.out_channels == 3 * NET.patch**2
    batch = next(batches(1))
    model.theta_loss(batch)
    seen: list[torch.Tensor] = []
    model.networks["phi"].register_forward_hook(lambda *a: seen.append(a[2]))
    loss = model.phi_loss(batch)
    assert (seen[0][:, -1] == 1).all()
    torch.testing.assert_close(loss, (seen[0][:, :-1] - batch.images).square().mean())
    x, draw = torch.randn(2, 3, 16, 16), draws((2, 3, 16, 16))
    images = [model.sampler_with(4, path)(calls(model), x, {}, draw) for path in ("dynamic", "x0")]
    torch.testing.assert_close(images[0], images[1])


@pytest.mark.parametrize("gate", ["sigmoid", "clip", "linear", "scalar"])
def test_a_gate_keeps_its_bounds(gate: Any) -> None:
    model = shaken(replace(CONFIG, gate=gate), scale=0.3 if gate == "scalar" else 1.0)
    model.networks.eval()
    with torch.no_grad():
        refined = model.networks["phi"](*torch.randn(2, 8, 3, 16, 16), torch.full((8,), 50.0))
    found = refined[:, -1:]
    assert found.shape == (8, 1, 16, 16)
    assert bool(found.min() < 0 or found.max() > 1) == (gate == "linear")
    assert bool((found.amax((2, 3)) == found.amin((2, 3))).all()) == (gate == "scalar")
    assert len(found.flatten(1).mean(1).unique()) > 1  # each image has its own


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["clip", "scalar", "none"])
def test_gates_leave_as_onnx(gate: Any) -> None:
    import onnxruntime

    model = shaken(replace(CONFIG, gate=gate, gate_trunk_detach=True), scale=0.3)
    graph = model.graphs()["phi"]
    session = onnxruntime.InferenceSession(
        to_onnx(graph, "phi").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        inputs = {spec.name: torch.randn(spec.sized(batch=count)) for spec in graph.inputs}
        (found,) = session.run(None, {k: v.numpy() for k, v in inputs.items()})
        np.testing.assert_allclose(found, graph.module(**inputs).numpy(), atol=1e-4)


def test_fixed_gates_of_a_gate_without_bounds_are_cut() -> None:
    model = shaken(replace(CONFIG, gate="linear", gate_bias=8.0))
    with torch.no_grad():
        phi(model).trunk.head.get_parameter("bias").fill_(3.0)
    gates = mean_gates(
        model.sampler, calls(model), torch.randn(2, 3, 16, 16), {}, draws((2, 3, 16, 16))
    )
    assert gates == (1.0,) * 4


# phi in a window of timesteps (C.2.9)


@pytest.mark.parametrize(
    ("window", "inside"),
    [
        (None, (100, 75, 50, 25)),
        ((1, 100), (100, 75, 50, 25)),
        ((50, 75), (75, 50)),
        ((0, 30), (25,)),
    ],
)
def test_phi_runs_in_its_window_only(
    window: tuple[int, int] | None, inside: tuple[int, ...]
) -> None:
    model = shaken(replace(CONFIG, window=window))
    sampler, call, asked_phi = model.sampler, calls(model), []
    assert sampler.asks("theta") == (100, 75, 50, 25) and asked(sampler, "phi") == inside
    assert asked(replace(sampler, path="eps"), "phi") == ()

    def spy(**inputs: Any) -> Any:
        asked_phi.append(int(inputs["t"][0]))
        return call["phi"](**inputs)

    x, draw = (
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        draws((2, 3, 16, 16)),
    )
    images = sampler({"theta": call["theta"], "phi": spy}, x, {}, draw)
    assert tuple(asked_phi) == inside
    gates = mean_gates(sampler, call, x, {}, draw)
    assert [g > 0 for g in gates] == [t in inside for t in sampler.timesteps]
    elsewhere = model.sampler_with(
        4, "fixed", gates=tuple(float(t in inside) for t in sampler.timesteps)
    )
    torch.testing.assert_close(
        replace(sampler, path="x0")(call, x, {}, draw),
        replace(elsewhere, window=None)(call, x, {}, draw),
    )
    assert torch.equal(images, model.sampler_with(4)(call, x, {}, draw))
    again = sampler_from_json(json.loads(json.dumps(sampler_to_json(sampler))))
    assert again == sampler
    assert asked(SingleSampler(("a",)), "a") == (0,)


# recipes (C.4) and the zoo


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("photos32", (1.46, 1.47)),
        ("photos64", (74.9, 18.8)),
        ("photos256", (76.5, 12.5)),
    ],
)
def test_recipes_are_of_the_size_they_say(name: str, millions: tuple[float, float]) -> None:
    config = FAMILY.recipes[name]().config
    with torch.device("meta"):
        model = CasDm(config)
    found = [sum(p.numel() for p in model.networks[k].parameters()) / 1e6 for k in ("theta", "phi")]
    assert found == pytest.approx(millions, rel=0.01)
    assert (
        config.metric_warmup == 0.1
        and config.metric_weight == 0.1
        and config.metric_schedule == "snr"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos64", "photos256"])
def test_gpu_recipes_take_a_step_at_their_size(name: str) -> None:
    """All of the recipe but its widths."""
    config = FAMILY.recipes[name]().config

    def slim(net: UNetConfig) -> UNetConfig:
        return replace(net, widths=(16,) * len(net.widths), embedding=16)

    model = generator(replace(config, theta=slim(config.theta), phi=slim(config.phi)))
    assert model.judge is not None
    model.judge.taught.fill_(1)
    labels = torch.eye(10)[:2]
    batch = Batch(
        torch.rand(2, 3, config.size, config.size) * 2 - 1,
        labels,
        torch.Generator().manual_seed(0),
        progress=0.5,
    )
    for objective in model.objectives():
        loss = objective.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite() and all(
            p.grad is not None and p.grad.isfinite().all() for p in objective.params
        )


@pytest.mark.slow
def test_the_zoos_card_still_describes_what_was_trained() -> None:
    """Fields that the card does not have take the values that were fixed when it was written."""
    card = json.loads((ROOT / "cas-dm" / "card.json").read_text())
    source = load_generator("cas-dm")
    assert isinstance(source.generator, CasDm)
    config, since = (
        source.generator.config,
        {f.name for f in fields(CasDmConfig)} - card["config"].keys(),
    )
    assert {name: getattr(config, name) for name in since} == {
        "mode": "joint",
        "gate": "sigmoid",
        "gate_loss": "bounded",
        "gate_trunk_detach": False,
        "solver": "ddim",
        "metric_warmup": 0.0,
        "spacing": 1.0,
        "window": None,
        "stretch": 1,
        "augment": 0.0,
    }
    images = torch_pipeline(source.generator)(range(10))
    found = images.mean((1, 2, 3)), images.std((1, 2, 3))
    np.testing.assert_allclose(found, ZOO, atol=2e-4)  # of the code that trained it
