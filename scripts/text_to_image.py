"""A small text-to-image folder of diffusers: text_to_image.py OBJECTS WORK OUT.

OBJECTS: the folder that scripts/objects.py makes. Its emoji with their names as captions train an
AutoencoderKL, then a UNet2DConditionModel with a CLIPTextModel, whose tokenizer is made from the
captions; all by the classes of diffusers and transformers, and without a line of edgegen, so that
OUT is what somebody else's model would be. OUT holds FP16 weights and appears whole or not at all.

WORK holds checkpoints: the same command goes on where it was ended. One thread of a CPU takes about
an hour. At the end a classifier that knows real pictures alone says how often it finds the category
that was asked for, and OUT/README.md is written with what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from emoji_judge import balanced, card, judged
from emoji_training import SEED, SIZE, Pictures, Training, drawn, pictures, scaled
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CROP = 32  # side in pixels of the autoencoder's training crops
LENGTH = 16  # tokens of a prompt
VOCABULARY = 1800
WIDTH = 64  # width of the text's features
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
AUTOENCODER_STEPS, AUTOENCODER_BATCH = 700, 16
STEPS, BATCH = 1900, 16
UNPROMPTED = 0.1  # share of pictures that are shown without their caption, for guidance
PROMPTS = 3  # names of each category in prompts.txt


def made_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """Make byte pairs of the captions' words, in the two files that CLIPTokenizer reads."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*letters, *(f"{letter}</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(captions, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    words = {**model["vocab"]}
    for token in (BEGIN, END):
        words[token] = len(words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH)


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token numbers (n, LENGTH), as StableDiffusionPipeline makes them."""
    made = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return made.input_ids


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 24, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def denoiser() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        cross_attention_dim=WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def noise_schedule() -> DDIMScheduler:
    """Return a schedule that predicts velocities, with betas that leave almost nothing of the
    picture at the last step.
    """
    return DDIMScheduler(
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def crops(images: Tensor, numbers: torch.Generator) -> Tensor:
    """Cut squares from random places in random pictures."""
    chosen = drawn(AUTOENCODER_BATCH, len(images), numbers)
    corners = torch.randint(SIZE - CROP + 1, (AUTOENCODER_BATCH, 2), generator=numbers)
    cut = [
        images[index, :, y : y + CROP, x : x + CROP]
        for index, (y, x) in zip(chosen.tolist(), corners.tolist(), strict=True)
    ]
    return scaled(torch.stack(cut))


def trained_autoencoder(images: Tensor, work: Path, steps: int) -> AutoencoderKL:
    network = autoencoder()

    def loss(numbers: torch.Generator) -> Tensor:
        batch = crops(images, numbers)
        posterior = network.encode(batch).latent_dist
        made = network.decode(posterior.sample(generator=numbers)).sample
        kl: Tensor = posterior.kl().mean() / (CROP * CROP)
        return functional.l1_loss(made, batch) + functional.mse_loss(made, batch) + 1e-3 * kl

    made = Training("autoencoder", network, loss, steps, 2e-3, work).run()
    assert isinstance(made, AutoencoderKL)
    return made


@torch.no_grad()
def latents(network: AutoencoderKL, images: Tensor) -> Tensor:
    return torch.cat(
        [network.encode(scaled(part)).latent_dist.mean for part in torch.split(images, 64)]
    )


@torch.no_grad()
def standardise(network: AutoencoderKL, held: Tensor) -> Tensor:
    """Return the latents with mean 0 and deviation 1 in each channel, after moving that scale into
    the 1 x 1 convolutions on both sides of them: the network computes the same images.
    """
    mean, deviation = held.mean((0, 2, 3)), held.std((0, 2, 3))
    encode, decode = network.quant_conv, network.post_quant_conv
    assert encode is not None and decode is not None
    count = len(mean)
    encode.bias[:count] -= mean
    encode.bias[:count] /= deviation
    encode.weight[:count] /= deviation[:, None, None, None]
    encode.bias[count:] -= 2 * deviation.log()  # the other half are logarithms of variances
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= deviation[None, :, None, None]
    return (held - mean[:, None, None]) / deviation[:, None, None]


def captions(names: list[str], labels: list[str], numbers: torch.Generator) -> list[str]:
    """Return for each picture its name, its category, both, or nothing."""
    draws = torch.rand(len(names), generator=numbers).tolist()
    return [
        ""
        if draw < UNPROMPTED
        else name
        if draw < 0.5
        else f"{label} {name}"
        if draw < 0.8
        else label
        for draw, name, label in zip(draws, names, labels, strict=True)
    ]


def trained_denoiser(
    found: Pictures, held: Tensor, tokenizer: CLIPTokenizer, work: Path, steps: int
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    both = nn.ModuleDict({"unet": denoiser(), "text": text_encoder(tokenizer)})
    schedule = noise_schedule()

    def loss(numbers: torch.Generator) -> Tensor:
        chosen = drawn(BATCH, len(held), numbers)
        clean, rows = held[chosen], chosen.tolist()
        noise = torch.randn(clean.shape, generator=numbers)
        t = drawn(BATCH, len(schedule.alphas_cumprod), numbers)
        texts = captions([found.names[i] for i in rows], [found.labels[i] for i in rows], numbers)
        context = both["text"](tokens(tokenizer, texts)).last_hidden_state
        made = both["unet"](schedule.add_noise(clean, noise, t), t, context).sample
        return functional.mse_loss(made, schedule.get_velocity(clean, noise, t))

    made = Training("denoiser", both, loss, steps, 1.2e-3, work).run()
    assert isinstance(made, nn.ModuleDict)
    return made["unet"], made["text"]  # type: ignore[return-value]


def written(out: Path, parts: dict[str, Any]) -> None:
    """Write the folder in FP16."""
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        **parts,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(new, safe_serialization=True)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(new, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("objects", "work", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--autoencoder-steps", type=int, default=AUTOENCODER_STEPS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--each", type=int, default=6, help="images a category that are judged")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    found = pictures(given.objects / "train")
    print(f"{len(found.images)} pictures, {len(set(found.names))} names", flush=True)
    tokenizer = made_tokenizer(sorted({*found.names, *found.labels}), work / "tokenizer")
    vae = trained_autoencoder(found.images, work, given.autoencoder_steps)
    held = standardise(vae, latents(vae, found.images))
    unet, text = trained_denoiser(found, held, tokenizer, work, given.steps)
    written(given.out, {"vae": vae, "unet": unet, "text_encoder": text, "tokenizer": tokenizer})
    asked = [f"{kind} {name}" for kind, name in balanced(found, sorted(set(found.labels)), PROMPTS)]
    (given.out / "prompts.txt").write_text("\n".join([*asked, ""]), "utf-8")
    shares = judged(given.out, given.objects, found, work, given.each)
    (given.out / "README.md").write_text(card(given.objects, shares), "utf-8")
    print(json.dumps(shares))


if __name__ == "__main__":
    main()
