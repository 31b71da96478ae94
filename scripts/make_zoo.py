"""Turn a finished run into a zoo entry: float16 weights, card, sample grid, reference statistics.

    python scripts/make_zoo.py runs/a cas-dm --data ~/.cache/edgegen/fashion-mnist \
        --data-name "Fashion-MNIST" \
        --hours 1.6 --hardware "2 CPU cores" --goal "distance_all_features, at most that of a
          JPEG-quality-30 copy" 135 fd

The card's distance: Frechet distance over EfficientNet-Lite0 at 128 px, all 1280 features,
`--samples` generated images against the whole test split; its reference statistics (128 directions)
are of the same test images. Precision and recall are of as many of both as the smaller set has, at
most 5,000.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from edgegen.core.files import to_json, write_bytes
from edgegen.core.images import grid, save_png, to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.distances import Moments, frechet, kernel_distance
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.intervals import distance_interval
from edgegen.evidence.manifold import precision_recall
from edgegen.evidence.novelty import novelty
from edgegen.families import family
from edgegen.training import checkpoint
from edgegen.training import run as runs
from edgegen.training.data import load
from edgegen.workflows.config_changes import changed
from edgegen.workflows.generators import torch_pipeline
from edgegen.zoo import ROOT

COMPARED = 2_000  # generated and held-out images that are looked up among the training photos
NEIGHBOURS = 10_000  # training photos whose features are computed for it


def features_of(network: FeatureNetwork, images: np.ndarray) -> np.ndarray:
    return np.concatenate([network(images[k : k + 64]) for k in range(0, len(images), 64)])


def generated(
    pipeline: Pipeline, network: FeatureNetwork, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of `count` images, made and measured in batches so that memory stays
    small, and the pixels of the first COMPARED.
    """
    seeds = range(EVIDENCE.first, EVIDENCE.first + count)
    features, pixels = [], []
    for k in range(0, count, pipeline.batch):
        images = to_uint8(pipeline(seeds[k : k + pipeline.batch]))
        features.append(network(images))
        pixels.extend(images[: max(0, COMPARED - k)])
    return np.concatenate(features), np.stack(pixels)


def novelties(
    network: FeatureNetwork,
    pixels: np.ndarray,
    made: np.ndarray,
    held: np.ndarray,
    real: np.ndarray,
    train: np.ndarray,
) -> dict[str, object]:
    """Compare generated and held-out images with their nearest training photos, as pixels and as
    features (docs/methods/dkgm.md, D.2.4).
    """
    count, some = min(COMPARED, len(pixels), len(held)), train[:NEIGHBOURS]

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)

    return {
        "pixels": novelty(flat(pixels[:count]), flat(held[:count]), flat(train)).to_json(),
        "features": novelty(made[:count], real[:count], features_of(network, some)).to_json(),
        "what": f"median distance to the nearest of {len(train)} (features: {len(some)}) training "
        "photos over that of held-out "
        f"photos, and the share of images nearer than half of that; {count} images of each",
    }


def seen(run: Path) -> int:
    """Return the training images at the run's last step: fewer than the recipe's if it was ended
    early.
    """
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    return int(json.loads(last)["images"])


def goal(what: str, at_most: str, found: str, whole: float) -> dict[str, object]:
    """Return one goal of the card; `found` is a number, or "fd" for the distance over all
    features.
    """
    value = whole if found == "fd" else float(found)
    return {"what": what, "at_most": float(at_most), "found": value, "met": value <= float(at_most)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--held-out", type=Path, help="photos to measure against, where --data is no IDX"
    )
    parser.add_argument("--data-name", required=True)
    parser.add_argument("--licence", default="Apache-2.0; data: MIT")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--hardware", required=True)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--goal",
        nargs=3,
        action="append",
        required=True,
        metavar=("WHAT", "AT_MOST", "FOUND"),
        help='FOUND is a number, or "fd" for the distance over all features; may be given again',
    )
    parser.add_argument(
        "--note", default="", help="what a reader of the card should know of the training"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the card's config, where the run's says how it trained and not what ships: "
        "qat=false",
    )
    parser.add_argument(
        "--images", type=int, help="training images seen, where the run's are only its last"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    about, generator = runs.load(given.run)
    target = ROOT / given.name
    target.mkdir(exist_ok=True)
    halves = {
        k: v.half() if v.is_floating_point() else v
        for k, v in generator.shipped.state_dict().items()
    }
    write_bytes(target / "weights.safetensors", save(halves))
    # judge the weights that ship
    checkpoint.load_into(generator, checkpoint.read_weights(target / "weights.safetensors"), target)
    pipeline = torch_pipeline(generator)
    classes = pipeline.latent.classes
    save_png(
        target / "grid.png",
        grid(to_uint8(pipeline(range(8 * (classes or 8)))), classes or 8),
        scale=2,
    )

    network = feature_network("efficientnet-lite0")
    photos, _ = load(given.held_out or given.data, generator.config.size, split="test")
    real = features_of(network, photos.pixels)
    statistics = reference.build(real, network, f"{given.data_name} test split")
    statistics.write(target / "reference.safetensors")
    made, pixels = generated(pipeline, network, given.samples)
    train, _ = load(given.data, generator.config.size)
    whole = frechet(Moments.of(real), Moments.of(made))
    count = min(len(real), len(made), 5_000)
    found = precision_recall(real[:count], made[:count])
    projected = distance_interval(statistics.moments, statistics.project(made))
    card = {
        "family": about["family"],
        "config": asdict(changed(family(about["family"]), generator.config, given.set)),
        "parameters": sum(p.numel() for p in generator.shipped.parameters()),
        "data": {
            "name": given.data_name,
            "sha256": about["data"]["sha256"],
            "images": about["data"]["images"],
        },
        "recipe": about["recipe"],
        "seed": about["seed"],
        "torch": about["torch"],
        "hours": given.hours,
        "hardware": given.hardware,
        "images_seen": given.images or seen(given.run),
        "note": given.note,
        "licence": given.licence,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "distance": {
            "value": projected.value,
            "low": projected.low,
            "high": projected.high,
            "what": f"Frechet distance over {network.name} at {network.size} px, {statistics.k} "
            "projected directions, "
            f"{given.samples} samples against {len(photos)} test images, corrected for their "
            "number, 95 % interval",
        },
        "distance_all_features": {
            "value": whole,
            "what": f"the same over all {network.dim} features, without correction",
        },
        "goals": [goal(*each, whole) for each in given.goal],
        "kernel_distance": kernel_distance(real, made),
        "precision_recall": {**asdict(found), "images": count},
        "novelty": novelties(network, pixels, made, photos.pixels, real, train.pixels),
        "embeds_training_data": generator.embeds_training_data,
    }
    write_bytes(target / "card.json", to_json(card))
    print(to_json(card).decode())


if __name__ == "__main__":
    main()
