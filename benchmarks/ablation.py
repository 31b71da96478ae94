"""Short trainings that decide the recipe: which blocks, which prediction type.

    make data && .venv/bin/python benchmarks/ablation.py blocks --images 64000
    .venv/bin/python benchmarks/ablation.py prediction --images 96000
    .venv/bin/python benchmarks/ablation.py sampler --run runs/a

blocks: theta alone; v-loss of the averaged weights on 2,000 test images at eight timesteps, and CPU
milliseconds an image of one call (one thread, batch 8, interleaved medians) in FP32 and INT8 on
each runtime. prediction: both networks; FD of 1,000 images (EfficientNet-Lite0 at 128 px, 128
directions, against 10,000 test images) in FP32 and its change in INT8 on OpenVINO, same seeds.
sampler: a finished run; FD of 1,000 images as above, FP32 on OpenVINO, for steps x spacing x path.
Every trained variant sees the same images in the same order, one seed, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgegen.calibrate.choose import plan
from edgegen.calibrate.observe import Observer
from edgegen.core.graph import Generator, Objective
from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import alphas_bar
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.bench import latencies, middle, record
from edgegen.evidence.compare import compare
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.intervals import distance_interval
from edgegen.evidence.looks import LookSchedule
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq, runtime
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
RUNTIMES = ("onnxruntime", "openvino")
EMA = 0.99  # short runs: 0.999 would still remember the start


class ThetaOnly(CasDm):
    """The noise predictor without its refiner."""

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
    """Mean squared error of v over TIMESTEPS on the first 2,000 photos, fixed noise."""
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


def pipelines(generator: Generator, folder: Path) -> dict[str, Pipeline]:
    """FP32 and INT8 on each runtime, by name."""
    models = {name: onnx_files.to_onnx(graph, name) for name, graph in generator.graphs().items()}
    observers = {
        k: Observer(m, qdq.candidates(m), generator.sampler.timesteps, 1) for k, m in models.items()
    }
    Pipeline(generator.latent, generator.sampler, observers, 32)(range(64))
    decided = plan(models, {k: o.stats for k, o in observers.items()})
    made = {}
    for name in RUNTIMES:
        target, place = runtime(name), folder / name
        place.mkdir()
        for precision in ("fp32", "int8"):
            call = {}
            for graph, model in models.items():
                written = (
                    model
                    if precision == "fp32"
                    else qdq.quantize(model, graph, decided, target.dialect)
                )
                call[graph] = target.load(
                    onnx_files.write(written, place / f"{graph}-{precision}.onnx"), 1
                )
            made[f"{name} {precision}"] = Pipeline(generator.latent, generator.sampler, call)
    return made


def blocks(images: int, train: Photos, test: Photos) -> None:
    timed = " | ".join(f"{n} {p}" for n in RUNTIMES for p in ("fp32", "int8"))
    print(f"variant | parameters | v-loss | seconds to train | {timed}")
    for name, net in BLOCKS.items():
        torch.manual_seed(0)
        start = time.process_time()
        generator = trained(ThetaOnly(CasDmConfig(theta=net, path="eps")), images, train)
        spent = time.process_time() - start
        with tempfile.TemporaryDirectory() as folder:
            made = pipelines(generator, Path(folder))
            times = latencies(made, middle(record(next(iter(made.values())), range(8))), threads=1)
        count = sum(p.numel() for p in generator.networks["theta"].parameters())
        columns = " | ".join(f"{t.cpu_ms / t.batch:.3f}" for t in times.values())
        print(
            f"{name} | {count:,} | {v_loss(generator, test):.4f} | {spent:.0f} | {columns}",
            flush=True,
        )


def features_of(network: FeatureNetwork, images: np.ndarray) -> np.ndarray:
    return np.concatenate([network(images[k : k + 64]) for k in range(0, len(images), 64)])


def prediction(images: int, train: Photos, test: Photos) -> None:
    network = feature_network("efficientnet-lite0")
    statistics = reference.build(
        features_of(network, test.pixels), network, "Fashion-MNIST test split"
    )
    print("prediction | steps | FD FP32 | change INT8 (95 %) | PSNR dB")
    for kind in ("v", "epsilon"):
        torch.manual_seed(0)
        generator = trained(CasDm(CasDmConfig(prediction=kind)), images, train)
        full = FullSide(torch_pipeline(generator), network, statistics)
        with tempfile.TemporaryDirectory() as folder:
            result = compare(
                full,
                pipelines(generator, Path(folder))["openvino int8"],
                0.02,
                LookSchedule.once(1000),
            )
        change = result.verdict.change
        print(
            f"{kind} | {generator.config.steps} | {result.distance_full.value:.1f} | "
            f"{change.value:+.2%} ({change.low:+.2%} to "
            f"{change.high:+.2%}) | {result.psnr_db:.1f}",
            flush=True,
        )


def sampler(folder: Path, test: Photos) -> None:
    network = feature_network("efficientnet-lite0")
    statistics = reference.build(
        features_of(network, test.pixels), network, "Fashion-MNIST test split"
    )
    generator = runs.load(folder)[1]
    with tempfile.TemporaryDirectory() as place:
        made = pipelines(generator, Path(place))["openvino fp32"]
        print("steps | spacing | path | FD (95 %)")
        for steps in (10, 20):
            for spacing in (0.5, 0.7, 1.0):
                for path in ("dynamic", "x0"):
                    chosen = replace(generator.config, spacing=spacing).sampler(steps, path)
                    images = to_uint8(
                        Pipeline(generator.latent, chosen, made.call)(
                            range(EVIDENCE.first, EVIDENCE.first + 1000)
                        )
                    )
                    found = distance_interval(
                        statistics.moments, statistics.project(features_of(network, images))
                    )
                    print(
                        f"{steps} | {spacing} | {path} | {found.value:.1f} ({found.low:.1f} to "
                        f"{found.high:.1f})",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("blocks", "prediction", "sampler"))
    parser.add_argument("--run", type=Path, default=Path("runs/a"))
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/edgegen/fashion-mnist")
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (load(given.data, 32, split=split)[0] for split in ("train", "test"))
    if given.what == "sampler":
        sampler(given.run, test)
    else:
        (blocks if given.what == "blocks" else prediction)(given.images, train, test)


if __name__ == "__main__":
    main()
