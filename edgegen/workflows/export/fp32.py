"""Export a generator's graphs as FP32 ONNX files that compute what torch computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibrate.choose import multiplications
from ...core.progress import Listener, silent
from ...core.samplers import asked
from ...core.spec import Array
from ...evidence import parity
from ...evidence.bench import record
from ...export import STAND_IN, runtime
from ...export import onnx as onnx_files
from ..generators import torch_pipeline

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..generators import LoadedGenerator

# Inputs of each graph, over all timesteps, on which parity is checked, and the multiplications that
# this may take. Large graphs are checked on fewer seeds, because one of their seeds has as many
# values to compare as many seeds of a small graph.
PARITY_INPUTS, PARITY_WORK = 64, 1e12
Calls = Mapping[str, Sequence[Mapping[str, Array]]]  # graph -> named inputs, call by call


def fp32_models(source: LoadedGenerator, listen: Listener = silent) -> dict[str, ModelProto]:
    """Return the FP32 ONNX model of each graph by its name."""
    graphs = source.generator.graphs()
    models = {}
    with listen.progress("exporting FP32 graphs", len(graphs)) as advance:
        for name, graph in graphs.items():
            models[name] = onnx_files.to_onnx(graph, name)
            advance(1)
    return models


def parity_seeds(source: LoadedGenerator, models: Mapping[str, ModelProto]) -> int:
    """Return the number of seeds on whose trajectories parity is checked."""
    sampler = source.generator.sampler
    enough = -(-PARITY_INPUTS // len(sampler.timesteps))
    work = sum(
        max(len(asked(sampler, name)), 1) * sum(multiplications(model).values())
        for name, model in models.items()
    )
    return max(1, min(enough, int(PARITY_WORK / max(work, 1))))


def trajectory_calls(source: LoadedGenerator, models: Mapping[str, ModelProto], most: int) -> Calls:
    """Record what the sampler asks each graph, call by call, for the seeds that parity is checked
    on, but for at most `most` seeds, which memory allows.
    """
    seeds = min(parity_seeds(source, models), most)
    return record(torch_pipeline(source.generator), range(seeds))


def torch_parity(
    source: LoadedGenerator, calls: Calls, folder: Path, threads: int
) -> dict[str, float]:
    """Return, by graph, the largest difference between torch and FP32 ONNX on inputs from every
    step of the trajectory; `folder` holds GRAPH.onnx.

    Raises GateFailed if it is beyond the limit.
    """
    pipeline, host = torch_pipeline(source.generator), runtime(STAND_IN)
    differences = {
        name: parity.largest_difference(
            pipeline.call[name], host.load(folder / f"{name}.onnx", threads), inputs
        )
        for name, inputs in calls.items()
    }
    parity.check_fp32(host.name, differences, source.origin)
    return differences
