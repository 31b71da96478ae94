"""Folders of diffusers that cannot be taken: one sentence each, the right exit code."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bring_toys
import pytest
import torch
from bring_toys import INDEX, REMOVED, UNET, changed, sharded
from bring_toys import plain_folder as plain_folder
from bring_toys import prompted_folder as prompted_folder
from safetensors.torch import load_file, save_file

from edgegen.bring.brought import BringChoices, bring
from edgegen.bring.folder import FolderChoices
from edgegen.errors import EdgegenError


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "copy")


@pytest.fixture
def text_copy(prompted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prompted, tmp_path / "copy")


def refused(
    folder: Path, text: str, exit_code: int = 4, choices: BringChoices | None = None
) -> None:
    with pytest.raises(EdgegenError) as caught:
        bring(folder, choices or BringChoices())
    assert text in caught.value.message and "\n" not in str(caught.value)
    assert (caught.value.code, caught.value.exit_code) == ("E-BRING", exit_code)
    assert caught.value.path is not None


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder / name, **fields)


def put(name: str, data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tensors = load_file(folder / UNET)
        change(tensors)
        save_file(tensors, folder / UNET)

    return make


def linked(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")

    return make


def in_shards(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        sharded(folder, load_file(folder / UNET))
        (folder / UNET).unlink()
        change(folder)

    return make


def pickled(folder: Path) -> None:
    (folder / UNET).rename((folder / UNET).with_suffix(".bin"))


def twice(folder: Path) -> None:
    names = sorted((folder / "unet").glob("*-0000*.safetensors"))
    first, second = map(load_file, names)
    name = next(iter(first))
    save_file({**second, name: first[name]}, names[1])


def twice_in_one(folder: Path) -> None:
    """A header of JSON whose second entry of a name would win."""
    data = (folder / UNET).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].rstrip()
    at = header.index(b'"conv_in.bias"')
    entry = header[at : header.index(b"}", at) + 1]
    header = header[:-1] + b"," + entry + b"}"
    (folder / UNET).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])


def place_shard(shard: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][next(iter(index["weight_map"]))] = shard
        (folder / INDEX).write_text(json.dumps(index))

    return make


BAD: list[tuple[Callable[[Path], None], str]] = [
    (gone("model_index.json"), "it holds neither model_index.json nor config.json"),
    (put("model_index.json", b"{"), "not usable JSON"),
    (put("model_index.json", b"[1]"), "it holds no JSON object"),
    (put("model_index.json", b'{"a": 1, "a": 2}'), "a key appears twice"),
    (put("model_index.json", b" " * ((16 << 20) + 1)), "the file is larger than"),
    (edit("model_index.json", _class_name="FluxPipeline"), "the pipeline is 'FluxPipeline', which"),
    (edit("model_index.json", _class_name=["mine", "X"]), "the pipeline is ['mine', 'X'], which"),
    (
        edit("model_index.json", unet=["mine", "UNet2DModel"]),
        "its unet is code of its own ('mine')",
    ),
    (edit("model_index.json", unet=["diffusers", "FluxTransformer2DModel"]), "its unet is a 'Flux"),
    (edit("model_index.json", unet=["diffusers"]), "'unet' is no component"),
    (edit("model_index.json", **{"../x": ["diffusers", "UNet2DModel"]}), "'../x' is no component"),
    (edit("model_index.json", other=["diffusers", "UNet2DModel"]), "its other is a 'UNet2DModel'"),
    (edit("model_index.json", unet=REMOVED), "it has no U-Net"),
    (edit("model_index.json", scheduler=REMOVED), "it has no scheduler"),
    (gone("scheduler/scheduler_config.json"), "there is no such file"),
    (edit("scheduler/scheduler_config.json", wobble=1), "has the unknown field 'wobble'"),
    (
        edit("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "it is a 'DDIMScheduler', and model_index.json says 'DDPMScheduler'",
    ),
    (gone("unet/config.json"), "there is no such file"),
    (
        edit("unet/config.json", _class_name="UNet2DConditionModel"),
        "it is a 'UNet2DConditionModel', and the folder takes it for a UNet2DModel",
    ),
    (edit("unet/config.json", wobble=1), "UNet2DModel has the unknown field 'wobble'"),
    (edit("unet/config.json", class_embed_type="timestep"), "class_embed_type of UNet2DModel is"),
    (edit("unet/config.json", act_fn="wobble"), "UNet2DModel cannot be built from its config"),
    (edit("unet/config.json", layers_per_block=10**6), "layers_per_block is 1000000, and 100 is"),
    (edit("unet/config.json", sample_size=1 << 40), "sample_size is 1099511627776"),
    (edit("unet/config.json", sample_size=None), "sample_size of the U-Net is None: no size"),
    (edit("unet/config.json", out_channels=6), "is (3,) in the weights and (6,) by the config"),
    (gone(UNET), "diffusion_pytorch_model.safetensors is missing"),
    (pickled, "diffusion_pytorch_model.bin is not read: only safetensors"),
    (put(UNET, b"PK\x03\x04" + bytes(100)), "not a safetensors file"),
    (put(UNET, struct.pack("<Q", 1 << 40)), "not a safetensors file"),
    (twice_in_one, "not a safetensors file: "),
    (weights(lambda t: t["conv_in.weight"].fill_(float("nan"))), "'conv_in.weight' holds NaN or"),
    (weights(lambda t: t["conv_in.bias"].fill_(float("inf"))), "'conv_in.bias' holds NaN or infi"),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.full((8,), 1e6).half()})),
        "'conv_in.bias' holds NaN or infinite values",
    ),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.full((8,), -torch.inf).bfloat16()})),
        "'conv_in.bias' holds NaN or infinite values",
    ),
    (weights(lambda t: t.pop("conv_in.bias")), "the weights lack 'conv_in.bias'"),
    (weights(lambda t: t.update(wobble=torch.zeros(1))), "the weights hold 'wobble', which the"),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.zeros(3)})),
        "'conv_in.bias' is (3,) in the",
    ),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)})),
        "the tensor 'conv_in.bias' is I64, not float",
    ),
    (linked("unet"), "it is a symbolic link"),
    (linked(UNET), "it is a symbolic link"),
    (linked("model_index.json"), "it is a symbolic link"),
    (
        in_shards(gone("unet/diffusion_pytorch_model-00002-of-00002.safetensors")),
        "the shard 'diffusion_pytorch_model-00002-of-00002.safetensors' is missing",
    ),
    (in_shards(twice), "is in two shards"),
    (in_shards(edit(INDEX, weight_map=3)), "the index has no weight_map"),
    (
        in_shards(place_shard("diffusion_pytorch_model-00002-of-00002.safetensors")),
        "the index and this shard disagree about the tensor",
    ),
]


@pytest.mark.parametrize(("spoil", "text"), BAD, ids=[text[:40] for _, text in BAD])
def test_a_bad_folder_is_refused_in_one_sentence(
    spoil: Callable[[Path], None], text: str, copy: Path
) -> None:
    spoil(copy)
    refused(copy, text)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "..", ".hidden"])
def test_a_shard_outside_the_folder_is_not_trusted(shard: str, copy: Path) -> None:
    in_shards(place_shard(shard))(copy)
    refused(copy, f"the shard {shard!r} would lie outside its folder", 6)


BAD_TEXT: list[tuple[Callable[[Path], None], str]] = [
    (
        edit("tokenizer/vocab.json", more=190),
        "the tokenizer has 191 tokens and its text encoder 190",
    ),
    (edit("tokenizer/tokenizer_config.json", model_max_length=10), "prompts of 10 tokens, and its"),
    (edit("tokenizer/vocab.json", more="x"), "the vocabulary numbers no tokens"),
    (gone("tokenizer/merges.txt"), "a tokenizer has vocab.json and merges.txt, or tokenizer.json"),
    (edit("model_index.json", tokenizer=[None, None]), "its text encoder has no tokenizer"),
    (edit("model_index.json", text_encoder=[None, None]), "it has no text encoder"),
    (
        edit("model_index.json", vae=[None, None]),
        "its U-Net draws 4 channels, and there is no auto",
    ),
    (
        edit("model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]),
        "its image_encoder is a 'CLIPVisionModelWithProjection', which is not taken",
    ),
    (edit("text_encoder/config.json", auto_map={"x": "y"}), "has the unknown field 'auto_map'"),
    (edit("vae/config.json", latents_mean=[1.0]), "latents_mean of AutoencoderKL is [1.0]"),
    (edit("unet/config.json", addition_embed_type="text_time"), "addition_embed_type of UNet2DCon"),
]


@pytest.mark.parametrize(("spoil", "text"), BAD_TEXT, ids=[text[:40] for _, text in BAD_TEXT])
def test_a_bad_text_folder_is_refused_in_one_sentence(
    spoil: Callable[[Path], None], text: str, text_copy: Path
) -> None:
    spoil(text_copy)
    refused(text_copy, text)


def test_networks_that_do_not_fit_each_other(tmp_path: Path) -> None:
    folder = bring_toys.prompted(tmp_path / "a", cross_attention_dim=16)
    refused(folder, "the text encoder gives 12 numbers a token, and the U-Net looks at 16")
    folder = bring_toys.prompted(tmp_path / "b", in_channels=9)
    refused(folder, "the U-Net takes 9 channels and returns 4")
    folder = bring_toys.prompted(tmp_path / "c", in_channels=5, out_channels=5)
    refused(folder, "the autoencoder decodes 4 channels, and the U-Net draws 5")


def test_choices_that_a_folder_cannot_follow(plain: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no such folder")
    refused(plain / "scheduler", "it holds neither")
    refused(plain / "unet", "a UNet2DModel by itself has no scheduler")
    refused(
        plain, "guidance needs a generator that takes prompts", choices=BringChoices(guidance=3)
    )
    refused(plain, "takes 1 to 1000 steps here", choices=BringChoices(steps=0))
    refused(plain, "DDPMScheduler cannot take eta 0.5", choices=BringChoices(eta=0.5))
    other = BringChoices(FolderChoices(variant="bf16"))
    refused(plain, "diffusion_pytorch_model.bf16.safetensors is missing", choices=other)


def test_a_folder_that_changes_while_it_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgegen.bring.schedule import schedule

    def meddling(*given: Any) -> Any:
        os.utime(copy / UNET, (1, 1))
        return schedule(*given)

    monkeypatch.setattr("edgegen.bring.brought.schedule", meddling)
    refused(copy, "it was changed while it was read")
    monkeypatch.undo()
    found = bring(copy)
    (copy / UNET).write_bytes((copy / UNET).read_bytes()[:-1] + b"x")
    with pytest.raises(EdgegenError, match="it was changed while it was read"):
        found.graphs()


def test_a_safety_checker_is_never_left_out_silently(text_copy: Path) -> None:
    changed(
        text_copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    refused(text_copy, "it has a safety checker, which no bundle can hold")
    choices = BringChoices(FolderChoices(drop_safety_checker=True))
    assert bring(text_copy, choices).folder.dropped == ("safety_checker", "feature_extractor")
