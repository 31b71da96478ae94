"""What a sampler's solver is worth is measured: the Frechet distance of the same seeds' images,
solver by solver, at equal numbers of calls of the networks.

    python -m benchmarks solver --models cas-dm --images 1000 --json docs/results/solver.json
    python -m benchmarks solver --models lcd dkgm --images 500 --json docs/results/solver.json

cas-dm and lcd's teacher: "ddim" against "dpm++2m". dkgm: its own bridge with noise, and without
noise "euler" against "dpm++2m". FD is over EfficientNet-Lite0 at 128 px along the directions of the
zoo's reference (128, of test images), corrected for the number of images, 95 % interval; "plain" is
the same without correction; "of the first" is the paired ratio to the row's model and steps under
its first solver, 95 % interval. Rows of models that are not named stay in the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from _result import Part, arguments_of, followed, report

from edgegen.core.graph import Generator, executed
from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.intervals import Estimate, distance_change, estimate
from edgegen.families import family
from edgegen.workflows.generators import load_generator

SEEDS = f"from {EVIDENCE.first:,} on"
STEPS = {"cas-dm": (6, 8, 10), "lcd": (10, 20, 50), "dkgm": (10,)}
# changes of the config, by solver; the others are divided by the first
SOLVERS: dict[str, dict[str, dict[str, Any]]] = {
    "cas-dm": {"ddim": {"solver": "ddim"}, "dpm++2m": {"solver": "dpm++2m"}},
    "lcd": {
        "ddim": {"way": "teacher", "teacher_solver": "ddim"},
        "dpm++2m": {"way": "teacher", "teacher_solver": "dpm++2m"},
    },
    "dkgm": {
        "euler, with its noise": {"solver": "euler"},
        "euler, noise 0": {"solver": "euler", "noise": 0.0},
        "dpm++2m, noise 0": {"solver": "dpm++2m", "noise": 0.0},
    },
}


def changed(trained: Generator, name: str, steps: int, solver: str) -> Generator:
    """Return the same networks under another sampler."""
    config = replace(trained.config, steps=steps, **SOLVERS[name][solver])
    generator = family(name).build(config)
    generator.networks.load_state_dict(trained.networks.state_dict())
    generator.networks.eval()
    return generator


def rows_of(
    name: str, steps: Sequence[int], images: int, network: FeatureNetwork
) -> Iterator[dict[str, Any]]:
    source = load_generator(name)
    trained = source.generator
    assert isinstance(trained, Generator)
    real = reference.read(source.reference)
    real.check(network)
    for count in steps:
        first: Estimate | None = None
        for solver in SOLVERS[name]:
            generator = changed(trained, name, count, solver)
            made = Pipeline(generator.latent, generator.sampler, executed(generator.graphs()))
            began = time.process_time()
            drawn = to_uint8(made(range(EVIDENCE.first, EVIDENCE.first + images)))
            spent = time.process_time() - began
            features = real.project(network(drawn))
            found = estimate(real.moments, features)
            interval = found.interval()
            change = None if first is None else distance_change(first, found)
            first = first or found
            yield {
                "model": name,
                "steps": count,
                "solver": solver,
                "FD": interval.value,
                "low": interval.low,
                "high": interval.high,
                "plain": frechet(Moments.of(features), real.moments),
                "of the first": None
                if change is None
                else [1 + change.low, 1 + change.value, 1 + change.high],
                "images": images,
                "CPU s / image": spent / images,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(SOLVERS), default=list(SOLVERS))
    parser.add_argument("--steps", type=int, nargs="+", help="instead of each model's")
    parser.add_argument("--images", type=int, default=1000, help="of each FD")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    network = feature_network("efficientnet-lite0")
    for name in given.models:
        rows = followed(rows_of(name, given.steps or STEPS[name], given.images, network))
        report(given.json, "solver", name, Part(rows, SEEDS, given.threads))


if __name__ == "__main__":
    main()
