"""lcd's networks: attention, control, autoencoder, graphs (docs/methods/latent-consistency.md, E.3,
tests 6, 7 and part of 10).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from latents import TINY, batches, fit, lcd, shaken
from torch import Tensor, nn

from edgegen.core.graph import Graph
from edgegen.families.lcd.attention import TRANSFORMERS, ContextEncoder, TokenSet
from edgegen.families.lcd.control import Controlled
from edgegen.families.lcd.hints import HINTS, palette
from edgegen.families.lcd.unet import LatentUNet


def transformer(kind: str, silent: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = TRANSFORMERS[kind](32, 16, 8, "batch")
    if not silent:
        for p in made.parameters():
            nn.init.normal_(p, std=0.3)
    return made.eval()


# test 6: cross-attention


@pytest.mark.parametrize("kind", sorted(TRANSFORMERS))
def test_6_the_order_of_context_tokens_means_nothing(kind: str) -> None:
    net, x, tokens = transformer(kind), torch.randn(2, 32, 4, 4), torch.randn(2, 5, 8)
    torch.testing.assert_close(
        net(x, TokenSet(tokens)), net(x, TokenSet(tokens[:, [4, 2, 0, 1, 3]]))
    )
    assert not torch.allclose(net(x, TokenSet(tokens)), net(x, TokenSet(tokens + 1)), atol=1e-3)


@pytest.mark.parametrize("kind", sorted(TRANSFORMERS))
def test_6_masked_tokens_have_no_influence(kind: str) -> None:
    net, x, tokens = transformer(kind), torch.randn(2, 32, 4, 4), torch.randn(2, 5, 8)
    keep = torch.tensor([True, True, False, True, False]).expand(2, -1)
    other = tokens.clone()
    other[:, [2, 4]] = 100.0
    assert torch.equal(net(x, TokenSet(tokens, keep)), net(x, TokenSet(other, keep)))
    torch.testing.assert_close(
        net(x, TokenSet(tokens, keep)), net(x, TokenSet(tokens[:, [0, 1, 3]]))
    )


@pytest.mark.parametrize("kind", sorted(TRANSFORMERS))
def test_6_the_block_starts_as_identity(kind: str) -> None:
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(transformer(kind, silent=True).train()(x, TokenSet(torch.randn(2, 5, 8))), x)


@pytest.mark.slow
def test_6_ten_steps_teach_the_class_to_matter() -> None:
    model = lcd()
    model.measure(batches(2))
    x, t = torch.randn(2, 4, 8, 8), torch.full((2,), 50.0)

    def difference() -> float:
        with torch.no_grad():
            made = [model.teacher.eval()(x, t, torch.eye(2)[[k, k]]) for k in (0, 1)]
        return float((made[0] - made[1]).abs().max())

    assert difference() == 0
    fit(model.teacher_loss, list(model.teacher.parameters()), batches(10), 1e-2)
    assert difference() > 1e-3


def test_6_a_label_of_zeros_is_the_null_tokens_and_an_absent_vector_is_masked() -> None:
    net = ContextEncoder(3, 5, tokens=2, width=4)
    tokens, keep = net(
        2, torch.eye(3)[[0, 1]] * torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0] * 5, [1.0] * 5])
    )
    assert torch.equal(tokens[0, :2], net.null) and not torch.equal(tokens[1, :2], net.null)
    assert keep is not None and keep.tolist() == [[True, True, False, False], [True] * 4]
    assert net(2, None, None).tokens.shape == (2, 2, 4) and net(2, None, None).keep is None


@pytest.mark.parametrize("palette_side", [0, 2])
def test_an_embedding_vector_conditions_too(palette_side: int) -> None:
    model = shaken(palette=palette_side, like=palette_side > 0, way="teacher")
    model.networks.eval()
    denoiser = model.graphs()["denoiser"]
    assert [spec.name for spec in denoiser.inputs] == [
        "x",
        "t",
        *(["vector"] if palette_side else []),
        "label",
    ]
    x, t, label = torch.randn(3, 4, 8, 8), torch.full((3,), 50.0), torch.eye(2)[[0, 1, 0]]
    if palette_side:
        photos = torch.rand(3, 3, 16, 16) * 2 - 1
        vector = model.vector_of(photos)
        torch.testing.assert_close(
            vector.reshape(3, 3, 2, 2), photos.reshape(3, 3, 2, 8, 2, 8).mean((3, 5))
        )
        assert not torch.allclose(
            denoiser.module(x, t, vector, label), denoiser.module(x, t, -vector, label)
        )
        torch.testing.assert_close(
            denoiser.module(x, t, vector * 0, label),
            model.teacher(x, t, label),
            atol=1e-5,
            rtol=1e-4,
        )
        model.networks.train()
        assert (
            model.teacher_loss(next(batches(1))).isfinite()
            and model.student_loss(next(batches(1))).isfinite()
        )


# test 7: control


def digest(net: nn.Module) -> str:
    return hashlib.sha256(
        b"".join(v.numpy().tobytes() for v in net.state_dict().values())
    ).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("hint", sorted(HINTS))
def test_7_control_starts_silent_and_leaves_the_base_alone(hint: Any) -> None:
    model = shaken(hint=hint)
    with torch.no_grad():
        for layer in [*model.control.zeros, model.control.hint.out]:
            for p in layer.parameters():
                p.zero_()
    model.begin_control(iter(()))
    base, control, start = model.student, model.control, digest(model.student)
    x, t, label, w = torch.randn(2, 4, 8, 8), torch.full((2,), 50.0), torch.eye(2), torch.ones(2)
    shown = [HINTS[hint](b.images[:2], b.generator) for b in batches(2)]
    both = Controlled(base, control).eval()
    with torch.no_grad():
        assert torch.equal(both(x, t, shown[0], label, w), base(x, t, label, None, w))
    batch = next(batches(1))
    model.networks.train()
    model.control_loss(batch).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in control.zeros.parameters())
    assert all(p.grad is None or not p.grad.any() for p in control.trunk.parameters())
    assert all(p.grad is None for p in base.parameters()) and all(
        p.requires_grad for p in base.parameters()
    )
    control.zero_grad()
    losses = fit(model.control_loss, list(control.parameters()), batches(12), 5e-3)
    assert (
        all(p.grad is not None and p.grad.any() for p in control.trunk.stem.parameters())
        and np.isfinite(losses).all()
    )
    assert digest(base) == start
    with torch.no_grad():
        one, other = (Controlled(base, control).eval()(x, t, h, label, w) for h in shown)
    assert (one - other).abs().max() > 1e-4


def test_hints_are_what_they_say() -> None:
    images = -torch.ones(2, 3, 16, 16)
    images[:, :, :, 8:] = 1
    g = torch.Generator().manual_seed(0)
    edges = HINTS["edges"](images, g)
    assert (
        edges.shape == (2, 1, 16, 16)
        and edges[:, :, :, 7:9].min() == 1
        and edges[:, :, :, :7].max() == 0
    )
    photos = torch.rand(200, 3, 16, 16) * 2 - 1
    luminance = HINTS["luminance"](photos, g)
    assert luminance.shape == (200, 1, 16, 16)
    assert torch.equal(
        luminance[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3), luminance
    )
    boxes = HINTS["boxes"](photos, g)
    seen = boxes[:, 3:]
    assert boxes.shape == (200, 4, 16, 16) and set(seen.flatten().tolist()) == {0.0, 1.0}
    assert (
        torch.equal(boxes[:, :3], (photos / 2 + 0.5) * seen)
        and (1 - seen).flatten(1).mean(1).min() > 0.05
    )
    for hint in HINTS.values():
        assert (
            (made := hint(photos, g)).min() >= 0 and made.max() <= 1 and made.shape[2:] == (16, 16)
        )
        assert torch.equal(*(hint(photos, torch.Generator().manual_seed(3)) for _ in range(2)))
    grey = torch.rand(1, 1, 16, 16)
    torch.testing.assert_close(
        HINTS["luminance"](grey, g)[0, 0, 0, 0], (grey / 2 + 0.5)[0, 0, :4, :4].mean()
    )
    torch.testing.assert_close(palette(images, 2)[0], torch.tensor([-1.0, 1, -1, 1] * 3))


# graphs


@pytest.mark.parametrize(
    ("way", "changes"),
    [
        ("student", {"guidance": 2.5}),
        ("teacher", {"transformer": "spatial"}),
        ("control", {"classes": 0, "guidance": 1.0}),
        ("control", {"hint": "boxes", "guidance": 1.5}),
    ],
)
def test_graphs_are_pure_and_folded_and_give_the_networks_output(
    way: Any, changes: dict[str, Any]
) -> None:
    model = shaken(way=way, **changes)
    model.networks.eval()
    with torch.no_grad():
        model.teacher.scale.fill_(1.7)
        model.student.scale.fill_(1.7)
    graphs = model.graphs()
    assert list(graphs) == ["denoiser", "decoder"]
    for graph in graphs.values():
        assert not any(isinstance(m, nn.BatchNorm2d) for m in graph.module.modules())
        assert not any(p.requires_grad for p in graph.module.parameters())
    inputs = feeds(graphs["denoiser"])
    w = torch.full((3,), model.config.guidance - 1)
    label = inputs.get("label")
    with torch.no_grad():
        if way == "control":
            wanted = Controlled(model.student, model.control)(
                inputs["x"], inputs["t"], inputs["hint"], label, w
            )
        else:
            net = model.networks[way]
            wanted = net(inputs["x"], inputs["t"], label, None, w if way == "student" else None)
        found = graphs["denoiser"].module(**inputs)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-3)
        # the order of their names, too
        torch.testing.assert_close(found, graphs["denoiser"].module(*inputs.values()))
        x = feeds(graphs["decoder"])["x"]
        torch.testing.assert_close(
            graphs["decoder"].module(x=x), model.coder.decoder(x * 1.7), atol=2e-5, rtol=1e-3
        )
    assert model.student.embed.label is not None  # the copies changed, not the model


def feeds(graph: Graph) -> dict[str, Tensor]:
    made = {spec.name: torch.rand(spec.sized(batch=3)) for spec in graph.inputs}
    return made | ({"t": made["t"] * 99} if "t" in made else {})


def test_a_patched_unet_and_two_blocks_a_level_work() -> None:
    net = replace(TINY.unet, widths=(32,), patch=2, blocks=2)
    model = shaken(unet=net, attend=(4,), way="control")
    assert len(model.teacher.trunk.down[0].attention) == 2  # type: ignore[arg-type]
    x = torch.randn(2, 4, 8, 8)
    assert model.teacher(x, torch.ones(2), torch.eye(2)).shape == x.shape
    model.begin_control(iter(()))
    assert model.control_loss(next(batches(1))).isfinite()


def test_w_is_a_student_s_alone() -> None:
    assert LatentUNet(TINY).embed.label is None
    assert LatentUNet(TINY, student=True).embed.label is not None
