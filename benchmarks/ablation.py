"""Short trainings decide the recipe: which blocks, which type of prediction, which sampler.

    make data && python -m benchmarks ablation blocks --images 64000
    python -m benchmarks ablation prediction --images 96000
    python -m benchmarks ablation sampler --run runs/a

blocks trains theta alone. It measures the v-loss of the averaged weights on 2,000 test images at
eight timesteps, and CPU milliseconds an image of one call (one thread, batch 8, interleaved
medians) in FP32 and INT8 on each runtime. prediction trains both networks and measures the FD of
1,000 images (EfficientNet-Lite0 at 128 px, 128 directions, against 10,000 test images) in FP32 and
its change in INT8 on OpenVINO, same seeds. sampler takes a finished run, and measures the FD of
1,000 images as above, FP32 on OpenVINO, for steps x spacing x path. Every trained variant sees the
same images in the same order, one seed, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _measure import columns
from _precisions import pipelines
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.graph import Objective
from edgegen.core.images import to_uint8
from edgegen.core.samplers import alphas_bar
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.bench import latencies, middle, record
from edgegen.evidence.compare import compare
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.intervals import distance_interval
from edgegen.evidence.looks import LookSchedule
from edgegen.families import Recipe
from edgegen.families.cas_dm import CasDm, CasDmConfig
from edgegen.families.unet import UNetConfig
from edgegen.training import run as runs
from edgegen.training.data import Photos, load
from edgegen.training.loop import Trainer
from edgegen.workflows.generators import torch_pipeline

BLOCKS = {
    "batch relu 64/128": UNetConfig(),
    "batch hardswish 64/112": UNetConfig(activation="hardswish", widths=(64, 112)),
    "none leaky 64/128": UNetConfig(norm="none", activation="leaky_relu"),
    "group silu 48/96": UNetConfig(norm="group", activation="silu", widths=(48, 96)),
    "group silu 64/128": UNetConfig(norm="group", activation="silu"),
}
TIMESTEPS = (40, 150, 300, 450, 600, 750, 850, 950)
IMAGES = 1000  # images of an FD
EMA = 0.99  # for short runs, in which 0.999 would still remember the start


class ThetaOnly(CasDm):
    """Train the noise predictor without its refiner."""

    def objectives(self) -> Iterable[Objective]:
        return tuple(super().objectives())[:1]


def trained(generator: CasDm, images: int, photos: Photos) -> CasDm:
    trainer = Trainer.start(generator, Recipe(generator.config, images, ema=EMA), photos, seed=0)
    for _ in trainer.run():
        pass
    generator.networks.load_state_dict(trainer.averages.state_dict())
    generator.networks.eval()
    return generator


def v_loss(generator: CasDm, photos: Photos) -> float:
    """Return the mean squared error of v over TIMESTEPS on the first 2,000 photos, with fixed
    noise.
    """
    signal = alphas_bar("cosine", 1000)
    images = torch.from_numpy(photos.pixels[:2000]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.eye(10)[torch.from_numpy(photos.labels[:2000])]
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    losses = []
    with torch.inference_mode():
        for t in TIMESTEPS:
            s = float(signal[t])
            x, wanted = (
                s**0.5 * images + (1 - s) ** 0.5 * eps,
                s**0.5 * eps - (1 - s) ** 0.5 * images,
            )
            for k in range(0, 2000, 250):
                predicted = generator.networks["theta"](
                    x[k : k + 250], torch.full((250,), float(t)), labels[k : k + 250]
                )
                losses.append(float((predicted - wanted[k : k + 250]).square().mean()))
    return float(np.mean(losses))


def blocks(images: int, train: Photos, test: Photos) -> Iterator[Row]:
    for name, net in BLOCKS.items():
        torch.manual_seed(0)
        start = time.process_time()
        generator = trained(ThetaOnly(CasDmConfig(theta=net, path="eps")), images, train)
        spent = time.process_time() - start
        made = pipelines(generator)
        times = latencies(made, middle(record(next(iter(made.values())), range(8))), threads=1)
        yield {
            "variant": name,
            "parameters": sum(p.numel() for p in generator.networks["theta"].parameters()),
            "v-loss": v_loss(generator, test),
            "CPU s to train": spent,
            **{f"{name}, ms an image": t.cpu_ms / t.batch for name, t in times.items()},
        }


def statistics_of(network: FeatureNetwork, test: Photos) -> reference.Reference:
    return reference.build(network(test.pixels), network, "Fashion-MNIST test split")


def prediction(images: int, train: Photos, test: Photos) -> Iterator[Row]:
    network = feature_network("efficientnet-lite0")
    statistics = statistics_of(network, test)
    for kind in ("v", "epsilon"):
        torch.manual_seed(0)
        generator = trained(CasDm(CasDmConfig(prediction=kind)), images, train)
        full = FullSide(torch_pipeline(generator), network, statistics)
        int8 = pipelines(generator)["openvino int8"]
        result = compare(full, int8, 0.02, LookSchedule.once(IMAGES))
        yield {
            "prediction": kind,
            "steps": generator.config.steps,
            "FD FP32": result.distance_full.value,
            **columns("change INT8", result.verdict.change),
            "PSNR dB": result.psnr_db,
        }


def sampler(folder: Path, test: Photos) -> Iterator[Row]:
    network = feature_network("efficientnet-lite0")
    statistics = statistics_of(network, test)
    generator = runs.load(folder)[1]
    made = pipelines(generator)["openvino fp32"]
    for steps in (10, 20):
        for spacing in (0.5, 0.7, 1.0):
            for path in ("dynamic", "x0"):
                chosen = replace(generator.config, spacing=spacing).sampler(steps, path)
                images = to_uint8(replace(made, sampler=chosen)(EVIDENCE.take(IMAGES)))
                found = distance_interval(statistics.moments, statistics.project(network(images)))
                yield {
                    "steps": steps,
                    "spacing": spacing,
                    "path": path,
                    **columns("FD", found),
                }


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=("blocks", "prediction", "sampler"))
    parser.add_argument("--run", type=Path, default=Path("runs/a"))
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/edgegen/fashion-mnist")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (load(given.data, 32, split=split)[0] for split in ("train", "test"))
    if given.what == "sampler":
        rows, about = sampler(given.run, test), {"run": given.run.name}
    else:
        measured = blocks if given.what == "blocks" else prediction
        rows, about = measured(given.images, train, test), {"images trained on": given.images}
    seeds = f"trainings 0; images from {EVIDENCE.first:,} on; calibration from 0 on"
    report(given.json, "ablation", given.what, Part(followed(rows), seeds, 1, about))


if __name__ == "__main__":
    main()
