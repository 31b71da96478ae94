"""A generator's graphs as FP32 ONNX that computes what torch computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.progress import Listener, silent
from ...core.spec import Array
from ...evidence import parity
from ...evidence.bench import record
from ...export import STAND_IN, runtime
from ...export import onnx as onnx_files
from ..generators import torch_pipeline

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..generators import LoadedGenerator

PARITY_INPUTS = 64  # at least, over all timesteps
Calls = Mapping[str, Sequence[Mapping[str, Array]]]  # graph -> named inputs, call by call


def fp32_models(source: LoadedGenerator, listen: Listener = silent) -> dict[str, ModelProto]:
    """graph -> FP32 ONNX."""
    graphs = source.generator.graphs()
    models = {}
    with listen.progress("exporting FP32 graphs", len(graphs)) as advance:
        for name, graph in graphs.items():
            models[name] = onnx_files.to_onnx(graph, name)
            advance(1)
    return models


def trajectory_calls(source: LoadedGenerator, most: int) -> Calls:
    """What the sampler asks each graph, call by call, for enough seeds that parity is checked on
    PARITY_INPUTS inputs, or for as many as memory allows.
    """
    timesteps = len(source.generator.sampler.timesteps)
    return record(
        torch_pipeline(source.generator), range(min(-(-PARITY_INPUTS // timesteps), most))
    )


def torch_parity(
    source: LoadedGenerator, calls: Calls, folder: Path, threads: int
) -> dict[str, float]:
    """graph -> largest difference between torch and FP32 ONNX on inputs from every step of the
    trajectory; GateFailed beyond the limit. folder: with GRAPH.onnx.
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
