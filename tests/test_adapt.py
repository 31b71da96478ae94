"""Adapters of every family: what trains, what is merged, PEFT's files, exact resumes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import adapted, master, recipe, run, shaken
from adapting import PEFT
from runs import killed, resumed_exactly
from safetensors.torch import load_file
from toys import shapes

from edgegen.errors import GateFailed, InputError
from edgegen.families import FAMILIES, Grown, Tuning, family
from edgegen.training import run as runs
from edgegen.training.adapt import site
from edgegen.training.adapt.adapted import targets
from edgegen.training.adapt.files import CONFIG, TENSORS, Adapter
from edgegen.training.adapt.merged_conv import join
from edgegen.training.adapt.trainable_part import Part
from edgegen.training.loop import Trainer
from edgegen.workflows.finetune.merge import PARITY, parity
from edgegen.workflows.generators import torch_pipeline

pytestmark = [PEFT, pytest.mark.slow]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A family's name and a run of ten steps."""
    return request.param, run(request.param, tmp_path_factory.mktemp(request.param) / "run")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_adapter_changes_nothing(name: str) -> None:
    before = site.plain(family(name), recipe(name, 1).config, master(name))
    np.testing.assert_allclose(
        torch_pipeline(adapted(name))(range(4)), torch_pipeline(before)(range(4)), atol=1e-6
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_weights_do_what_peft_does(name: str) -> None:
    """Read off each layer's own answers, strides and kernels of 1 and 3 included; the demodulation
    of isc-gan too.
    """
    made = shaken(name)
    seen = site.plain(made.family, made.config, {**master(name), **made.trained_view()})
    a, b = (torch_pipeline(generator)(range(8)) for generator in (seen, made.plain()))
    assert (
        np.abs(
            a - torch_pipeline(site.plain(made.family, made.config, master(name)))(range(8))
        ).max()
        > 1e-3
    )
    assert np.abs(a - b).max() <= PARITY


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_of_adapter_and_merged_weights_are_equal(name: str) -> None:
    """The networks as they train, forward pass by forward pass, in eval mode."""
    made = shaken(name)
    whole = {k: v for k, v in made.merged().items()}
    for net in made.base.networks:  # those that never ship are merged too, for this
        for key, layer in made.base.networks[net].named_modules():
            if hasattr(layer, "get_delta_weight"):
                whole[f"{net}.{key}.weight"] = (
                    layer.base_layer.weight.detach() + layer.get_delta_weight("default").detach()
                )
            elif hasattr(layer, "modules_to_save") and hasattr(layer, "original_module"):
                whole |= {
                    f"{net}.{key}.{k}": v
                    for k, v in layer.modules_to_save["default"].state_dict().items()
                }
    plain = site.plain(made.family, made.config, whole)
    losses = []
    for generator in (made, plain):
        trainer = Trainer.start(generator, recipe(name, 40), shapes(32, 16), 0)
        generator.networks.eval()
        batch = trainer.feed.batch(0, 0)
        losses.append([o.loss(batch).detach() for o in trainer.objectives[:2]])
    for ours, theirs in zip(*losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)


def test_a_joined_convolution_has_peft_s_values_and_gradients() -> None:
    import peft  # takes seconds: no test waits for it but those that use it

    torch.manual_seed(0)
    nets = torch.nn.ModuleDict(
        {
            "a": torch.nn.Sequential(
                torch.nn.Conv2d(4, 6, 3, 2, 1), torch.nn.Conv2d(6, 5, 1, bias=False)
            )
        }
    )
    peft.get_peft_model(nets, peft.LoraConfig(r=3, lora_alpha=6.0, target_modules=["a.0", "a.1"]))
    with torch.no_grad():
        for p in nets.parameters():
            p.copy_(torch.randn_like(p))
    x, found = torch.randn(2, 4, 9, 9, requires_grad=True), []
    for _ in range(2):
        y = nets["a"](x)
        moved = [x, *(p for p in nets.parameters() if p.requires_grad)]
        found.append([y, *torch.autograd.grad(y.square().sum(), moved)])
        assert join(nets) in (2, 0)
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_only_pairs_norms_and_labels_train_and_the_base_stays(trained: tuple[str, Path]) -> None:
    name, out = trained
    made = adapted(name)
    moved = dict(made.networks.named_parameters())
    assert moved and all("lora_" in key or "modules_to_save" in key for key in moved)
    about = json.loads((out / "run.json").read_text())
    base = site.read_base(out, about)
    assert all(torch.equal(base[k], v) for k, v in master(name).items())
    adapter = site.read_adapter(out, about)
    assert max(float(v.abs().max()) for k, v in adapter.tensors.items() if "lora_B" in k) > 0
    assert {k.partition(".")[0] for k in adapter.tensors} <= set(made.base.shipped)


def test_an_average_of_a_part_holds_no_frozen_weight(trained: tuple[str, Path]) -> None:
    name, _ = trained
    trainer = Trainer.start(adapted(name), recipe(name, 40), shapes(32, 16), 0)
    base = trainer.generator.base  # type: ignore[attr-defined]
    frozen = sum(p.numel() for p in base.networks.parameters() if not p.requires_grad)
    held = sum(p.numel() for a in trainer.average.values() for p in a.parameters())
    assert held == sum(p.numel() for o in trainer.objectives for p in o.params) < frozen


def test_peft_alone_loads_the_adapter_and_merges_it_to_the_same_weights(
    trained: tuple[str, Path],
) -> None:
    import peft

    name, out = trained
    about, generator = runs.load(out)
    plain = site.plain(family(name), recipe(name, 1).config, site.master(out, about))
    loaded = peft.PeftModel.from_pretrained(plain.networks, out / "adapter")
    theirs = peft.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    assert theirs.keys() == load_file(out / "adapter" / TENSORS).keys()
    theirs = loaded.merge_and_unload().state_dict()
    for key, tensor in generator.networks.state_dict().items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-6, atol=1e-6)


