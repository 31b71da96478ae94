"""Quantize a bundle's FP32 graphs with other toolkits, each in a Python of its own, and measure the
speed of pipelines from seed to image.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from _measure import in_turns, median

from edgegen.core.bundle import Bundle
from edgegen.core.runtime import Pipeline
from edgegen.export import runtime
from edgegen.workflows.bench_report.peer_scripts import ONNXRUNTIME
from edgegen.workflows.bench_report.peers import inner_convolutions

Feeds = list[dict[str, np.ndarray]]
# takes FP32 graph, feeds and the path to write; returns what its runtime loads
Make = Callable[[Path, Feeds, Path], Path]


def elsewhere(python: str, code: str, suffix: str, *more: str) -> Make:
    """Return a peer that runs in an environment of its own."""

    def make(graph: Path, feeds: Feeds, out: Path) -> Path:
        held = out.with_suffix(".npz")
        np.savez(held, **{f"{n}|{i}": v for i, feed in enumerate(feeds) for n, v in feed.items()})  # type: ignore[arg-type]
        done = subprocess.run(
            [python, "-c", code, graph, held, out, *more],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            ended = f"ended with {done.returncode} and no output"
            if done.returncode < 0:
                ended = f"was ended by signal {-done.returncode} (9: memory ran out)"
            raise RuntimeError((done.stderr.strip().splitlines() or [ended])[-1])
        return out.with_suffix(suffix)

    return make


# ONNX Runtime's quantize_static, after the preprocessing that its documentation asks for.
onnxruntime_own = elsewhere(sys.executable, ONNXRUNTIME, ".onnx")


def convolutions_alone(graph: Path, feeds: Feeds, out: Path) -> Path:
    """Quantize with ONNX Runtime, leaving out by hand what edgegen leaves in FP32: all but
    convolutions, and each graph's ends.
    """
    words = inner_convolutions(graph)
    return elsewhere(sys.executable, ONNXRUNTIME, ".onnx", *words)(graph, feeds, out)


def quantized_by(
    make: Make, bundle: Bundle, feeds: Mapping[str, Feeds], host: str, folder: Path
) -> Pipeline:
    """Return the bundle's FP32 graphs quantized by a peer and executed by `host`."""
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    call = {}
    for graph, name in bundle.manifest.graphs.items():
        # a copy, because ModelOpt writes into the folder that it is given
        own = Path(shutil.copy(bundle.path(name), folder / f"{graph}-full.onnx"))
        made = make(own, feeds[graph], folder / graph)
        call[graph] = runtime(host).load(made, 1)
    return Pipeline(full.latent, full.sampler, call)


def seconds(candidates: Mapping[str, Pipeline], batch: int, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of one batch from seed to image, the median of interleaved rounds;
    each follows an untimed batch of its own, as in use.
    """

    def draw(pipeline: Pipeline, turn: int) -> None:
        pipeline(range(turn * batch, (turn + 1) * batch))

    calls = {name: partial(draw, pipeline) for name, pipeline in candidates.items()}
    return {name: median(s).cpu for name, s in in_turns(calls, rounds, is_twice=True).items()}
