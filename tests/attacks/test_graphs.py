"""ONNX files in bundles whose hashes are all right, mutated: none reaches a native parser of this
process unless it passed the door, and none crashes it, hangs it or takes its memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from attacks.attack import REFUSED, attacked, copy, generated, resealed
from attacks.mutations import BYTES, MUTATIONS, Mutation, chained, constant, floats, through
from edgegen.errors import EdgegenError
from edgegen.export import onnx_structure
from edgegen.export.ort import OnnxRuntime

Captured = pytest.CaptureFixture[str]
THETA = "int8/onnxruntime/theta.onnx"


def mutated(root: Path, name: str, mutate: Mutation) -> Path:
    loaded = onnx.load(root / name)
    mutate(loaded)
    (root / name).write_bytes(loaded.SerializeToString())
    return resealed(root)


@pytest.fixture
def only_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime in this process is given nothing."""
    monkeypatch.setattr(
        OnnxRuntime, "session", lambda *_: pytest.fail("a native parser of this process saw it")
    )


# by which control, where another would refuse it too
CODES = {
    "3,000 chained functions": "E-ONNX-LIMIT",
    "functions that multiply": "E-ONNX-LIMIT",
    "a loop of 2^60": "E-ONNX-OP",
    "a loop within a choice": "E-ONNX-OP",
    "graphs within graphs": "E-ONNX-LIMIT",
    "numbers of its own": "E-ONNX-OP",
    "an operator of nobody": "E-ONNX-OP",
    "Python": "E-ONNX-OP",
    "a compiled blob within": "E-ONNX-OP",
    "a blob within, embedded": "E-ONNX-OP",
    "weights above the folder": "E-ONNX-EXTERNAL",
    "weights at the root": "E-ONNX-EXTERNAL",
    "an attribute kept elsewhere": "E-ONNX-EXTERNAL",
    "a training's tensor kept elsewhere": "E-ONNX-EXTERNAL",
    "six gigabytes, filled": "E-OOM",
    "a terabyte, filled": "E-OOM",
    "weights that are no numbers": "E-NONFINITE",
}


# these pass what Python reads, so that each needs a process: the others stand for them in the suite
ONLY_A_PROCESS_TELLS = (
    "a circle",
    "a kernel larger than the image",
    "a tensor that nobody writes",
    "a tensor written twice",
    "a version of the future",
    "an index beyond",
    "an operator set of the future",
    "an operator set of the past",
    "an output of fewer axes",
    "a terabyte, filled",
    "a terabyte, tiled",
    "no operator set",
    "no version",
    "weights of no type",
)


def cases(names: Iterable[str], rare: tuple[str, ...]) -> list[Any]:
    """The rare ones are left to `make reliability`."""
    return [
        pytest.param(name, marks=pytest.mark.reliability) if name in rare else name
        for name in names
    ]


@pytest.mark.parametrize("case", cases(MUTATIONS, ONLY_A_PROCESS_TELLS))
def test_a_mutated_graph_is_refused(
    case: str, tmp_path: Path, capfd: Captured, only_in_a_child: None
) -> None:
    said = generated(mutated(copy(tmp_path), THETA, MUTATIONS[case]), capfd, codes=REFUSED)
    assert CODES.get(case, "E-") in said


@pytest.mark.parametrize("case", BYTES)
def test_what_is_no_graph_is_refused(
    case: str, tmp_path: Path, capfd: Captured, only_in_a_child: None
) -> None:
    root = copy(tmp_path)
    (root / THETA).write_bytes(BYTES[case]((root / THETA).read_bytes()))
    generated(resealed(root), capfd, codes=REFUSED)


@pytest.mark.parametrize("verb", ["verify", "bench", "lint", "generate"])
def test_every_verb_goes_through_the_door(
    verb: str, tmp_path: Path, capfd: Captured, only_in_a_child: None
) -> None:
    root = mutated(copy(tmp_path), THETA, MUTATIONS["3,000 chained functions"])
    flags = {
        "generate": ["-o", str(tmp_path / "o.png")],
        "verify": ["--images-only", "--threads", "1"],
        "bench": ["--rounds", "5", "--batch", "1"],
    }
    said = attacked([verb, str(root), *flags.get(verb, [])], capfd, (4,))
    assert "E-ONNX-LIMIT" in said


def test_the_full_precision_graphs_go_through_it_too(
    tmp_path: Path, capfd: Captured, only_in_a_child: None
) -> None:
    root = mutated(copy(tmp_path), "graphs/theta.onnx", MUTATIONS["a loop of 2^60"])
    assert "E-ONNX-OP" in generated(root, capfd, "--precision", "fp32", codes=(4,))


def test_images_that_are_no_numbers_are_not_written(tmp_path: Path, capfd: Captured) -> None:
    root = mutated(copy(tmp_path), THETA, floats(np.inf))
    assert "E-NONFINITE" in generated(root, capfd, codes=(4,))


def harmless(model: ModelProto) -> None:
    """A choice, a function, words and names of no meaning: all that a graph may have."""
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Identity", ["made"], ["r"])], "g", [], [value("r", 1, None)]
    )
    yes = constant(model, "yes", True)
    through(model, helper.make_node("If", [yes], ["changed"], then_branch=inner, else_branch=inner))
    model.doc_string, model.producer_name = "\x1b[2J", "somebody"
    model.metadata_props.add().key = "k"


def test_a_graph_that_only_looks_odd_passes(tmp_path: Path, capfd: Captured) -> None:
    generated(mutated(copy(tmp_path), THETA, harmless), capfd, codes=(0,))
    again = mutated(copy(tmp_path / "f"), THETA, chained(3))
    generated(again, capfd, codes=(0,))


def test_lint_takes_operators_that_a_bundle_may_not_have(tmp_path: Path) -> None:
    root = copy(tmp_path)
    data = mutated(root, THETA, MUTATIONS["a loop of 2^60"])
    file = (data / THETA).read_bytes()
    onnx_structure.check(file, root, ours=False)
    with pytest.raises(EdgegenError, match="E-ONNX-OP"):
        onnx_structure.check(file, root)
