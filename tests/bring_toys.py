"""Small folders as diffusers writes them, random weights, made by its own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

UNET = "unet/diffusion_pytorch_model.safetensors"
INDEX = f"{UNET}.index.json"
REMOVED = object()  # in place of a field's value: the field goes
TOKENS = 9  # of a prompt
LETTERS = [chr(code) for code in range(33, 127)]
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False, "steps_offset": 1}


def unconditional(folder: Path, **config: Any) -> Path:
    """A DDPM pipeline's folder, 8 px."""
    import diffusers

    unet = diffusers.UNet2DModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **config,
        }
    )
    unet.save_pretrained(folder / "unet")
    _scheduler(folder, {"_class_name": "DDPMScheduler"})
    scheduler = ("diffusers", "DDPMScheduler")
    _index(folder, "DDPMPipeline", scheduler=scheduler, unet=("diffusers", "UNet2DModel"))
    return folder


def prompted(folder: Path, scheduler: dict[str, Any] = DDIM, **config: Any) -> Path:
    """A text-to-image folder: latents of 8, images of 16 px."""
    import diffusers
    import transformers

    diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
            "cross_attention_dim": 12,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **config,
        }
    ).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).save_pretrained(folder / "vae")
    count = 2 * len(LETTERS) + 2
    transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=count,
            hidden_size=12,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=count - 2,
            eos_token_id=count - 1,
            pad_token_id=count - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    _json(tokenizer / "vocab.json", {word: number for number, word in enumerate(words)})
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    _json(tokenizer / "tokenizer_config.json", {"model_max_length": TOKENS})
    _scheduler(folder, scheduler)
    _index(
        folder,
        "StableDiffusionPipeline",
        scheduler=("diffusers", scheduler["_class_name"]),
        unet=("diffusers", "UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
        text_encoder=("transformers", "CLIPTextModel"),
        tokenizer=("transformers", "CLIPTokenizer"),
        safety_checker=(None, None),
        feature_extractor=(None, None),
    )
    return folder


@pytest.fixture(scope="module", name="plain")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional folder; read it only."""
    torch.manual_seed(0)
    return unconditional(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", name="prompted")
def prompted_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image folder; read it only."""
    torch.manual_seed(0)
    return prompted(tmp_path_factory.mktemp("prompted"))


def _scheduler(folder: Path, config: dict[str, Any]) -> None:
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    _json(folder / "scheduler" / "scheduler_config.json", config)


def _index(folder: Path, kind: str, **components: tuple[str | None, str | None]) -> None:
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": "0.36.0"}
    _json(folder / "model_index.json", index | {k: list(v) for k, v in components.items()})


def _json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data))


def changed(path: Path, **fields: Any) -> None:
    """A JSON file with other fields."""
    data = {**json.loads(path.read_text()), **fields}
    _json(path, {k: v for k, v in data.items() if v is not REMOVED})


def numbers(*shape: int) -> np.ndarray:
    """Standard normal, the same each time."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def sharded(folder: Path, tensors: dict[str, Tensor]) -> None:
    """The U-Net's tensors in two files with an index."""
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for k, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        shard = f"diffusion_pytorch_model-{k + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / "unet" / shard)
        placed |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def pipeline_of(folder: Path) -> Any:
    """diffusers' own, read by it."""
    import diffusers
    import transformers

    kind = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=getattr(diffusers, kind).from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
