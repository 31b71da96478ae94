"""isc-gan's game (docs/methods/isc-gan.md, A.3, tests 7 and 8): regularisers, augmentation,
averages, resuming, and what leaves it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from runs import same
from safetensors.torch import load_file
from torch import Tensor, nn
from toys import shapes

from edgegen.calibrate.choose import plan as choose
from edgegen.calibrate.observe import Observer
from edgegen.core.graph import Batch
from edgegen.core.runtime import Pipeline
from edgegen.export import RUNTIMES, qdq, runtime
from edgegen.export.onnx import to_onnx
from edgegen.families.isc_gan.augment import EVERY, Ada, moved, recoloured
from edgegen.families.isc_gan.config import IscGanConfig, Regularizers
from edgegen.families.isc_gan.critic import Critic, spread
from edgegen.families.isc_gan.family import FAMILY, IscGan, half_life
from edgegen.families.isc_gan.losses import path_lengths, path_penalty, r1
from edgegen.training import averages, checkpoint, run
from edgegen.training.loop import Trainer
from edgegen.training.run import RunSettings
from edgegen.workflows.generators import torch_pipeline

EVERYTHING = Regularizers(
    r1_gamma=1.0, r1_interval=3, path_weight=1.0, path_interval=2, mixing=0.5, ada_kimg=0.2
)
TINY = IscGanConfig(
    size=16,
    z_dim=8,
    w_dim=16,
    widths=(32, 16, 16),
    critic_widths=(32, 16, 16),
    regularizers=EVERYTHING,
)


def generator(config: IscGanConfig = TINY, seed: int = 0) -> IscGan:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IscGan(config)


def batch(count: int = 4, classes: int = 0, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.eye(classes)[torch.arange(count) % classes] if classes else torch.zeros(count, 0)
    return Batch(torch.rand(count, 3, 16, 16, generator=rng) * 2 - 1, labels, rng)


# test 7: regularisers


def test_r1_of_a_linear_critic_is_its_slope() -> None:
    a = torch.randn(3, 4, 4, requires_grad=True)
    found = r1(lambda x: (x * a).flatten(1).sum(1), torch.randn(5, 3, 4, 4), gamma=0.3)
    torch.testing.assert_close(found, 0.15 * a.square().sum())
    (slope,) = torch.autograd.grad(found, a)
    torch.testing.assert_close(slope, 0.3 * a)


def test_path_length_of_a_linear_generator_is_analytic() -> None:
    """image = sum_l M w_l: each J_l = y M / sqrt(h w), and the length is the root mean square over
    l of its norm.
    """
    m, ws = torch.randn(12, 5), torch.randn(2, 3, 5, requires_grad=True)
    images = (ws.sum(1) @ m.T).reshape(2, 3, 2, 2)
    found = path_lengths(ws, images, torch.Generator().manual_seed(1))
    y = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1)).reshape(2, 12) / 2
    torch.testing.assert_close(found, (y @ m).norm(dim=1))


def test_path_penalty_is_zero_when_lengths_are_the_running_mean() -> None:
    mean = torch.tensor(2.0)
    assert path_penalty(torch.full((3,), 2.0), mean) == 0 and mean == 2
    path_penalty(torch.full((3,), 3.0), mean)
    assert mean.item() == pytest.approx(2.01)


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_a_lazy_term_has_the_expected_gradient_of_an_eager_one(side: str) -> None:
    """Over one interval, the summed loss of a fixed batch is the same whether the term comes once
    or each time.
    """
    sums = []
    for interval in (1, 4):
        lazy = replace(
            EVERYTHING, r1_interval=interval, path_interval=interval, mixing=0.0, ada_target=0.0
        )
        made = generator(replace(TINY, regularizers=lazy, noise=False))
        made.progress.path_mean.fill_(0.5)
        loss = made.generator_loss if side == "generator" else made.critic_loss
        total = torch.zeros(())
        for _ in range(4):
            made.progress.path_mean.fill_(0.5)
            total = total + loss(batch())
        params = tuple(made.networks[side].parameters())
        grads = torch.autograd.grad(total, params, allow_unused=True)
        sums.append(torch.cat([g.flatten() for g in grads if g is not None]))
        none = replace(lazy, r1_gamma=0.0, path_weight=0.0)
        assert not torch.allclose(
            sums[-1], _grads(replace(TINY, regularizers=none, noise=False), side), rtol=1e-3
        )
    torch.testing.assert_close(sums[1], sums[0], rtol=2e-3, atol=2e-5)


def _grads(config: IscGanConfig, side: str) -> Tensor:
    made = generator(config)
    loss = made.generator_loss if side == "generator" else made.critic_loss
    total = sum((loss(batch()) for _ in range(4)), torch.zeros(()))
    grads = torch.autograd.grad(total, tuple(made.networks[side].parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def test_each_side_moves_only_itself() -> None:
    made = generator()
    for side, loss in (("generator", made.generator_loss), ("discriminator", made.critic_loss)):
        made.networks.zero_grad()
        loss(batch()).backward()  # type: ignore[no-untyped-call]
        for name, net in made.networks.items():
            moved_ones = {k for k, p in net.named_parameters() if p.grad is not None}
            assert moved_ones == ({k for k, _ in net.named_parameters()} if name == side else set())
    assert all(p.requires_grad for p in made.networks.parameters())


def test_minibatch_deviation_is_a_group_s_and_fits_any_batch() -> None:
    x = torch.randn(6, 3, 2, 2)
    whole = spread(x, 6)
    assert whole.shape == (6, 1, 2, 2)
    torch.testing.assert_close(whole[0, 0, 0, 0], (x.var(0, unbiased=False) + 1e-8).sqrt().mean())
    pairs = spread(x, 4)  # 4 does not divide 6: groups of two
    torch.testing.assert_close(
        pairs[1, 0, 0, 0], (x[[1, 4]].var(0, unbiased=False) + 1e-8).sqrt().mean()
    )
    assert spread(x[:1], 4).max() <= 1e-3


def test_a_conditional_critic_reads_the_label() -> None:
    critic = Critic(replace(TINY, classes=3, critic="plain"))
    x = torch.randn(1, 3, 16, 16).expand(3, -1, -1, -1)
    assert len({round(v, 4) for v in critic(x, torch.eye(3)).tolist()}) == 3


# test 8: averages and augmentation


def test_after_one_half_life_a_new_weight_counts_half() -> None:
    update = averages._average(half_life(640, 64))
    average = [torch.zeros(3)]
    for count in range(10_000, 10_010):  # 640 images
        update(average, [torch.ones(3)], count)
    torch.testing.assert_close(average[0], torch.full((3,), 0.5))


def test_p_moves_by_a_notch_and_stays_between_0_and_1() -> None:
    ada = Ada(target=0.6, kimg=0.5)
    sure, unsure = torch.ones(8), torch.tensor([1.0, -1] * 4)
    for _ in range(EVERY - 1):
        ada.follow(sure)
    assert ada.p == 0
    ada.follow(sure)
    assert ada.p.item() == pytest.approx(8 * 4 / 500)
    for _ in range(EVERY):
        ada.follow(unsure)
    assert ada.p == 0
    for _ in range(EVERY):
        ada.follow(unsure)
    assert ada.p == 0  # clamped
    for _ in range(20 * EVERY):
        ada.follow(sure)
    assert ada.p == 1
    off = Ada(target=0.0, kimg=0.5)
    off.follow(sure)
    assert off.batches == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_neutral_at_0_differentiable_and_bounded(channels: int) -> None:
    x = (torch.rand(16, channels, 8, 8) * 2 - 1).requires_grad_(True)
    rng = torch.Generator().manual_seed(0)
    never = torch.zeros(())
    torch.testing.assert_close(moved(x, never, rng), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recoloured(x, never, rng), x, atol=1e-5, rtol=1e-5)
    assert Ada(0.0, 1.0)(x, rng) is x
    ada = Ada(0.6, 1.0)
    torch.testing.assert_close(ada(x, rng), x, atol=2e-5, rtol=2e-5)
    ada.p.fill_(0.8)
    y = ada(x, rng)
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    changed = (y - x).flatten(1).abs().amax(1) > 1e-3
    assert (
        y.shape == x.shape
        and y.isfinite().all()
        and changed.float().mean() > 0.8
        and (slope != 0).any()
    )
    again = [Ada.forward(ada, x, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)


def test_whole_augmentations_are_exact() -> None:
    """Where a draw is a flip, a quarter turn or whole pixels, the affine map lands on pixels."""
    from edgegen.families import transforms

    x = torch.randn(1, 3, 8, 8)

    def by(matrix: Tensor) -> Tensor:
        grid = nn.functional.affine_grid(matrix[:, :2], [1, 3, 8, 8], align_corners=False)
        return nn.functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)

    one = torch.ones(1)
    torch.testing.assert_close(by(transforms.scaling(-one, one)), x.flip(3), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        by(transforms.rotation(one * torch.pi / 2)), x.rot90(-1, (2, 3)), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        by(transforms.shift(one * 0.25, 0 * one))[:, :, :, 1:],
        x[:, :, :, :-1],
        atol=1e-5,
        rtol=1e-5,
    )
    hue = transforms.hue(one * 2 * torch.pi / 3)
    torch.testing.assert_close(
        hue[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0
    )


# a run as a whole; test 9 is in test_isc_gan_training.py


def go(out: Path, fail_at: int = 0, resume: bool = False) -> None:
    config = replace(TINY, classes=2)
    recipe = replace(
        FAMILY.recipes["tiny"](), config=config, images=8 * 12, batch=8, precision="bf16", warmup=2
    )

    def progress(trainer: Trainer, _: dict[str, float]) -> None:
        if trainer.step == fail_at:
            raise RuntimeError("stopped")

    run.train(RunSettings("isc-gan", "toy", recipe, 0), shapes(40, 16), out, resume, 4, progress)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Augmentation, lazy terms, path lengths and the mean style go on where they were, to the
    bit.
    """
    go(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="stopped"):
        go(tmp_path / "cut", fail_at=7)
    go(tmp_path / "cut", resume=True)
    same(tmp_path / "whole", tmp_path / "cut")
    state = load_file(tmp_path / "whole" / "step-00000012" / "networks.safetensors")
    assert state["progress._extra_state"].tolist() == [12, 12] and state["progress.path_mean"] > 0
    assert state["progress.ada.batches"] == 12 and state["generator.mapping.mean"].abs().sum() > 0
    shipped = load_file(tmp_path / "whole" / checkpoint.WEIGHTS)
    assert {k.partition(".")[0] for k in shipped} == {"generator"}  # the discriminator stays behind
    about, made = run.load(tmp_path / "whole")
    assert about["family"] == "isc-gan" and torch_pipeline(made)(range(3)).shape == (3, 3, 16, 16)


