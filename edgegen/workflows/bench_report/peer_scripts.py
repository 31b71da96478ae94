"""Hold the programs that other toolkits run on a graph, each in its own Python environment.

Their arguments are the FP32 graph, the feeds (a .npz with NAME|CALL) and the path to write; further
words choose a variant. Each toolkit is used as its documentation shows.
"""

from __future__ import annotations

NNCF = """
import sys
sys.modules["openvino_telemetry"] = None
import numpy as np, nncf, openvino as ov
graph, feeds, out = sys.argv[1:4]
held = np.load(feeds)
names = sorted({k.split("|")[0] for k in held})
left = nncf.IgnoredScope(types=["MatMul"], validate=False) if len(sys.argv) > 4 else None
items = [{n: held[f"{n}|{i}"] for n in names} for i in range(len(held) // len(names))]
model, samples = ov.convert_model(graph), nncf.Dataset(items)
made = nncf.quantize(model, samples, subset_size=len(items), ignored_scope=left)
ov.save_model(made, out + ".xml", compress_to_fp16=False)
"""


MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
graph, feeds, out = sys.argv[1:]
held = np.load(feeds)
names = sorted({k.split("|")[0] for k in held})
calls = range(len(held) // len(names))
data = {n: np.concatenate([held[f"{n}|{i}"] for i in calls]) for n in names}
quantize(graph, quantize_mode="int8", calibration_data=data, calibration_method="max",
         calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=out + ".onnx")
"""


OLIVE = """
import sys, pathlib
import numpy as np
from olive.data.config import DataConfig
from olive.data.registry import Registry
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization
graph, feeds, out = sys.argv[1:4]
held = np.load(feeds)
names = sorted({k.split("|")[0] for k in held})

@Registry.register_dataloader()
def recorded(dataset, **_):
    return [({n: held[f"{n}|{i}"] for n in names}, None) for i in range(len(held) // len(names))]

config = DataConfig(name="recorded", type="DummyDataContainer",
                    dataloader_config={"type": "recorded"},
                    load_dataset_config={"type": "dummy_dataset",
                                         "params": {"input_shapes": [[1]]}})
better = {"per_channel": True, "activation_type": "uint8"} if len(sys.argv) > 4 else {}
settings = {"data_config": config, **better}
quantizer = create_pass_from_dict(OnnxStaticQuantization, settings, disable_search=True)
made = quantizer.run(ONNXModelHandler(graph), out + ".folder")
pathlib.Path(made.model_path).rename(out + ".onnx")
"""


# Its further words are the operators to quantize, comma-separated, and the nodes to leave out.
ONNXRUNTIME = """
import sys
import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader, QuantFormat, QuantType, quantize_static)
from onnxruntime.quantization.shape_inference import quant_pre_process
graph, feeds, out = sys.argv[1:4]
types, excluded = (sys.argv[4].split(",") if len(sys.argv) > 4 else None), sys.argv[5:]
held = np.load(feeds)
names = sorted({k.split("|")[0] for k in held})

class Recorded(CalibrationDataReader):
    def __init__(self):
        self.calls = iter(range(len(held) // len(names)))

    def get_next(self):
        call = next(self.calls, None)
        return None if call is None else {n: held[f"{n}|{call}"] for n in names}

quant_pre_process(graph, out + ".ready.onnx", skip_symbolic_shape=True)
quantize_static(out + ".ready.onnx", out + ".onnx", Recorded(), quant_format=QuantFormat.QDQ,
                per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                op_types_to_quantize=types, nodes_to_exclude=excluded)
"""


# The metric must be positive and higher must be better: 1 minus the error's share of the energy.
NNCF_ACCURACY = """
import sys
sys.modules["openvino_telemetry"] = None
import numpy as np, nncf, openvino as ov
graph, feeds, out = sys.argv[1:4]
held = np.load(feeds)
names = sorted({k.split("|")[0] for k in held})
items = [{n: held[f"{n}|{i}"] for n in names} for i in range(len(held) // len(names))]
judged = items[:: max(1, len(items) // 16)]
model = ov.convert_model(graph)
full = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
wanted = [full(item)[0] for item in judged]

def nearness(compiled, data):
    apart = sum(np.square(compiled(item)[0] - one).sum() for item, one in zip(data, wanted))
    return max(1e-6, 1 - float(apart / sum(np.square(one).sum() for one in wanted)))

made = nncf.quantize_with_accuracy_control(
    model, nncf.Dataset(items), nncf.Dataset(judged), nearness, max_drop=0.01,
    subset_size=len(items))
ov.save_model(made, out + ".xml", compress_to_fp16=False)
"""


# Its words are the names of one package in package indices; it prints nothing if none is installed.
VERSION = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""
