"""Weights of a graph, read alike wherever they lie, and the file beside a graph that holds them."""

from __future__ import annotations

import ast
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import test_bundle
from house import our_modules
from onnx import TensorProto, helper, numpy_helper

from edgegen.calibrate.observe import session
from edgegen.core import weight_file, weights
from edgegen.core.bundle import Bundle, write_manifest
from edgegen.core.declared import declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.plan import Plan, Range
from edgegen.errors import EdgegenError, InputError, TrustError
from edgegen.export import onnx as onnx_files
from edgegen.export import onnx_structure, qdq, runtime
from edgegen.export.check import checked

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((8, 4, 3, 3)).astype(np.float32)
SECOND = RNG.standard_normal((8, 8, 1, 1)).astype(np.float32)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
KINDS = {
    "float32": (np.dtype(np.float32), TensorProto.FLOAT),
    "float16": (np.dtype(np.float16), TensorProto.FLOAT16),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), TensorProto.BFLOAT16),
}


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of these tests count as large."""
    monkeypatch.setattr(weight_file, "APART_BYTES", 64)
    monkeypatch.setattr(weight_file, "INLINE_BYTES", 64)


def two_convolutions(kind: str = "float32") -> onnx.ModelProto:
    """x -> w -> Relu -> v -> y; weights of another type are cast."""
    own, number = KINDS[kind]
    cast = number != TensorProto.FLOAT
    stored = {"w": WEIGHT.astype(own), "v": SECOND.astype(own)}
    names = {name: f"{name}.stored" if cast else name for name in stored}
    nodes = [helper.make_node("Cast", [names[n]], [n], f"Cast.{n}", to=1) for n in stored if cast]
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "v"], ["y"], "second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [value("y", TensorProto.FLOAT, ["batch", 8, 4, 4])],
        [numpy_helper.from_array(values, names[name]) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def apart(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model as this process holds one whose weights lie in a file."""
    path = onnx_files.write(model, folder / "g.onnx")
    return weight_file.located(onnx.load(str(path), load_external_data=False), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_is_what_was_stored_wherever_it_lies(kind: str, tmp_path: Path) -> None:
    model = two_convolutions(kind)
    held = apart(model, tmp_path)
    assert sum(map(weights.is_apart, held.graph.initializer)) == 2
    inside, outside = weights.GraphConstants(model.graph), weights.GraphConstants(held.graph)
    assert list(inside) == list(outside)
    for name in inside:
        assert inside[name].dtype == outside[name].dtype
        np.testing.assert_array_equal(inside[name], outside[name])
    assert outside["w"].dtype == np.float32
    np.testing.assert_array_equal(outside["w"], WEIGHT.astype(KINDS[kind][0]).astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference"])
def test_runtimes_load_the_pair(name: str, kind: str, tmp_path: Path) -> None:
    model = two_convolutions(kind)
    onnx_files.write(model, tmp_path / "g.onnx")
    assert (tmp_path / "g.weights").stat().st_size > SECOND.size * 2
    wanted = session(model, 1).run(None, {"x": X})[0]
    found = runtime(name).load(tmp_path / "g.onnx", 1)(x=X)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_model_in_memory_is_executed_with_weights_that_lie_apart(tmp_path: Path) -> None:
    model = two_convolutions("bfloat16")
    held = session(apart(model, tmp_path), 1)
    np.testing.assert_allclose(
        held.run(None, {"x": X})[0], session(model, 1).run(None, {"x": X})[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt_rtx"])
def test_int8_files_are_the_same_wherever_the_weights_lay(target: str, tmp_path: Path) -> None:
    """Those of half precision are no longer read once they are int8."""
    model = two_convolutions("float16")
    ranges = {name: Range(-4.0, 4.0) for name in qdq.candidates(model)}
    assert set(ranges) == {"x", "a", "b", "y"}
    plan = Plan((("*", "int8"),), {"g": ranges})
    dialect = runtime(target.replace("_", "-")).dialect
    inside = qdq.quantize(model, "g", plan, dialect)
    outside = qdq.quantize(apart(model, tmp_path), "g", plan, dialect)
    files = [
        onnx_files.write(made, tmp_path / f"{place}.onnx")
        for place, made in (("inside", inside), ("aparts", outside))
    ]
    for suffix in (".onnx", ".weights"):
        ours, theirs = (path.with_suffix(suffix).read_bytes() for path in files)
        assert ours == theirs.replace(b"aparts.weights", b"inside.weights")
    names = {tensor.name for tensor in inside.graph.initializer}
    assert not names & {"w.stored", "v.stored"}
    assert "w.int" in names


def test_a_model_is_written_the_same_from_memory_and_from_a_file(tmp_path: Path) -> None:
    model = two_convolutions("float16")
    (tmp_path / "again").mkdir()
    held = apart(model, tmp_path)
    onnx_files.write(held, tmp_path / "again" / "g.onnx")
    for name in ("g.onnx", "g.weights"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert weights.digest(held) != weights.digest(model)  # they are written otherwise


def test_small_weights_stay_in_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_convolutions()
    held = apart(model, tmp_path)
    monkeypatch.setattr(weight_file, "APART_BYTES", 64 << 20)
    path = onnx_files.write(model, tmp_path / "small.onnx")
    assert path.read_bytes() == model.SerializeToString(deterministic=True)
    assert not path.with_suffix(".weights").exists()
    onnx_files.write(held, path)
    assert path.read_bytes() == model.SerializeToString(deterministic=True)


def placed(change: dict[str, str | None]) -> bytes:
    """The graph of a pair whose tensor w says something else of where it lies."""
    model = two_convolutions()
    del model.graph.initializer[1].external_data[:]
    weight_file.point(model.graph.initializer[0], "g.weights", 0, WEIGHT.nbytes)
    weight_file.point(model.graph.initializer[1], "g.weights", 4096, SECOND.nbytes)
    said = {e.key: e.value for e in model.graph.initializer[0].external_data} | change
    del model.graph.initializer[0].external_data[:]
    for key, value in said.items():
        if value is not None:
            model.graph.initializer[0].external_data.add(key=key, value=value)
    return model.SerializeToString()


SIZE = 8192
WRONG: dict[str, tuple[dict[str, str | None], str]] = {
    "leaves the folder": ({"location": "../g.weights"}, "which leaves the model's folder"),
    "absolute": ({"location": "/etc/passwd"}, "which leaves the model's folder"),
    "another file": ({"location": "manifest.json"}, "keeps 'w' in another file"),
    "a folder": ({"location": "./g.weights"}, "keeps 'w' in another file"),
    "past the end": ({"offset": "8192"}, "ends at byte 9344 of 8192"),
    "overlapping": ({"offset": "3072"}, "shares bytes with"),
    "the same bytes": ({"offset": "4096"}, "shares bytes with"),
    "negative": ({"offset": "-4096"}, "does not say plainly where"),
    "no number": ({"offset": "0x10"}, "does not say plainly where"),
    "huge": ({"offset": "9" * 30}, "does not say plainly where"),
    "no length": ({"length": None}, "does not say plainly where"),
    "another shape": ({"length": "64"}, "has 64 bytes there, and another shape"),
    "more keys": ({"checksum": "0"}, "does not say plainly where"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_place_that_is_wrong_is_refused(case: str) -> None:
    change, said = WRONG[case]
    beside = onnx_structure.Beside("g.weights", SIZE)
    onnx_structure.check(placed({}), Path("g.onnx"), beside=beside)
    with pytest.raises((TrustError, InputError)) as error:
        onnx_structure.check(placed(change), Path("g.onnx"), beside=beside)
    assert error.value.code == "E-ONNX-EXTERNAL"
    assert said in error.value.message


def test_weights_outside_a_bundle_are_refused(tmp_path: Path) -> None:
    onnx_files.write(two_convolutions(), tmp_path / "g.onnx")
    loose = GraphFile.of(tmp_path / "g.onnx", (tmp_path / "g.onnx").read_bytes())
    with pytest.raises(EdgegenError, match="keeps 'w' in another file"):
        checked(loose)


def test_not_a_number_beside_a_graph_is_found() -> None:
    content = np.zeros(SIZE // 4, np.float32)
    beside = onnx_structure.Beside("g.weights", SIZE, content.view(np.uint8).data)
    onnx_structure.check(placed({}), Path("g.onnx"), beside=beside)
    content[5] = np.nan
    with pytest.raises(InputError, match="tensor 'w' holds NaN"):
        onnx_structure.check(placed({}), Path("g.onnx"), beside=beside)


def test_nothing_reads_an_initializer_around_the_reader() -> None:
    users = {
        module
        for module, path in our_modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("to_array", "raw_data", "float_data")
    }
    assert users == {"edgegen.core.weights"}


def pair_in_a_bundle(root: Path) -> Bundle:
    """Opened, and nobody vouches for it."""
    test_bundle.bundle(root)
    onnx_files.write(two_convolutions("float16"), root / "graphs" / "theta.onnx")
    write_manifest(root, test_bundle.ABOUT)
    opened = Bundle.open(root)
    assert "graphs/theta.weights" in opened.manifest.files
    return opened


@pytest.mark.slow
def test_the_door_takes_the_pair_of_a_bundle(tmp_path: Path) -> None:
    file = pair_in_a_bundle(tmp_path).graph_file("graphs/theta.onnx")
    target = runtime("onnxruntime")
    target.admit({"theta": file}, {"theta": declared(file.data())})
    wanted = session(two_convolutions("float16"), 1).run(None, {"x": X})[0]
    np.testing.assert_allclose(target.session(file, 1)(x=X), wanted, rtol=1e-4, atol=1e-4)


def test_weights_that_change_while_their_bundle_is_open_are_no_longer_taken(
    tmp_path: Path,
) -> None:
    file = pair_in_a_bundle(tmp_path).graph_file("graphs/theta.onnx")
    with file.placed() as path:
        copied = path.with_suffix(".weights").read_bytes()
    place = tmp_path / "graphs" / "theta.weights"
    assert copied == place.read_bytes()
    with place.open("r+b") as held:
        held.write(b"\1")
    with (
        pytest.raises(TrustError, match="it was changed while the bundle was open"),
        file.placed(),
    ):
        pytest.fail("it was placed")


def test_weights_that_a_manifest_does_not_list_are_no_part_of_a_bundle(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    pair_in_a_bundle(place)
    (place / "graphs" / "other.weights").write_bytes(b"x")
    with pytest.raises(TrustError, match=r"graphs/other\.weights is not listed"):
        Bundle.open(place)
    (place / "graphs" / "other.weights").unlink()
    (place / "graphs" / "theta.weights").rename(tmp_path / "theta.weights")
    (place / "graphs" / "theta.weights").symlink_to(tmp_path / "theta.weights")
    with pytest.raises(TrustError, match="is a link or a device"):
        Bundle.open(place)