# what leaves training


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"fuse": "modulated"},
        {"connection": "skip", "noise": False, "up": "after", "classes": 3},
    ],
)
def test_graphs_become_int8_files_for_every_runtime(change: dict[str, Any]) -> None:
    made = generator(replace(TINY, **change))
    made.networks.eval()
    wanted = torch_pipeline(made)
    graphs = made.graphs()
    assert list(graphs) == ["mapping", "synthesis"]
    models = {name: to_onnx(graph, name) for name, graph in graphs.items()}
    sampler, latent = made.sampler, made.latent

    def executed(files: dict[str, Any]) -> Pipeline:
        def call(model: Any) -> Any:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            return lambda **inputs: session.run(None, inputs)[0]

        return Pipeline(latent, sampler, {k: call(m) for k, m in files.items()}, batch=5)

    np.testing.assert_allclose(executed(models)(range(7)), wanted(range(7)), atol=1e-5)
    observers = {k: Observer(m, qdq.candidates(m), sampler.timesteps, 1) for k, m in models.items()}
    Pipeline(latent, sampler, observers)(range(32))
    for observer in observers.values():
        observer.stats.check()
        assert observer.stats.coverage == {0: 32}
    plan = choose(models, {k: o.stats for k, o in observers.items()})
    for name in (name for name in RUNTIMES if runtime(name).dialect.int8_ops):
        quantized = {k: qdq.quantize(m, k, plan, runtime(name).dialect) for k, m in models.items()}
        weights = {t.name: t.data_type for t in quantized["synthesis"].graph.initializer}
        assert sum(k.endswith("weight.int") for k in weights) >= 3
        # no FP32 copy beside it
        assert not any(k.endswith("conv.weight") and f"{k}.int" in weights for k in weights)
        images = executed(quantized)(range(7))
        error = np.square(images - wanted(range(7))).mean()
        assert 0 < error < 0.1 * wanted(range(7)).var(), name
    assert not any(n.op_type == "QuantizeLinear" for n in quantized["mapping"].graph.node)


