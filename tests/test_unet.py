"""The U-Net: folding, shapes, every option, and independence of the images of a batch."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import nn

from edgegen.families.unet import ACTIVATIONS, Activation, Norm, UNet, UNetConfig, fold_batch_norms


def net(seed: int = 0, classes: int = 3, **options: Any) -> UNet:
    """A small network with random running statistics and no zero layers, in eval mode."""
    torch.manual_seed(seed)
    made = UNet(UNetConfig(**{"widths": (16, 32), "embedding": 16, **options}), 3, 4, classes)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if "running_mean" in name:
                value.normal_(0, 0.3)
            elif "running_var" in name:
                value.uniform_(0.3, 3.0)
            elif value.is_floating_point() and not value.any():
                value.normal_(0, 0.1)
    return made.eval()


def inputs(count: int = 4, size: int = 16, classes: int = 3) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    labels = torch.eye(classes)[torch.arange(count) % classes]
    return torch.randn(count, 3, size, size, generator=rng), torch.linspace(1, 1000, count), labels


OPTIONS = list(product(get_args(Norm), get_args(Activation), (False, True)))


def test_options_are_those_the_types_name() -> None:
    assert set(get_args(Activation)) == set(ACTIVATIONS)


@pytest.mark.parametrize(("norm", "activation", "attention"), OPTIONS)
def test_every_option_trains_and_keeps_images_apart(
    norm: Norm, activation: Activation, attention: bool
) -> None:
    made, (x, t, label) = (
        net(norm=norm, activation=activation, attention=attention, dropout=0.1),
        inputs(),
    )
    with torch.no_grad():
        whole = made(x, t, label)
        assert whole.shape == (4, 4, 16, 16) and whole.isfinite().all() and whole.std() > 1e-3
        alone = torch.cat([made(x[k : k + 1], t[k : k + 1], label[k : k + 1]) for k in range(4)])
    # a batch of four = four batches of one
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        loss = (made(x, t, label) - x.mean(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
        optimizer.step()
    assert losses[1] < losses[0]


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("widths", [(16,), (16, 32), (16, 16, 48)])
def test_folding_changes_no_output_and_leaves_no_norm(
    activation: Activation, attention: bool, widths: tuple[int, ...]
) -> None:
    made, (x, t, label) = (
        net(activation=activation, attention=attention, widths=widths, blocks=2),
        inputs(),
    )
    with torch.no_grad():
        wanted = made(x, t, label)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in made.modules()) > 5
        fold_batch_norms(made)
        torch.testing.assert_close(made(x, t, label), wanted, atol=2e-5, rtol=1e-4)
    norms = [
        m for m in made.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)
    ]
    # attention, which INT8 leaves alone, keeps its own
    assert len(norms) == (1 if attention else 0)
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.bias is not None and c.out_channels % 16 == 0 for c in convolutions)
    fold_batch_norms(made)  # nothing left to fold: no harm


def test_the_statistics_matter_to_the_folding_test() -> None:
    made, (x, t, label) = net(), inputs()
    with torch.no_grad():
        before = made(x, t, label)
        for name, value in made.state_dict().items():
            if "running_var" in name:
                value.fill_(1)
        assert not torch.allclose(before, made(x, t, label), atol=1e-3)


def test_folding_in_training_mode_is_refused() -> None:
    with pytest.raises(
        ValueError, match="batch norms fold in eval mode only: in training they depend on the batch"
    ):
        fold_batch_norms(net().train())


@pytest.mark.parametrize(
    ("patch", "widths", "blocks", "size"),
    [
        (1, (16,), 1, 8),
        (2, (16, 32), 2, 16),
        (4, (16, 16), 1, 32),
        (3, (32, 16), 1, 12),
        (2, (16, 16, 16), 1, 24),
    ],
)
def test_shapes(patch: int, widths: tuple[int, ...], blocks: int, size: int) -> None:
    made, (x, t, label) = net(patch=patch, widths=widths, blocks=blocks), inputs(2, size)
    out = made.features(x, t, label)
    assert out["output"].shape == (2, 4, size, size)
    for level, width in enumerate(widths):
        side = size // patch // 2**level
        assert out[f"down{level}"].shape == out[f"up{level}"].shape == (2, width, side, side)
    assert torch.equal(made(x, t, label), out["output"])


def test_a_new_network_returns_zero_and_every_block_starts_as_its_shortcut() -> None:
    for norm in get_args(Norm):
        made, (x, t, label) = UNet(UNetConfig((16, 32), norm=norm), 3, 3, 3), inputs()
        assert (made(x, t, label) == 0).all()
        h = torch.rand(2, 32, 4, 4)
        assert torch.equal(made.middle(h, torch.randn(2, 64)), h)


def test_time_and_label_are_seen_and_no_label_is_a_label_of_zeros() -> None:
    made, (x, t, label) = net(), inputs()
    with torch.no_grad():
        y = made(x, t, label)
        assert not torch.allclose(y, made(x, t.flip(0), label)) and not torch.allclose(
            y, made(x, t, label.roll(1, 0))
        )
        assert torch.equal(made(x, t, None), made(x, t, torch.zeros_like(label)))
        without = net(classes=0)
        assert without.embed.label is None and without(x, t, None).shape == (4, 4, 16, 16)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"widths": ()},
            r"widths must be multiples of 16 \(INT8 kernels work on 16 channels\), got \(\)",
        ),
        ({"widths": (16, 40)}, r"widths must be multiples of 16 .*got \(16, 40\)"),
        ({"widths": (0,)}, r"got \(0,\)"),
        ({"blocks": 0}, "blocks and patch must be at least 1 and embedding even, got .*blocks=0"),
        ({"patch": 0}, "blocks and patch must be at least 1"),
        ({"embedding": 15}, "embedding even, got .*embedding=15"),
        ({"norm": "layer"}, "unknown norm 'layer' or activation 'relu'"),
        ({"activation": "gelu"}, "unknown norm 'batch' or activation 'gelu'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, r"dropout must be in \[0, 1\), got nan"),
    ],
)
def test_nonsense_is_refused_in_words(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        UNetConfig(**change)
