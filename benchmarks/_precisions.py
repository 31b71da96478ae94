"""Run a generator in FP32 and in INT8 on each CPU runtime, without an export's rewrites
and search.
"""

from __future__ import annotations

from edgegen.calibrate.choose import plan
from edgegen.calibrate.observe import Observer
from edgegen.core.graph import Generator
from edgegen.core.runtime import Pipeline
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq, runtime
from edgegen.workflows.export.hosted import hosted

RUNTIMES = ("onnxruntime", "openvino")
CALIBRATED, BATCH = 64, 64  # calibration seeds, and images at once


def pipelines(generator: Generator) -> dict[str, Pipeline]:
    """Return the pipelines by runtime and precision, such as "openvino int8"."""
    models = {name: onnx_files.to_onnx(graph, name) for name, graph in generator.graphs().items()}
    observers = {
        k: Observer(m, qdq.candidates(m), generator.sampler.timesteps, 1) for k, m in models.items()
    }
    Pipeline(generator.latent, generator.sampler, observers, 32)(range(CALIBRATED))
    decided = plan(models, {k: o.stats for k, o in observers.items()})
    made = {}
    for name in RUNTIMES:
        host = runtime(name)
        int8 = {k: qdq.quantize(m, k, decided, host.dialect) for k, m in models.items()}
        for precision, files in (("fp32", models), ("int8", int8)):
            made[f"{name} {precision}"] = hosted(files, generator, 1, host, BATCH)
    return made
