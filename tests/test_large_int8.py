"""INT8 files of graphs whose weights lie in a file beside them: written weight by weight, on the
disk once however often a search asks, and read by path.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import test_weights
from onnx import TensorProto, helper

from edgegen.calibrate.equalize import ChannelObserver, equalized
from edgegen.calibrate.histogram import HistogramCounter
from edgegen.calibrate.observe import Observer
from edgegen.calibrate.rounding import WeightMoments, rounded
from edgegen.core import weight_file
from edgegen.core.graph_file import GraphFile
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Session
from edgegen.core.samplers import UNTIMED
from edgegen.core.weights import SUFFIX, GraphConstants, is_apart, place
from edgegen.export import executing, qdq, runtime
from edgegen.export import onnx as onnx_files
from edgegen.export.excerpt import Excerpts
from edgegen.workflows.export.referee import refereed_layers

NARROW, WIDE, LAYERS = 1024, 2048, 50  # 200 MiB of float16
MOST = 160 << 20  # bytes that quantizing may take beside what Python and onnx do
CHILD = """
import resource, sys
from pathlib import Path
import onnx
from edgegen.core.plan import Plan, Range
from edgegen.core.weight_file import located
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq, runtime

folder, most = Path(sys.argv[1]), int(sys.argv[2])
model = located(onnx.load(str(folder / "g.onnx"), load_external_data=False), folder)
ranges = {n: Range(-4.0, 4.0) for n in qdq.candidates(model)}
plan = Plan((("*", "int8"),), {"g": ranges}, linear=("*",))
dialects = {name: runtime(name).dialect for name in ("onnxruntime", "openvino", "tensorrt")}
has = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((has << 10) + most,) * 2)
for name, dialect in dialects.items():
    onnx_files.write(qdq.quantize(model, "g", plan, dialect), folder / f"{name}.onnx")
"""


def chain(folder: Path) -> None:
    """g.onnx and g.weights: products between vectors of two sizes, biases of the second half."""
    rng = np.random.default_rng(0)
    nodes, tensors, x = [], [], "x"
    sizes = [NARROW, WIDE] * (LAYERS // 2) + [NARROW]
    length = 2 * NARROW * WIDE
    with open(folder / "g.weights", "wb") as file:
        for k in range(LAYERS):
            values = rng.standard_normal(NARROW * WIDE, np.float32).astype(np.float16)
            file.write(values.tobytes())
            tensor = TensorProto(name=f"s{k}", data_type=TensorProto.FLOAT16, dims=sizes[k : k + 2])
            weight_file.point(tensor, "g.weights", k * length, length)
            tensors.append(tensor)
            nodes.append(helper.make_node("Cast", [f"s{k}"], [f"w{k}"], f"c{k}", to=1))
            nodes.append(helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"], f"p{k}"))
            x = "y" if k == LAYERS - 1 else f"r{k}"
            nodes.append(helper.make_node("Relu", [f"m{k}"], [x], f"relu{k}"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", NARROW])],
        [value("y", TensorProto.FLOAT, ["batch", NARROW])],
        tensors,
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "g.onnx").write_bytes(model.SerializeToString())


@pytest.mark.slow
def test_memory_is_bounded_by_the_largest_weight(tmp_path: Path) -> None:
    """Codes of all weights are 100 MiB and more with every copy; those of one are a few."""
    chain(tmp_path)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(MOST)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for name in ("onnxruntime", "openvino", "tensorrt"):
        size = (tmp_path / f"{name}.weights").stat().st_size
        assert size == pytest.approx(LAYERS * NARROW * WIDE, rel=0.02)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Graphs of these tests count as large; the folder of their constants."""
    monkeypatch.setattr(weight_file, "APART_BYTES", 64)
    monkeypatch.setattr(weight_file, "INLINE_BYTES", 32)
    (folder := tmp_path / "working").mkdir()
    monkeypatch.setattr(weight_file, "working_folder", lambda: folder)
    return folder


def held(folder: Path, kind: str = "float16") -> onnx.ModelProto:
    (place := folder / "model").mkdir(exist_ok=True)
    return test_weights.apart(test_weights.two_convolutions(kind), place)


def everything(model: onnx.ModelProto) -> Plan:
    return Plan((("*", "int8"),), {"g": {n: Range(-4.0, 4.0) for n in qdq.candidates(model)}})


