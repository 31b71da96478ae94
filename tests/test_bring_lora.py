"""LoRA files: three programs' names, merged as diffusers and PEFT merge them; whatever belongs to
no layer is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import bring_toys
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgegen.bring.brought import BringChoices, bring
from edgegen.bring.components import Component
from edgegen.bring.lora import METADATA, LoraFile
from edgegen.bring.lora_names import pattern_value
from edgegen.errors import EdgegenError

BLOCK = "down_blocks.0.attentions.0"
LAYERS = {  # of the toy: linear, convolutions of 3x3 and 1x1, one with another rank
    ("unet", f"{BLOCK}.transformer_blocks.0.attn1.to_q"): 2,
    ("unet", f"{BLOCK}.transformer_blocks.0.attn2.to_out.0"): 3,
    ("unet", f"{BLOCK}.proj_in"): 2,
    ("unet", "down_blocks.0.resnets.0.conv1"): 2,
    ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj"): 2,
    ("text_encoder", "text_model.encoder.layers.0.mlp.fc1"): 2,
}
ROLE = {"unet": "denoiser", "text_encoder": "text"}
Update = tuple[Tensor, Tensor, float]
Updates = Mapping[tuple[str, str], Update]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return bring_toys.prompted(tmp_path_factory.mktemp("base"))


def weight_of(networks: Mapping[str, Component], network: str, layer: str) -> Tensor:
    tensors = networks[ROLE[network]].tensors
    name = f"{layer}.weight"
    return tensors[name if name in tensors else name.removeprefix("text_model.")]


@cache
def updates(folder: Path, seed: int = 0) -> Updates:
    torch.manual_seed(seed)
    networks = bring(folder).networks
    found: dict[tuple[str, str], Update] = {}
    for (network, layer), rank in LAYERS.items():
        weight = weight_of(networks, network, layer)
        one = (1, 1) if weight.ndim == 4 else ()
        down = torch.randn(rank, *weight.shape[1:]) / 4
        up = torch.randn(weight.shape[0], rank, *one) / 4
        found[network, layer] = (down, up, 4.0 if "attn1" in layer else float(rank))
    return found


def diffusers_names(made: Updates) -> dict[str, Tensor]:
    return {
        f"{network}.{layer}.{part}.weight": tensor
        for (network, layer), (down, up, _) in made.items()
        for part, tensor in (("lora_A", down), ("lora_B", up))
    }


def diffusers_names_of_before(made: Updates) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for (network, layer), (down, up, _) in made.items():
        own = f"{network}.{layer}.lora_linear_layer"
        if ".attn" in layer:
            owner, _, name = layer.removesuffix(".0").rpartition(".")
            own = f"{network}.{owner}.processor.{name}_lora"
        elif network == "unet":
            own = f"{network}.{layer}.lora"
        found |= {f"{own}.down.weight": down, f"{own}.up.weight": up}
    return found


def kohya_names(made: Updates) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for (network, layer), (down, up, alpha) in made.items():
        prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[network]
        own = f"{prefix}_{layer.replace('.', '_')}"
        found |= {
            f"{own}.lora_down.weight": down,
            f"{own}.lora_up.weight": up,
            f"{own}.alpha": torch.tensor(alpha),
        }
    return found


NAMES: dict[str, tuple[Callable[[Updates], dict[str, Tensor]], bool]] = {
    "diffusers": (diffusers_names, False),
    "diffusers of before": (diffusers_names_of_before, False),
    "kohya": (kohya_names, True),
}


def saved(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata)
    return path


def with_loras(folder: Path, *loras: LoraFile) -> Mapping[str, Component]:
    return bring(folder, BringChoices(loras=loras)).networks


@pytest.mark.parametrize("scheme", NAMES)
def test_every_scheme_adds_what_the_formula_says(scheme: str, folder: Path, tmp_path: Path) -> None:
    named, alphas = NAMES[scheme]
    made, base = updates(folder), bring(folder).networks
    found = with_loras(folder, LoraFile(saved(tmp_path / "a.safetensors", named(made)), 0.8))
    for (network, layer), (down, up, alpha) in made.items():
        before, after = (weight_of(n, network, layer) for n in (base, found))
        factor = 0.8 * (alpha / len(down) if alphas else 1)
        delta = torch.einsum("or,r...->o...", up.flatten(1), down) * factor
        torch.testing.assert_close(after, before + delta, atol=1e-6, rtol=0)
        assert (after - before).abs().max() > 1e-3
    touched = {weight_of(found, *place).data_ptr() for place in made}
    for role, whole in found.items():
        for name, tensor in whole.tensors.items():
            if tensor.data_ptr() not in touched:
                assert torch.equal(tensor, base[role].tensors[name]), name


def test_several_files_add_up_and_their_hashes_are_told(folder: Path, tmp_path: Path) -> None:
    files = [
        LoraFile(saved(tmp_path / f"{k}.safetensors", kohya_names(updates(folder, k))), scale)
        for k, scale in ((1, 0.5), (2, -1.0))
    ]
    brought = bring(folder, BringChoices(loras=files))
    base, both = bring(folder).networks, brought.networks
    first, second = (with_loras(folder, file) for file in files)
    for place in LAYERS:
        before, one, two = (weight_of(networks, *place) for networks in (base, first, second))
        wanted = before + (one - before) + (two - before)
        torch.testing.assert_close(weight_of(both, *place), wanted, atol=1e-6, rtol=0)
    assert {"lora/1/1.safetensors", "lora/2/2.safetensors"} <= set(brought.sha256)
    graph = brought.graphs()["denoiser"].module
    layer = f"{BLOCK}.proj_in"
    merged = weight_of(brought.networks, "unet", layer)
    assert torch.equal(graph.get_parameter(f"unet.{layer}.weight"), merged)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_merges_the_same(rslora: bool, folder: Path, tmp_path: Path) -> None:
    """With patterns of ranks and alphas, from the folder that PEFT writes."""
    import peft
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["to_q", "to_v", "proj_in", "conv1"],
        rank_pattern={"attn1.to_q": 3},
        alpha_pattern={"attn1.to_q": 5, r"proj_in": 1},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    adapted = peft.get_peft_model(unet, config)
    adapted.save_pretrained(tmp_path / "adapter")
    found = with_loras(folder, LoraFile(tmp_path / "adapter", 1.0))["denoiser"].tensors
    wanted = adapted.merge_and_unload().state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=0)


def test_the_alphas_of_a_file_s_metadata_are_followed(folder: Path, tmp_path: Path) -> None:
    """As diffusers writes them beside the tensors."""
    made = updates(folder)
    layer = ("unet", f"{BLOCK}.proj_in")
    metadata = {"unet.r": 2, "unet.lora_alpha": 6, "unet.peft_type": "LORA", "unet.bias": "none"}
    path = saved(
        tmp_path / "a.safetensors",
        diffusers_names({layer: made[layer]}),
        {METADATA: json.dumps(metadata)},
    )
    before, after = (
        weight_of(n, *layer) for n in (bring(folder).networks, with_loras(folder, LoraFile(path)))
    )
    down, up, _ = made[layer]
    delta = torch.einsum("or,r...->o...", up.flatten(1), down)
    torch.testing.assert_close(after, before + 3 * delta, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("scheme", NAMES)
def test_diffusers_fuses_the_same(scheme: str, folder: Path, tmp_path: Path) -> None:
    named, _ = NAMES[scheme]
    # one alpha for all: of several, diffusers 0.42 follows those of attention layers not at all
    made = {place: (down, up, 2.0) for place, (down, up, _) in updates(folder).items()}
    path = saved(tmp_path / "a.safetensors", named(made))
    found = with_loras(folder, LoraFile(path, 0.8))
    pipeline = bring_toys.pipeline_of(folder)
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(components=["unet", "text_encoder"], lora_scale=0.8)
    pipeline.unload_lora_weights()
    for network, layer in LAYERS:
        if scheme == "kohya" and "self_attn" in layer:
            continue  # which diffusers 0.42 renames to what no text encoder has, and leaves out
        state = getattr(pipeline, network).state_dict()
        key = next(k for k in state if k.endswith(layer.removeprefix("text_model.") + ".weight"))
        wanted = state[key]
        torch.testing.assert_close(weight_of(found, network, layer), wanted, atol=1e-6, rtol=0)


OWN = "lora_unet_down_blocks_0_attentions_0_proj_in"
BAD: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (
        lambda t: t.update({"lora_unet_input_blocks_1.lora_down.weight": torch.zeros(2, 4)}),
        "no network of this generator has a layer lora_unet_input_blocks_1",
    ),
    (
        lambda t: t.update({"text_encoder_2.x.lora_A.weight": torch.zeros(2, 4)}),
        "has a layer text_encoder_2.x",
    ),
    (
        lambda t: t.update({f"{OWN}.dora_scale": torch.zeros(2)}),
        f"the tensor '{OWN}.dora_scale' is none of a plain LoRA",
    ),
    (lambda t: t.update({f"{OWN}.hada_w1_a": torch.zeros(2)}), "hada_w1_a' is none of a plain"),
    (lambda t: t.update({f"{OWN}.lora_mid.weight": torch.zeros(2)}), "lora_mid.weight' is none"),
    (lambda t: t.pop(f"{OWN}.lora_up.weight"), f"{OWN} has one of its two matrices alone"),
    (
        lambda t: t.update({f"{OWN}.lora_A.weight": torch.zeros(2, 8, 1, 1)}),
        "is there under two names",
    ),
    (
        lambda t: t.update({f"{OWN}.lora_down.weight": torch.zeros(2, 5, 1, 1)}),
        "updates a weight of (8, 5, 1, 1), and it is (8, 8, 1, 1) here: the LoRA is one of another",
    ),
    (lambda t: t.update({f"{OWN}.lora_up.weight": torch.zeros(8, 3, 1, 1)}), "of another base"),
    (lambda t: t.update({f"{OWN}.lora_up.weight": torch.zeros(9, 2, 1, 1)}), "of another base"),
    (lambda t: t.update({f"{OWN}.lora_up.weight": torch.zeros(8, 2, 3, 3)}), "of another base"),
    (lambda t: t.update({f"{OWN}.lora_up.weight": torch.zeros(8)}), "of another base"),
    (lambda t: t.update({f"{OWN}.alpha": torch.ones(2)}), "its alpha is not one number"),
    (lambda t: t[f"{OWN}.lora_up.weight"].fill_(float("nan")), "holds NaN or infinite values"),
    (lambda t: t.clear(), "the file holds no tensors"),
]


@pytest.mark.parametrize(("spoil", "text"), BAD, ids=[text[:40] for _, text in BAD])
def test_a_file_that_does_not_fit_is_refused_by_name(
    spoil: Callable[[dict[str, Tensor]], object], text: str, folder: Path, tmp_path: Path
) -> None:
    tensors = {name: tensor.clone() for name, tensor in kohya_names(updates(folder)).items()}
    spoil(tensors)
    refused(folder, saved(tmp_path / "a.safetensors", tensors), text)


def refused(folder: Path, path: Path, text: str) -> None:
    with pytest.raises(EdgegenError) as caught:
        with_loras(folder, LoraFile(path))
    assert text in caught.value.message
    assert (caught.value.code, caught.value.exit_code) == ("E-BRING-LORA", 4)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"peft_type": "LOHA"}, "it is a 'LOHA', not a LoRA"),
        ({"use_dora": True}, "its use_dora is true, which is no plain LoRA"),
        ({"bias": "all"}, 'its bias is "all"'),
        ({"init_lora_weights": "pissa"}, 'its init_lora_weights is "pissa"'),
        ({"modules_to_save": ["conv_in"]}, "its modules_to_save is"),
        ({"wobble": 3}, "its wobble is 3"),
        ({"r": 5, "lora_alpha": 1}, "its config says rank 5, and its matrices have 2"),
        ({"lora_alpha": "x"}, "its alpha is 'x'"),
        ({"alpha_pattern": 3}, "its alpha_pattern is no object"),
        ({"alpha_pattern": {"(a+)+": 3}}, "the pattern '(a+)+' is no layer's name"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    config: dict[str, Any], text: str, folder: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    down, up, _ = updates(folder)["unet", f"{BLOCK}.proj_in"]
    name = f"base_model.model.{BLOCK}.proj_in"
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    saved(adapter / "adapter_model.safetensors", tensors)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    refused(folder, adapter, text)


def test_files_that_are_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"PK")
    refused(folder, tmp_path / "a.bin", "a LoRA is a .safetensors file")
    refused(folder, tmp_path / "none.safetensors", "there is no such file")
    (tmp_path / "empty").mkdir()
    refused(folder, tmp_path / "empty", "it holds neither of adapter_model.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"x" * 20)
    refused(folder, tmp_path / "b.safetensors", "not a safetensors file")
    (tmp_path / "c.safetensors").symlink_to(tmp_path / "b.safetensors")
    refused(folder, tmp_path / "c.safetensors", "it is a symbolic link")


def test_a_scale_stands_behind_a_colon(tmp_path: Path) -> None:
    assert LoraFile.parse("a.safetensors") == LoraFile(Path("a.safetensors"), 1.0)
    assert LoraFile.parse("a.safetensors:0.8") == LoraFile(Path("a.safetensors"), 0.8)
    assert LoraFile.parse("a:b.safetensors") == LoraFile(Path("a:b.safetensors"), 1.0)
    odd = tmp_path / "a:2"
    odd.touch()
    assert LoraFile.parse(str(odd)) == LoraFile(odd, 1.0)
    for text in ("a:1e9", "a:nan", "a:inf"):
        with pytest.raises(EdgegenError, match="is beyond 100"):
            LoraFile.parse(text)


def test_patterns_are_names_or_their_ends() -> None:
    patterns = {"^a.b": 1, r"x\.y$": 2, "z": 3}
    assert pattern_value(patterns, "a.b") == 1 and pattern_value(patterns, "c.a.b") is None
    assert pattern_value(patterns, "q.x.y") == 2 and pattern_value(patterns, "xxy") is None
    assert pattern_value(patterns, "a.z") == 3 and pattern_value(patterns, "az") is None