@pytest.mark.parametrize("name", sorted(FAMILY.recipes))
def test_recipes_build(name: str) -> None:
    recipe = FAMILY.recipes[name]()
    with torch.device("meta"):
        made = FAMILY.build(recipe.config)
    assert [o.name for o in made.objectives()] == (
        ["qat"] if recipe.config.qat else ["generator", "discriminator"]
    )
    assert made.image_shape == (3, recipe.config.size, recipe.config.size) and list(
        made.shipped
    ) == ["generator"]
    assert (FAMILY.recipes[name].__doc__ or "").strip()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 24}, "size must be a power of two from 8 on, got 24"),
        ({"widths": (16, 16)}, "size 16 has 3 levels from 4x4 on, got 2 widths"),
        ({"critic_widths": (16, 16, 20)}, "critic_widths must be multiples of 16"),
        ({"connection": "residual"}, "unknown connection 'residual'; known: squeeze, skip"),
        ({"isc_min_res": 16}, "unknown isc_min_res 16; known: 4, 8"),
        ({"ratio": 0}, "must be at least 1"),
        ({"truncation": 1.5}, r"truncation must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_words(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        replace(TINY, **change)


@pytest.mark.parametrize(
    "change", [{"r1_interval": 0}, {"r1_gamma": float("nan")}, {"mixing": 2.0}, {"ada_kimg": 0.0}]
)
def test_regularizers_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Regularizers(**change)
