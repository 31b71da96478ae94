"""The peak memory of a calibration is measured at 64 and at 4,096 feeds, for edgegen's own and for
ONNX Runtime's MinMax.

    python -m benchmarks calibration            # about a minute on one core

One network of four convolutions on 3 x 32 x 32 inputs, made batch by batch; each figure is the peak
resident size of a process of its own, on one thread. docs/calibration.md has what was measured.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
from _measure import said_by
from _result import Part, Row, arguments_of, followed, report
from onnx import helper, numpy_helper

from edgegen.machine.resident import peak_bytes

FEW, MANY, BATCH = 64, 4096, 16
WIDTHS = ((3, 16), (16, 16), (16, 16), (16, 3))


def network() -> onnx.ModelProto:
    """Return a network of 3 x 3 convolutions with ReLU between, x (batch, 3, 32, 32) -> y."""
    rng, nodes, weights, tensor = np.random.default_rng(0), [], [], "x"
    for k, (read, made) in enumerate(WIDTHS):
        weight = rng.normal(0, (read * 4.5) ** -0.5, (made, read, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{k}"))
        last = k == len(WIDTHS) - 1
        nodes.append(
            helper.make_node(
                "Conv", [tensor, f"w{k}"], ["y" if last else f"h{k}"], f"c{k}", pads=[1, 1, 1, 1]
            )
        )
        if not last:
            tensor = f"r{k}"
            nodes.append(helper.make_node("Relu", [f"h{k}"], [tensor], f"relu{k}"))
    x, y = (
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 3, 32, 32]) for n in "xy"
    )
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def batches(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, BATCH):
        yield np.random.default_rng(start).normal(0, 1, (BATCH, 3, 32, 32)).astype(np.float32)


@dataclass(frozen=True)
class Noise:
    """Provide feeds that are made when they are needed."""

    samples: int

    def run(self, call: Any, label: str) -> None:
        for x in batches(self.samples):
            call["g"](x=x)

    def to_json(self) -> dict[str, Any]:
        return {}


def ours(count: int) -> None:
    from edgegen.core.samplers import SingleSampler
    from edgegen.workflows.context import Context
    from edgegen.workflows.export.calibration import calibrate_graphs
    from edgegen.workflows.generators import LoadedGenerator

    generator = cast(Any, SimpleNamespace(sampler=SingleSampler(("g",))))
    source = LoadedGenerator("net", "net", generator, {}, Path())
    calibrate_graphs(source, {"g": network()}, Noise(count), Context())


def onnx_runtime(count: int) -> None:
    from edgegen.core.offline import quietly

    quietly("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = batches(count)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"x": x} for x in self.left), None)

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(network(), path := Path(folder) / "g.onnx")
        found = create_calibrator(path, calibrate_method=CalibrationMethod.MinMax)
        found.collect_data(Reader())
        found.compute_data()


TOOLS = {"edgegen": ours, "ONNX Runtime MinMax": onnx_runtime}


def measured(tool: str) -> Row:
    """Return the peak MB of two processes of their own, with few and with many feeds."""
    few, many = (float(said_by(__file__, tool, str(count))) for count in (FEW, MANY))
    return {"tool": tool, f"peak MB at {FEW}": few, f"at {MANY}": many, "growth": many / few - 1}


def main() -> None:
    given = arguments_of(__doc__).parse_args()
    part = Part(followed(map(measured, TOOLS)), "noise of seed 0 on, a batch each")
    report(given.json, "calibration", "memory", part)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in TOOLS:  # a process of its own, started by `measured`
        TOOLS[sys.argv[1]](int(sys.argv[2]))
        print(peak_bytes() / 2**20)
    else:
        main()