def test_what_a_search_asks_again_takes_the_disk_once(small_is_large: Path, tmp_path: Path) -> None:
    model, dialect = held(tmp_path), runtime("openvino").dialect
    first = qdq.quantize(model, "g", everything(model), dialect)
    codes = [t for t in first.graph.initializer if t.name in ("w.int", "v.int")]
    assert all(map(is_apart, codes)), codes
    assert {Path(place(t)[0]).parent for t in codes} <= {small_is_large}
    known = sorted(small_is_large.iterdir())
    assert not [path for path in known if path.suffix != SUFFIX]
    again = qdq.quantize(model, "g", everything(model), dialect)
    assert again.SerializeToString() == first.SerializeToString()
    assert sorted(small_is_large.iterdir()) == known


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference"])
def test_files_of_large_graphs_are_those_of_small_ones(
    name: str, small_is_large: Path, tmp_path: Path
) -> None:
    target, inside = runtime(name), test_weights.two_convolutions("float16")
    found = []
    for place_of, model in (("inside", inside), ("apart", held(tmp_path))):
        (folder := tmp_path / place_of).mkdir()
        made = qdq.quantize(model, "g", everything(inside), target.dialect)
        found.append(target.load(onnx_files.write(made, folder / "g.onnx"), 1)(x=test_weights.X))
    np.testing.assert_array_equal(found[0], found[1])
    assert (tmp_path / "apart" / "g.weights").is_file()


def test_excerpts_stand_a_full_check(small_is_large: Path, tmp_path: Path) -> None:
    """What runs an excerpt may rewrite it first, and checks what it made of it."""
    model, dialect = held(tmp_path), runtime("tensorrt").dialect
    made = qdq.quantize(model, "g", everything(model), dialect)
    file = GraphFile.made_here(onnx_files.write(made, tmp_path / "g.onnx"))
    excerpts = Excerpts(file.path)
    for one in excerpts.sample(8):
        (folder := tmp_path / one.layer).mkdir()
        for path in excerpts.write(one, test_weights.X.shape, folder):
            onnx.checker.check_model(path, full_check=True)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_a_sample_of_layers_is_refereed(name: str, small_is_large: Path, tmp_path: Path) -> None:
    target = runtime(name)
    model, half = held(tmp_path), target.dialect.floats == "float16"
    made = qdq.quantize(model, "g", everything(model), target.dialect)
    file = GraphFile.made_here(onnx_files.write(made, tmp_path / "g.onnx"))
    assert file.weights is not None
    assert [one.layer for one in Excerpts(file.path).sample(8)] == ["first", "second"]
    assert [one.layer for one in Excerpts(file.path).sample(2)] == ["first", "second"]
    host, inputs = executing(target), {"x": test_weights.X}
    right = refereed_layers(file, host.load, inputs, half)
    assert right.agrees
    assert right.quantization_db < 100  # the full side rounds no activation

    def broken(built: Path, threads: int) -> Session:
        session = host.load(built, threads)
        return lambda **inputs: session(**inputs) * np.float32(1.2)

    wrong = refereed_layers(file, broken, inputs, half)
    assert not wrong.agrees
    assert wrong.runtime_db < 20


def test_a_large_graph_of_which_nothing_is_rounded_agrees(
    small_is_large: Path, tmp_path: Path
) -> None:
    model, target = held(tmp_path), runtime("openvino")
    made = qdq.quantize(model, "g", Plan((), {}), target.dialect)
    file = GraphFile.made_here(onnx_files.write(made, tmp_path / "g.onnx"))
    assert refereed_layers(file, target.load, {"x": test_weights.X}, False).agrees


def test_calibration_of_a_large_graph_is_that_of_a_small_one(
    small_is_large: Path, tmp_path: Path
) -> None:
    """Channels, extremes, histograms, second moments and what they make of the weights."""
    full = {"inside": test_weights.two_convolutions(), "apart": held(tmp_path, "float32")}
    found = {}
    for name, model in full.items():
        channels = ChannelObserver(model, 1)
        channels(x=test_weights.X)
        even = equalized(model, channels.largest)
        moments = WeightMoments(even, 1)
        moments(x=test_weights.X)
        even = rounded(even, moments, (8,))
        extremes = Observer(even, qdq.candidates(even), UNTIMED, 1)
        extremes(x=test_weights.X)
        counter = HistogramCounter(even, extremes.stats.ranges(), 1)
        counter(x=test_weights.X)
        found[name] = even, extremes.stats, counter.histograms.counts
    (inside, stats, counts), (apart, others, more) = found["inside"], found["apart"]
    for name, values in GraphConstants(inside.graph).items():
        np.testing.assert_allclose(GraphConstants(apart.graph)[name], values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(others.low, stats.low, rtol=1e-4, atol=1e-5)
    assert np.abs(more - counts).sum() <= 0.01 * counts.sum()
    large = [t for t in apart.graph.initializer if np.prod(t.dims) >= 64]
    assert len(large) == 4
    assert all(map(is_apart, large))
