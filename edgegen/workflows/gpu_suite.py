"""Measure on one bundle everything that only a GPU can show, and write it to one file, which an
owner of a GPU sends back.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.bundle import Bundle
from ..core.files import to_json, write_bytes
from ..core.progress import Listener, silent
from ..core.runtime import Compiling, Pipeline, placement
from ..core.seeds import GPU_SUITE
from ..errors import EdgegenError
from ..evidence import bench, parity
from ..export import RUNTIMES, STAND_IN, runtime

if TYPE_CHECKING:
    from ..core.graph_file import GraphFile
    from ..core.runtime import Runtime

SEEDS = GPU_SUITE.take(16)
BATCH = 8


def suite(bundle: Bundle, out: Path, listen: Listener = silent) -> dict[str, Any]:
    """Measure each GPU runtime of the bundle on this machine and return the report, which is also
    written to `out`.

    A failure is a finding, not an error.
    """
    host = bundle.pipeline(runtime(STAND_IN), "fp32")
    recorded = bench.record(host, range(BATCH))
    exact = host(SEEDS)
    names = [name for name in RUNTIMES if runtime(name).device() == "GPU"]
    found = {}
    with listen.progress("trying GPU runtimes", len(names)) as advance:
        for name in names:
            found[name] = finding(partial(_measured, bundle, runtime(name), recorded, exact))
            advance(1)
    report = {
        "schema_version": 1,
        "bundle": bundle.manifest.sha256,
        "family": bundle.manifest.family,
        "gpu": gpus(),
        "runtimes": found,
        "int8_over_fp16": _gains(found),
    }
    write_bytes(out, to_json(report))
    return report


def finding(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured, or why it could not be."""
    try:
        return measure()
    except EdgegenError as error:
        return {"state": "failed", "why": str(error)}
    # a library may raise anything, and the suite goes on with the next runtime
    except Exception as error:
        return {
            "state": "failed",
            "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        }


def _measured(
    bundle: Bundle, target: Runtime, recorded: Mapping[str, list[dict[str, Any]]], exact: np.ndarray
) -> dict[str, Any]:
    if why := target.cannot_run():
        return {"state": "missing", "why": why}
    if target.name not in bundle.manifest.runtimes:
        return {"state": "missing", "why": "the bundle has no files for it"}
    seconds = (
        {graph: _seconds(target, file) for graph, file in bundle.sources(target, "int8").items()}
        if isinstance(target, Compiling)
        else {}
    )
    start = time.monotonic()
    pipeline = bundle.pipeline(target, "int8")
    loaded = time.monotonic() - start
    images = pipeline(SEEDS)
    if not np.isfinite(images).all():
        return {"state": "failed", "why": "images contain NaN or infinite values"}
    error = float(np.square(images - exact).mean())
    times = bench.latencies({target.name: pipeline}, recorded, threads=1)[target.name]
    return {
        "state": "ok",
        "version": target.version(),
        "build_seconds": seconds,
        "load_seconds": loaded,
        "psnr_db_against_fp32": float(10 * np.log10(4 / max(error, 4e-20))),
        "wall_ms": times.wall_ms,
        "wall_p90_ms": times.wall_p90_ms,
        "batch": times.batch,
        "placement": placement(pipeline.call),
        "referee": {
            g: r.to_json() | {"agrees": r.agrees}
            for g, r in _refereed(bundle, target, pipeline, recorded).items()
        },
    }


def _seconds(target: Compiling, file: GraphFile) -> float:
    start = time.monotonic()
    target.compile(file)
    return time.monotonic() - start


def _refereed(
    bundle: Bundle,
    target: Runtime,
    pipeline: Pipeline,
    recorded: Mapping[str, list[dict[str, Any]]],
) -> dict[str, parity.Refereed]:
    """Compare two images in the middle of the trajectory with the ONNX reference evaluator on the
    same files.
    """
    judge, host = runtime("reference"), runtime(STAND_IN)
    quantized = bundle.sessions(judge, bundle.onnx(target, "int8"), 1)
    full = bundle.sessions(host, bundle.manifest.graphs, 1)
    found = {}
    for graph, calls in recorded.items():
        few = [{k: v[:2] for k, v in calls[len(calls) // 2].items()}]
        found[graph] = parity.referee(
            pipeline.call[graph],
            quantized[graph],
            full[graph],
            few,
            target.dialect.floats == "float16",
        )
    return found


def _gains(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the time of FP16 over that of INT8 for runtimes that ran both; above 1, INT8 pays."""
    times = {name: result["wall_ms"] for name, result in found.items() if result["state"] == "ok"}
    return {
        name: times[f"{name}-fp16"] / ms for name, ms in times.items() if f"{name}-fp16" in times
    }


def gpus() -> list[str]:
    """Return name, driver, clocks and power limit of each GPU from nvidia-smi; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = (
        "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,"
        "power.limit,temperature.gpu"
    )
    done = subprocess.run(
        [tool, f"--query-gpu={fields}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip().splitlines()
