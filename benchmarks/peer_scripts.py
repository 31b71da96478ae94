"""What other toolkits are asked to do, each as a program for its own environment."""

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