def test_modulated_convolutions_demodulate_what_peft_alone_adds(tmp_path: Path) -> None:
    """A network that PEFT has wrapped and nothing else: demodulation reads the pair, too
    (docs/methods/isc-gan.md, A.2.1).
    """
    import peft

    made = shaken("isc-gan")
    made.adapter().write(tmp_path / "adapter")
    ours, theirs = (
        site.plain(made.family, made.config, tensors)
        for tensors in (made.merged(), master("isc-gan"))
    )
    peft.PeftModel.from_pretrained(theirs.networks, tmp_path / "adapter")
    ws = torch.randn(4, ours.config.w_dim)
    drawn = []
    for net in (ours, theirs):
        generator: Any = net.networks["generator"].eval()
        with torch.no_grad():
            drawn.append(generator.synthesis.features([ws] * ours.config.styles)["image"])
    a, b = drawn
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_adapter_that_peft_wrote_is_read_back(trained: tuple[str, Path], tmp_path: Path) -> None:
    import peft

    name, out = trained
    about, _ = runs.load(out)
    plain = site.plain(family(name), recipe(name, 1).config, site.master(out, about))
    peft.PeftModel.from_pretrained(plain.networks, out / "adapter").save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    ours, theirs = Adapter.read(out / "adapter"), Adapter.read(tmp_path)
    assert theirs.tensors.keys() == ours.tensors.keys() and theirs.base is None
    assert all(torch.equal(theirs.tensors[k], v) for k, v in ours.tensors.items())
    base = site.master(out, about)
    # peft has shortened the names of the layers
    one, two = ours.merged(base, out), theirs.merged(base, out)
    assert all(torch.equal(one[key], two[key]) for key in base)


def test_parity_of_a_run(trained: tuple[str, Path]) -> None:
    _, out = trained
    about, generator = runs.load(out)
    assert parity(out, about, generator) <= PARITY


