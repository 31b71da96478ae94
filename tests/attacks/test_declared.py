"""What graphs declare, held to what the sampler asks; and evidence that says nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import Graphs
from onnx import helper

from attacks.attack import TOY, Change, attacked, copy, generated, put, resealed
from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.conditions import labels
from edgegen.core.declared import Declared, declared
from edgegen.core.latent import Latent
from edgegen.core.rehearsal import rehearse
from edgegen.core.samplers import sampler_from_json, sampler_to_json
from edgegen.core.spec import TensorSpec
from edgegen.export import onnx_structure
from edgegen.families import FAMILIES, family
from edgegen.machine.probe import TINY

Captured = pytest.CaptureFixture[str]


def model(inputs: dict[str, list[Any]], output: list[Any], kind: int = 1) -> bytes:
    """A graph that declares these shapes."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [next(iter(inputs), "x")], ["y"])]
    ins = [value(n, kind, shape) for n, shape in inputs.items()]
    made = helper.make_graph(nodes, "g", ins, [value("y", kind, output)])
    return helper.make_model(made, ir_version=9).SerializeToString()


def test_what_a_file_declares_is_read_without_a_runtime() -> None:
    data = model({"x": ["batch", 3, 16, 16], "t": ["batch"]}, ["batch", 3, 16, 16])
    assert declared(data) == Declared({"x": (None, 3, 16, 16), "t": (None,)}, (None, 3, 16, 16))
    assert declared(TINY) == Declared({"x": (1, 1, 2, 2)}, (1, 1, 2, 2))
    for file in sorted(TOY.rglob("*.onnx")):
        loaded = onnx.load(file)
        found = declared(file.read_bytes())
        assert list(found.inputs) == [value.name for value in loaded.graph.input]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x3a",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b\x0c",
        b"\x3a\x00\x3a\x00",
        model({}, [1]),
        model({"x": [1]}, [1], kind=7),
        model({"x": ["n"]}, ["n"]) + model({"x": ["n"]}, ["n"]),
    ],
    ids=range(9),
)
def test_what_declares_nothing_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        declared(data)


IMAGE = ["n", 3, 16, 16]
TAKEN: dict[str, list[Any]] = {"x": IMAGE, "t": ["n"], "label": ["n", 2]}


@pytest.mark.parametrize(
    ("graph", "inputs", "output", "said"),
    [
        ("theta", {"x": IMAGE}, IMAGE, "the sampler gives x, t, label"),
        ("theta", {**TAKEN, "x": ["n", 4, 16, 16]}, IMAGE, "takes x of (n, 4, 16, 16)"),
        ("theta", {**TAKEN, "t": [1]}, IMAGE, "takes t of (1)"),
        ("theta", {**TAKEN, "label": ["n", 3]}, IMAGE, "takes label of (n, 3)"),
        ("theta", TAKEN, ["n", 3, 8, 8], "could not be broadcast"),
        ("theta", TAKEN, [2**40, 2**40], "answers"),
        ("theta", TAKEN, [], "answers"),
    ],
)
def test_graphs_that_do_not_fit_the_sampler(
    graph: str,
    inputs: dict[str, list[Any]],
    output: list[Any],
    said: str,
    tmp_path: Path,
    capfd: Captured,
) -> None:
    root = copy(tmp_path)
    (root / f"graphs/{graph}.onnx").write_bytes(model(inputs, output))
    resealed(root)
    assert said in generated(root, capfd, codes=(6,))


def test_the_golden_bundle_rehearses() -> None:
    opened = Bundle.open(TOY)
    assert set(opened.declared) == {"theta", "phi"}
    rehearse(sampler_from_json(opened.manifest.sampler), opened.of({}).latent, opened.declared)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_rehearses(name: str, every_graph: Graphs) -> None:
    """And a start of another shape is found out, whatever the family."""
    kind = family(name)
    made = kind.build(kind.recipes["tiny"]().config)
    graphs = {
        graph: declared(model.SerializeToString())
        for (of, graph), model in every_graph.items()
        if of == name
    }
    sampler, latent = sampler_from_json(sampler_to_json(made.sampler)), made.latent
    rehearse(sampler, latent, graphs)
    onnx_files = [model for (of, _), model in every_graph.items() if of == name]
    for model in onnx_files:
        onnx_structure.check(model.SerializeToString(), Path(name))
    axes = latent.noise.shape[1:]
    for other in ((*axes, 2), axes[:-1], (*axes[:-1], int(axes[-1]) + 1)):
        with pytest.raises(ValueError, match=r".+"):
            rehearse(sampler, Latent(TensorSpec("x", ("batch", *other)), latent.conditions), graphs)
    with pytest.raises(ValueError, match="label"):
        rehearse(sampler, Latent(latent.noise, labels(latent.classes + 1)), graphs)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy, whose manifest is put back by each test."""
    return copy(tmp_path_factory.mktemp("evidence"))


EVIDENCE: dict[str, Change] = {
    "none": put(("evidence",), {}),
    "of no runtime": put(("evidence", "runtimes"), {}),
    "a list": put(("evidence", "runtimes"), []),
    "of a list": put(("evidence", "runtimes", "onnxruntime"), []),
    "of text": put(("evidence", "runtimes", "onnxruntime"), "good"),
    "a change in words": put(("evidence", "runtimes", "onnxruntime", "change"), "small"),
    "a change of nothing": put(("evidence", "runtimes", "onnxruntime", "change", "value"), None),
    "a change that is none": put(("evidence", "runtimes", "onnxruntime", "change", "value"), "nan"),
    "endless seeds": put(("evidence", "runtimes", "onnxruntime", "first_seed"), 1 << 80),
    "seeds below nothing": put(("evidence", "runtimes", "onnxruntime", "first_seed"), -1),
    "a trillion images": put(("evidence", "runtimes", "onnxruntime", "images"), 10**12),
    "no images": put(("evidence", "runtimes", "onnxruntime", "images"), 0),
    "a budget without end": put(("evidence", "runtimes", "onnxruntime", "budget"), "inf"),
    "a budget that is none": put(("evidence", "runtimes", "onnxruntime", "budget"), "nan"),
    "a level above one": put(("evidence", "runtimes", "onnxruntime", "level"), 2),
    "a level of nothing": put(("evidence", "runtimes", "onnxruntime", "level"), {}),
    "a PSNR of a thousand digits": put(
        ("evidence", "runtimes", "onnxruntime", "min_psnr_db"), 10**1000
    ),
}


@pytest.mark.parametrize("case", EVIDENCE)
def test_evidence_that_cannot_be_verified(case: str, shared: Path, capfd: Captured) -> None:
    pytest.importorskip("torch")
    shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)
    resealed(shared, EVIDENCE[case])
    said = attacked(["verify", str(shared), "--threads", "1"], capfd, (6,))
    assert "no complete evidence" in said
