"""How near a generator's images are to held-out pictures, on a scale whose ends are measured too:

    python scripts/judge_base.py GENERATOR --train OBJECTS/train --held-out OBJECTS/test

GENERATOR: a zoo entry or a run. Each row is as many images as there are held-out pictures, measured
against these: Frechet distance along 128 of their main directions, corrected for the number, and
the kernel distance of all features. Real training pictures are the best that can be; the held-out
pictures as JPEG of quality 30 and 10 and blurred say what a number looks like.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from edgegen.core.images import to_uint8
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.distances import kernel_distance
from edgegen.evidence.features import feature_network
from edgegen.evidence.intervals import distance_interval
from edgegen.evidence.novelty import novelty
from edgegen.training.data import load
from edgegen.workflows.generators import load_generator, torch_pipeline


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Return the picture (h, w, 3) after a JPEG of that quality."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Return the picture (h, w, 3) blurred by a Gaussian of one pixel."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))


def rows(generator: str, train: np.ndarray, held: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and images (n, h, w, 3) of each row, n being the number of held-out pictures."""
    n = len(held)
    yield "training pictures", train[np.random.default_rng(0).permutation(len(train))[:n]]
    yield "JPEG 30", np.stack([as_jpeg(p, 30) for p in held])
    yield "JPEG 10", np.stack([as_jpeg(p, 10) for p in held])
    yield "blur 1", np.stack([blurred(p) for p in held])
    pipeline = torch_pipeline(load_generator(generator).generator)
    seeds = range(EVIDENCE.first, EVIDENCE.first + n)
    parts = [to_uint8(pipeline(seeds[k : k + 64])) for k in range(0, n, 64)]
    yield "generated", np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("generator")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    size = load_generator(given.generator).generator.config.size
    train, held = load(given.train, size)[0].pixels, load(given.held_out, size)[0].pixels
    network = feature_network("efficientnet-lite0")
    real = network(held)
    known = reference.build(real, network, "held-out pictures")
    for name, images in rows(given.generator, train, held):
        features = network(images)
        found = distance_interval(known.moments, known.project(features))
        row = {
            "row": name,
            "images": len(images),
            "fd": round(found.value, 1),
            "low": round(found.low, 1),
            "high": round(found.high, 1),
            "kernel_distance": round(kernel_distance(real, features), 4),
        }
        if name == "generated":
            flat = [p.reshape(len(p), -1) for p in (images, held, train)]
            row["near_copies"] = novelty(*flat).to_json()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