def test_weights_without_the_adapter_are_not_taken_for_merged_ones(
    trained: tuple[str, Path],
) -> None:
    name, out = trained
    about, generator = runs.load(out)
    base = site.plain(family(name), generator.config, site.master(out, about))
    with pytest.raises(
        GateFailed, match="images from the merged weights differ from those with the adapter by"
    ):
        parity(out, about, base)


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    adapter = shaken("cas-dm").adapter("0" * 64)
    for folder in ("a", "b"):
        adapter.write(tmp_path / folder)
    for file in (CONFIG, TENSORS):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        # another user's service can read them
        assert (tmp_path / "a" / file).stat().st_mode & 0o044 == 0o044


ADAPTING = """
import peft
from adapters import run

def child(name, out, resume, progress):
    run(name, out, 20, resume, progress, 5)
"""


@pytest.mark.parametrize("name", FAMILIES)
def test_20_adapting_steps_are_10_and_a_kill_9_and_10(name: str, tmp_path: Path) -> None:
    resumed_exactly(tmp_path, killed(ADAPTING, name, tmp_path))


def test_part_is_the_network_s_own_tensors_and_a_copy_is_not() -> None:
    net: Any = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )
    net[0].requires_grad_(False)
    part = Part(net)
    assert dict(part.named_parameters()).keys() == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert "1.running_mean" in part.state_dict()
    other = copy.deepcopy(part)
    with torch.no_grad():
        net[2].weight.add_(1)
    part.train(False)
    assert torch.equal(part.state_dict()["2.weight"], net[2].weight) and not net.training
    assert not torch.equal(other.state_dict()["2.weight"], net[2].weight)
    part.double()
    part.load_state_dict({k: v * 0 for k, v in part.state_dict().items()})
    assert net[2].weight.dtype == torch.float64 and not net[2].weight.any() and net[0].weight.any()


def _never(*_: object) -> Grown:
    raise AssertionError("targets do not grow")


@pytest.mark.parametrize("name", FAMILIES)
def test_pairs_begin_as_large_as_the_weights_beside_them_and_change_nothing(name: str) -> None:
    made = adapted(name)
    tensors, weights = made.adapter().tensors, master(name)
    for layer in made.adapter().lora.target_modules:
        first, second = (tensors[f"{layer}.lora_{part}.weight"] for part in "AB")
        assert (
            first.square().mean().sqrt()
            >= 0.999 * weights[f"{layer}.weight"].square().mean().sqrt()
        ), layer
        assert not second.any()


def test_targets_are_the_tuning_s_and_whole_modules_get_no_pair() -> None:
    net = torch.nn.ModuleDict(
        {
            "a": torch.nn.Sequential(
                torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 4)
            ),
            "b": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm2d(2)),
        }
    )
    assert targets(net, Tuning(_never, ("a.*",), ("a.2",))) == (("a.0",), ("a.2", "a.1"))
    assert targets(net, Tuning(_never)) == (("a.0", "a.2", "b.0"), ("a.1", "b.1"))


def test_other_classes_start_as_the_mean_of_the_base_s(tmp_path: Path) -> None:
    found = family("cas-dm")
    config = replace(recipe("cas-dm", 1).config, classes=4)
    base = dict(found.build(config).networks.state_dict())
    got = site.fitted(found, replace(config, classes=3), base, 4, 0, tmp_path)
    label = "theta.trunk.embed.label.weight"
    assert got[label].shape[1] == 3
    for column in got[label].T:
        torch.testing.assert_close(column, base[label].mean(1))
    assert all(torch.equal(got[k], v) for k, v in base.items() if "label" not in k)
    with pytest.raises(InputError, match=r"tensors do not fit: .*head.weight is missing"):
        site.fitted(
            found, config, {k: v for k, v in base.items() if "head.weight" not in k}, 4, 0, tmp_path
        )
