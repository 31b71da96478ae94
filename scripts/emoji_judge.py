"""Judge whether images show what was asked for, with a classifier trained on real
pictures alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from emoji_training import SEED, SIZE, Pictures, Training, drawn, pictures, scaled
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

STEPS, BATCH = 500, 64
GUIDANCE, SAMPLER_STEPS = 3.0, 20


def judge() -> nn.Module:
    """Return a classifier that looks at pictures at half their size."""

    def block(before: int, after: int) -> Iterator[nn.Module]:
        yield nn.Conv2d(before, after, 3, padding=1)
        yield nn.GroupNorm(8, after)
        yield nn.ReLU()

    return nn.Sequential(
        nn.AvgPool2d(2),
        *block(3, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 128),
        nn.MaxPool2d(2),
        *block(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def trained_judge(found: Pictures, kinds: list[str], work: Path) -> nn.Module:
    network = judge()
    answers = torch.tensor([kinds.index(label) for label in found.labels])

    def loss(numbers: torch.Generator) -> Tensor:
        chosen = drawn(BATCH, len(answers), numbers)
        shift = torch.randint(-4, 5, (2,), generator=numbers).tolist()
        batch = torch.roll(
            scaled(found.images[chosen]), shift, (2, 3)
        )  # rolling shows no seam, because the border is white
        return functional.cross_entropy(network(batch), answers[chosen])

    return Training("judge", network, loss, STEPS, 3e-3, work).run()


@torch.no_grad()
def agreement(network: nn.Module, images: Tensor, labels: list[str], kinds: list[str]) -> float:
    """Return the share of images, in [-1, 1], in which the network finds their category."""
    found = network(images).argmax(1).tolist()
    return float(np.mean([kinds[i] == label for i, label in zip(found, labels, strict=True)]))


def balanced(found: Pictures, kinds: list[str], each: int) -> list[tuple[str, str]]:
    """Return (category, name) pairs with `each` names for each category, drawn by seed."""
    numbers = np.random.default_rng(SEED)
    chosen = []
    for kind in kinds:
        names = sorted({n for n, k in zip(found.names, found.labels, strict=True) if k == kind})
        chosen += [(kind, name) for name in numbers.choice(names, each).tolist()]
    return chosen


def judged(out: Path, objects: Path, train: Pictures, work: Path, each: int) -> dict[str, float]:
    """Return the shares of images with the requested category: of real pictures that the classifier
    has not seen, and of the folder's images for names that it was trained with, names that it was
    not, and categories.
    """
    kinds, test = sorted(set(train.labels)), pictures(objects / "test")
    network = trained_judge(train, kinds, work)
    pipeline = StableDiffusionPipeline.from_pretrained(out, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    shares = {"held-out pictures": agreement(network, scaled(test.images), test.labels, kinds)}
    asked = {
        "trained names": balanced(train, kinds, each),
        "other names": balanced(test, kinds, each),
        "categories": [(kind, kind) for kind in kinds for _ in range(each)],
    }
    for what, pairs in asked.items():
        images = []
        for first in range(0, len(pairs), 20):
            made = pipeline(
                [name for _, name in pairs[first : first + 20]],
                height=SIZE,
                width=SIZE,
                guidance_scale=GUIDANCE,
                num_inference_steps=SAMPLER_STEPS,
                generator=torch.Generator().manual_seed(first),
                output_type="np",
            ).images
            images.append(torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1)
        shown = torch.cat(images)
        shares[what] = agreement(network, shown, [kind for kind, _ in pairs], kinds)
        sheet(shown, work / f"{what.replace(' ', '-')}.png")
    return shares


def sheet(images: Tensor, path: Path) -> None:
    """Write the images as a PNG with rows of twenty."""
    rows = [torch.cat(list(row), 2) for row in torch.split(images, 20) if len(row) == 20]
    pixels = torch.cat(rows, 1).permute(1, 2, 0).add(1).mul(127.5).clamp(0, 255)
    Image.fromarray(pixels.round().byte().numpy()).save(path)


CARD = """---
license: other
---

# A small text-to-image model of emoji

Made by `scripts/text_to_image.py` with diffusers and transformers as test data: 64 x 64 pixels,
prompts of up to 14 tokens, guidance {guidance:g}, {steps} steps. Weights in FP16.

Trained on emoji that `scripts/objects.py` makes from npm packages, with their names as captions:

{licences}

Share of images in which a classifier that knows real pictures alone finds the category that was
asked for, of ten (chance: 0.10):

{shares}
"""


def card(objects: Path, shares: dict[str, float]) -> str:
    known = (objects / "LICENCES.md").read_text("utf-8").splitlines()
    lines = [line for line in known if line.startswith("- ") and "clip-" not in line]
    return CARD.format(
        guidance=GUIDANCE,
        steps=SAMPLER_STEPS,
        licences="\n".join(lines),
        shares="\n".join(f"- {what}: {share:.2f}" for what, share in shares.items()),
    )
