"""What Cas-DM's parts are worth is measured: its sampling paths, its gate, and what a metric loss
does to the prediction of noise.

    python -m benchmarks cas_dm paths --source cas-dm --images 1000 --steps 5 10 20
    python -m benchmarks cas_dm gates --source runs/a
    python -m benchmarks cas_dm control --train-steps 2000 --seeds 3 --device cuda
    python -m benchmarks cas_dm sweep --train-steps 2000 --device cuda

paths: a zoo name or a run; FD of the same seeds' images on each path at equal numbers of function
evaluations: theta alone takes 2 N steps where theta and phi take N. "fixed" takes the mean of
"dynamic"'s gate over 64 other seeds. gates: that mean, and the mean's spread over images, by
timestep. control: one network with both outputs (Benny and Wolf 2022: noise, clean image, gate; the
metric on its image) against Cas-DM, for metric weights 0, 0.1 and 1: change of the noise's mean
squared error on held-out images against weight 0, the same seed. The paper's motivation holds where
the first is damaged; Cas-DM's must be 0 to the bit. sweep: Cas-DM for metric weights 0, 0.03, 0.1,
0.3 and 1: noise error, metric of phi's image on held-out images, FD on "dynamic". Trainings here
are short, in FP32, at a constant rate, without averaged weights: for comparing with one another
only. FD is over EfficientNet-Lite0 at 128 px in the reference's directions, 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import columns
from _result import Part, Row, arguments_of, followed, report
from torch import Tensor, nn

from edgegen.core.graph import Batch, Objective, executed
from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import CascadeSampler, alphas_bar, clean_image, mean_gates
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.intervals import distance_interval
from edgegen.evidence.reference import Reference
from edgegen.families.cas_dm import CasDm, CasDmConfig, gate_loss
from edgegen.families.cas_dm.losses import METRIC_WEIGHTS
from edgegen.families.metrics import METRICS
from edgegen.families.unet import UNet
from edgegen.training.data import Photos, load
from edgegen.training.order import mix
from edgegen.workflows.generators import load_generator

SHARES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # shares of T: timesteps at which errors are taken
CONTROL, SWEEP = (0.0, 0.1, 1.0), (0.0, 0.03, 0.1, 0.3, 1.0)  # metric weights


class Dual(CasDm):
    """Train the negative control: one network for noise, clean image and gate, with all losses on
    all of it except the gate's (docs/methods/cas-dm.md, C.3 test 10).
    """

    def __init__(self, config: CasDmConfig) -> None:
        super().__init__(replace(config, prediction="epsilon"))
        self.networks = nn.ModuleDict(
            {"both": UNet(config.theta, config.channels, 2 * config.channels + 1, config.classes)}
        )

    def objectives(self) -> Iterable[Objective]:
        return (Objective("both", tuple(self.networks.parameters()), self.both_loss),)

    def both_loss(self, batch: Batch) -> Tensor:
        noised, c = self._noised(batch), self.config.channels
        out = self.networks["both"](noised.x, noised.t.float(), *self._labels(batch))
        eps, image, gate = (
            out[:, :c],
            out[:, c:-1],
            torch.sigmoid(out[:, -1:] + self.config.gate_bias),
        )
        coarse = clean_image(noised.x, eps.detach(), noised.signal, "epsilon").clip(-1, 1)
        loss = (noised.eps - eps).square().mean() + (image - batch.images).square().mean()
        loss = loss + gate_loss(gate, image, coarse, batch.images, noised.signal)
        weight = METRIC_WEIGHTS[self.config.metric_schedule](noised.signal.flatten())
        return (
            loss
            + self.config.metric_weight
            * (weight * METRICS[self.config.metric](image, batch.images)).mean()
        )

    def _labels(self, batch: Batch) -> tuple[Tensor | None]:
        return (batch.labels if self.config.classes else None,)


def pipeline(generator: CasDm, sampler: CascadeSampler, device: str) -> Pipeline:
    """Return a pipeline that torch executes on `device`."""
    return Pipeline(generator.latent, sampler, executed(generator.graphs(), device))


def gates(made: Pipeline, sampler: CascadeSampler, seeds: range) -> tuple[float, ...]:
    start, condition = made.latent.start(seeds), made.latent.condition(seeds)
    return mean_gates(sampler, made.call, start, condition, lambda _: np.zeros(0))


def distance(
    made: Pipeline, count: int, network: FeatureNetwork, real: Reference
) -> dict[str, float]:
    images = to_uint8(made(range(EVIDENCE.first, EVIDENCE.first + count)))
    found = distance_interval(real.moments, real.project(network(images)))
    return columns("FD", found)


def paths(given: argparse.Namespace) -> Iterator[Row]:
    source, network = load_generator(given.source), feature_network("efficientnet-lite0")
    generator, real = cascade(source.generator), reference.read(source.reference)
    real.check(network)
    for steps in given.steps:
        made = pipeline(generator, generator.sampler_with(steps, "dynamic"), given.device)
        curve = gates(made, generator.sampler_with(steps, "dynamic"), range(64))
        for path in ("eps", "x0", "dynamic", "fixed"):
            count = 2 * steps if path == "eps" else steps
            sampler = generator.sampler_with(count, path, gates=curve if path == "fixed" else ())
            found = distance(replace(made, sampler=sampler), given.images, network, real)
            yield {
                "path": path,
                "steps": count,
                "evaluations": 2 * steps,
                **found,
                "images": given.images,
            }


def curves(given: argparse.Namespace) -> Iterator[Row]:
    generator = cascade(load_generator(given.source).generator)
    sampler = generator.sampler_with(given.steps[0], "dynamic")
    made = pipeline(generator, sampler, given.device)
    each = np.array([gates(made, sampler, range(k, k + 4)) for k in range(0, 64, 4)])
    signal = sampler.signal
    for t, s, g in zip(sampler.timesteps, signal, each.T, strict=True):
        yield {
            "timestep": t,
            "abar": s,
            "gate": float(g.mean()),
            "spread of 4 images' means": float(g.std(ddof=1)),
        }


def cascade(generator: object) -> CasDm:
    if not isinstance(generator, CasDm) or generator.config.path == "eps":
        raise SystemExit("cas_dm: this benchmark needs a cas-dm generator with both networks")
    return generator


def fit(generator: CasDm, photos: Photos, given: argparse.Namespace, seed: int) -> CasDm:
    """Train briefly, as a function of (photos, seed) alone; each objective has its own optimizer,
    clipping and dropout.
    """
    generator.networks.to(given.device).train()
    objectives = [
        (o, torch.optim.Adam(o.params, given.rate, betas=o.betas)) for o in generator.objectives()
    ]
    picks = torch.Generator().manual_seed(seed)
    for step in range(given.train_steps):
        chosen = torch.randint(len(photos), (given.batch,), generator=picks).numpy()
        images, labels = batch_of(photos, chosen, generator.config.classes, given.device)
        rng = torch.Generator(given.device).manual_seed(mix(seed, step, "noise"))
        batch = Batch(images, labels, rng, step / given.train_steps)
        for objective, optimizer in objectives:
            torch.manual_seed(mix(seed, step, objective.name))
            optimizer.zero_grad(set_to_none=True)
            objective.loss(batch).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(objective.params, objective.clip)
            optimizer.step()
    generator.networks.eval()
    return generator


def batch_of(photos: Photos, chosen: Any, classes: int, device: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(photos.pixels[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = (
        torch.eye(max(classes, 1))[torch.from_numpy(photos.labels[chosen])]
        if classes
        else torch.zeros(len(images), 0)
    )
    return images.to(device), labels.to(device)


def errors(generator: CasDm, held: Photos, device: str) -> tuple[float, float]:
    """Return the mean squared error of the noise and the metric of the refined image, over SHARES;
    the metric is NaN without phi.
    """
    config = generator.config
    levels, noise, metric = alphas_bar(config.schedule, config.timesteps), [], []
    images, labels = batch_of(held, slice(0, 500), config.classes, device)
    condition = (labels,) if config.classes else (None,)
    with torch.inference_mode():
        for share in SHARES:
            t = round(share * config.timesteps)
            signal = float(levels[t])
            eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(t)).to(device)
            x, times = (
                signal**0.5 * images + (1 - signal) ** 0.5 * eps,
                torch.full((len(images),), float(t), device=device),
            )
            net = generator.networks["both" if isinstance(generator, Dual) else "theta"]
            out = net(x, times, *condition)[:, : config.channels]
            guess = (
                out
                if config.prediction == "epsilon"
                else signal**0.5 * out + (1 - signal) ** 0.5 * x
            )
            noise.append(float((guess - eps).square().mean()))
            if "phi" in generator.networks:
                coarse = clean_image(x, out, signal, config.prediction).clip(-1, 1)
                refined = generator.networks["phi"](coarse, x, times, *condition)[:, :-1]
                metric.append(float(METRICS[config.metric](refined, images).mean()))
    return float(np.mean(noise)), float(np.mean(metric)) if metric else float("nan")


def made(kind: type[CasDm], config: CasDmConfig, seed: int) -> CasDm:
    torch.manual_seed(mix(seed, 0, "init"))
    return kind(config)


def control(given: argparse.Namespace, train: Photos, test: Photos) -> Iterator[Row]:
    for name, kind in (("one network, two outputs", Dual), ("Cas-DM", CasDm)):
        plain: dict[int, float] = {}
        for weight in CONTROL:
            config = replace(settings(given, train), prediction="epsilon", metric_weight=weight)
            found = {
                seed: errors(fit(made(kind, config, seed), train, given, seed), test, given.device)[
                    0
                ]
                for seed in range(given.seeds)
            }
            plain = plain or found
            changes = [100 * (found[seed] / plain[seed] - 1) for seed in found]
            yield {
                "model": name,
                "metric weight": weight,
                "noise MSE": float(np.mean(list(found.values()))),
                "change %": float(np.mean(changes)),
                "least %": min(changes),
                "most %": max(changes),
                "seeds": given.seeds,
                "same bits": found == plain,
            }


def sweep(given: argparse.Namespace, train: Photos, test: Photos) -> Iterator[Row]:
    network = feature_network("efficientnet-lite0")
    real = reference.build(
        network(test.pixels[: given.reference]), network, f"{given.reference} held-out images"
    )
    for weight in SWEEP:
        generator = fit(
            made(CasDm, replace(settings(given, train), metric_weight=weight), 0), train, given, 0
        )
        noise, metric = errors(generator, test, given.device)
        found = distance(
            pipeline(generator, generator.sampler, given.device), given.images, network, real
        )
        yield {
            "metric weight": weight,
            "noise MSE": noise,
            f"{generator.config.metric} of phi": metric,
            **found,
            "images": given.images,
        }


def settings(given: argparse.Namespace, photos: Photos) -> CasDmConfig:
    return CasDmConfig(classes=len(photos.classes), metric=given.metric)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=("paths", "gates", "control", "sweep"))
    parser.add_argument("--source", default="cas-dm", help="zoo name or run folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[10], help="N of theta and phi")
    parser.add_argument("--images", type=int, default=500, help="of each FD")
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/edgegen/fashion-mnist")
    parser.add_argument(
        "--reference",
        type=int,
        default=1000,
        help="held-out images that a sweep's FD is taken against",
    )
    parser.add_argument("--metric", choices=tuple(METRICS), default="gradient")
    parser.add_argument("--train-steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.what in ("paths", "gates"):
        rows = (paths if given.what == "paths" else curves)(given)
    else:
        train, test = (load(given.data, 32, split=split)[0] for split in ("train", "test"))
        rows = (control if given.what == "control" else sweep)(given, train, test)
    about = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in vars(given).items()
        if k not in ("json", "data")
    }
    seeds = f"images from {EVIDENCE.first:,} on; trainings from 0 on"
    report(given.json, "cas_dm", given.what, Part(followed(rows), seeds, given.threads, about))


if __name__ == "__main__":
    main()
