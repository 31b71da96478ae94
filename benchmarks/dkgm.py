"""What dkgm's parts are worth is measured: noise k, bandwidth h, the update's variance, steps N,
backbones, stage 2 (docs/methods/dkgm.md, D.3 test 10).

    python -m benchmarks dkgm --data PHOTOS --device cuda --train-images 2000000
    python -m benchmarks dkgm --data PHOTOS --parts sampling --source runs/a

sampling takes one generator (trained here, or --source: a zoo name or a run) with stage 1 alone,
and with stage 2 on both variances, grids of power 1 and 2, and N steps. training makes one short
training a row, each with one field changed: k, h, and the backbones. A row has sharpness (Laplacian
variance over that of held-out photos), FD to held-out photos (EfficientNet-Lite0 at 128 px, all
features, no correction: for comparing rows of one table only), and novelty over pixels (nearest
training photo against that of held-out photos, and the share of copies). Widths are of --recipe.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.graph import executed
from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import BridgeSampler
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.novelty import nearest, novelty
from edgegen.evidence.sharpness import sharpness
from edgegen.families import Recipe
from edgegen.families.dkgm.config import DkgmConfig
from edgegen.families.dkgm.family import FAMILY, Dkgm
from edgegen.training.data import Photos, load
from edgegen.training.device import device_of
from edgegen.training.loop import Trainer, TrainerOptions, shipped
from edgegen.workflows.generators import load_generator

STEPS = (1, 2, 5, 10, 20)
CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "k": tuple({"noise": k} for k in (0.0, 0.1, 0.3, 0.5)),
    "h": tuple({"bandwidth": h} for h in (0.25, 0.5, 1.0, 2.0, 4.0)),
    "backbones": (
        {"coarse_net": "unet"},
        {"debias_net": "dae"},
        {"coarse_net": "unet", "debias_net": "dae"},
    ),
    "modes": ({"mode": "pixel"}, {"mode": "latent"}, {"bank": "exemplars"}, {"weighting": "image"}),
}


@dataclass(frozen=True)
class Real:
    """Hold held-out photos and what generators are compared with; `train` are the pixels of
    training photos (n, d).
    """

    network: FeatureNetwork
    moments: Moments
    sharpness: float
    held_out: np.ndarray
    train: np.ndarray

    @classmethod
    def of(cls, held_out: Photos, train: Photos, images: int) -> Real:
        network, pixels = feature_network("efficientnet-lite0"), held_out.pixels[:images]
        scaled = pixels.transpose(0, 3, 1, 2) / 127.5 - 1
        return cls(
            network,
            Moments.of(network(pixels)),
            sharpness(scaled),
            _flat(pixels),
            _flat(train.pixels),
        )


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def pipeline(generator: Dkgm, sampler: BridgeSampler, device: torch.device) -> Pipeline:
    return Pipeline(generator.latent, sampler, executed(generator.graphs(), device), batch=250)


def judged(generator: Dkgm, sampler: BridgeSampler, real: Real, given: argparse.Namespace) -> Row:
    """Return the row of one generator with one sampler."""
    images = pipeline(generator, sampler, device_of(given.device))(EVIDENCE.take(given.images))
    pixels = to_uint8(images)
    new = novelty(_flat(pixels), real.held_out, real.train)
    distance = frechet(real.moments, Moments.of(real.network(pixels)))
    return {
        "sharpness": sharpness(images) / real.sharpness,
        "FD": distance,
        "novelty": new.ratio,
        "copies": new.copies,
    }


def fit(config: DkgmConfig, photos: Photos, given: argparse.Namespace) -> Dkgm:
    """Train with the product's own loop on --train-images, and return the generator with the
    averaged weights that would ship.
    """
    torch.manual_seed(given.seed)
    generator = Dkgm(config)
    recipe: Recipe = replace(
        FAMILY.recipes[given.recipe](), config=config, images=given.train_images, batch=given.batch
    )
    recipe = replace(
        recipe, warmup=min(recipe.warmup, given.train_images // given.batch // 20), ema=given.ema
    )
    run = Trainer.start(
        generator, recipe, photos, given.seed, TrainerOptions(device_of(given.device))
    )
    for _ in run.run():
        pass
    generator.shipped.load_state_dict(shipped(run))
    generator.networks.eval()
    return generator


def sampling(photos: Photos, real: Real, given: argparse.Namespace) -> Iterator[Row]:
    generator = source(photos, given)
    config = generator.config
    yield {"row": "stage 1 alone", **judged(generator, config.sampler(steps=0), real, given)}
    for variance, power in (("upper", 2.0), ("upper", 1.0), ("lower", 1.0)):
        for steps in STEPS:
            found = judged(generator, config.sampler(steps, power, variance), real, given)
            yield {"row": f"{variance}, power {power:g}, N {steps}", **found}


def training(photos: Photos, real: Real, given: argparse.Namespace) -> Iterator[Row]:
    base = config_of(photos, given)
    for group in given.groups:
        for change in CHANGES[group]:
            generator = fit(replace(base, **change), photos, given)
            for steps in (0, base.steps):
                found = judged(generator, generator.config.sampler(steps), real, given)
                words = ", ".join(f"{k} {v}" for k, v in change.items())
                yield {"row": f"{words}, stage {'1 + 2' if steps else '1'}", **found}


def config_of(photos: Photos, given: argparse.Namespace) -> DkgmConfig:
    config: DkgmConfig = FAMILY.recipes[given.recipe]().config
    return replace(config, classes=len(photos.classes))


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--parts", nargs="+", choices=["sampling", "training"], default=["sampling", "training"]
    )
    parser.add_argument(
        "--groups", nargs="+", choices=[*CHANGES], default=[*CHANGES], help="of trainings"
    )
    parser.add_argument(
        "--source", help="zoo name or run for the part sampling, instead of a training here"
    )
    parser.add_argument("--recipe", choices=[*FAMILY.recipes], default="photos32")
    parser.add_argument("--train-images", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument(
        "--images",
        type=int,
        default=1_000,
        help="generated for each row, and held-out ones at most",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size = FAMILY.recipes[given.recipe]().config.size
    photos, held_out = (load(given.data, size, split=split)[0] for split in ("train", "test"))
    real = Real.of(held_out, photos, given.images)
    apart = float(np.median(nearest(real.held_out, real.train)) / 127.5)
    print(
        f"held-out photos are {apart:.2f} from the nearest training one (median, units of h): h "
        f"below {apart / 3:.2f} copies"
    )
    asked = ("recipe", "groups", "source", "train_images", "batch", "ema", "images", "device")
    about = {"held out from training": apart, **{name: vars(given)[name] for name in asked}}
    seeds = f"images from {EVIDENCE.first:,} on; trainings {given.seed}"
    for name in given.parts:
        measured = sampling if name == "sampling" else training
        rows = followed(measured(photos, real, given))
        report(given.json, "dkgm", name, Part(rows, seeds, given.threads, about))


def source(photos: Photos, given: argparse.Namespace) -> Dkgm:
    if not given.source:
        return fit(config_of(photos, given), photos, given)
    generator = load_generator(given.source).generator
    if not isinstance(generator, Dkgm):
        raise SystemExit("dkgm: --source is another family's")
    return generator


if __name__ == "__main__":
    main()
