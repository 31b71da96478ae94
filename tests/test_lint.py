"""The linter names what a runtime minds, and is right: each rule's graph breaks that rule only, and
the runtime is asked too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from graphs import Graphs, inputs, int8_plan, one_conv
from onnx import helper

from edgegen.calibrate.choose import ends
from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.errors import EdgegenError, InputError, UsageError
from edgegen.evidence import parity
from edgegen.export import engine, qdq, runtime
from edgegen.export.check import checked
from edgegen.export.lint import lint
from edgegen.export.lint_rules import NOT_IN_TENSORRT, RULES
from edgegen.export.onnx import write

ENGINES = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no graph was built"
)
# rule -> its graph, the level and the node for TensorRT
BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "int32-bias": ({"bias": "int32"}, "error", "b.DQ"),
    "zero-point": ({"zero": 5}, "error", "xd.Q"),
    "uint8": ({"activation": "uint8"}, "error", "xd.Q"),
    "rounds-for-nothing": ({"output": True}, "warning", "y.DQ"),
    "per-tensor-weight": ({"per_channel": False}, "warning", "conv"),
    "float-weight": ({"weights": "float"}, "warning", "conv"),
    "narrow": ({"cin": 8}, "warning", "conv"),
    "opset": ({"opset": 27}, "warning", "(model)"),
}
# the others build: TensorRT takes them, wrongly or slowly
REFUSED = {"int32-bias": "b.DQ", "zero-point": "xd.Q"}


def rules(model: onnx.ModelProto, name: str) -> list[tuple[str, str, str]]:
    """(level, rule, node), the first node of each rule."""
    found: dict[str, tuple[str, str, str]] = {}
    for finding in lint(model, name):
        found.setdefault(finding.rule, (finding.level, finding.rule, finding.node))
    return list(found.values())


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_of_tensorrt_is_broken_alone(rule: str) -> None:
    given, level, node = BROKEN[rule]
    assert (
        rules(one_conv(**given), "tensorrt")
        == rules(one_conv(**given), "tensorrt-rtx")
        == [(level, rule, node)]
    )


def test_a_good_graph_breaks_no_rule() -> None:
    assert lint(one_conv(), "tensorrt") == lint(one_conv(), "openvino") == ()
    assert lint(one_conv("uint8", output=True), "onnxruntime") == ()


@ENGINES
@pytest.mark.parametrize("rule", BROKEN)
def test_tensorrt_refuses_what_the_rule_says_and_nothing_else(rule: str) -> None:
    made = engine.engines(
        "tensorrt_rtx", one_conv(**BROKEN[rule][0]).SerializeToString(), ("SM86",)
    )
    if rule in REFUSED:
        assert (
            isinstance(made, tuple)
            and made[0] == "E-TRT-PARSE"
            and f"refuses node {REFUSED[rule]}" in made[1]
        )
    else:
        assert isinstance(made, list)


@ENGINES
def test_tensorrt_takes_unsigned_codes_for_signed_ones() -> None:
    """The engine of a uint8 graph is the engine of the int8 graph: with other codes, other
    images.
    """
    made = [
        engine.engines("tensorrt_rtx", one_conv(kind).SerializeToString(), ("SM86",))
        for kind in ("uint8", "int8")
    ]
    assert all(isinstance(m, list) for m in made) and len(made[0][0]) == len(made[1][0])
    weights = engine.engines(
        "tensorrt_rtx", one_conv(weights="uint8").SerializeToString(), ("SM86",)
    )
    assert isinstance(weights, tuple) and "refuses node w.DQ" in weights[1]
    assert ("error", "uint8", "w.DQ") in rules(one_conv(weights="uint8"), "tensorrt")


@pytest.mark.parametrize(
    ("name", "given", "level", "rule", "node"),
    [
        (
            "onnxruntime",
            {"activation": "uint8", "output": True, "opset": 27},
            "error",
            "opset",
            "(model)",
        ),
        (
            "onnxruntime",
            {"activation": "uint8", "output": True, "per_channel": False},
            "warning",
            "per-tensor-weight",
            "conv",
        ),
        (
            "onnxruntime",
            {"activation": "uint8", "output": True, "weights": "float"},
            "warning",
            "weight-rounded-unasked",
            "conv",
        ),
        ("onnxruntime", {"output": True}, "warning", "signed", "xd.Q"),
        ("onnxruntime", {"activation": "uint8"}, "warning", "float-output", "conv"),
        ("openvino", {"concat": True}, "error", "signed-behind-concat", "xd.Q"),
        (
            "openvino",
            {"activation": "uint8", "output": True},
            "warning",
            "rounds-for-nothing",
            "y.DQ",
        ),
        ("openvino", {"per_channel": False}, "warning", "per-tensor-weight", "conv"),
        ("openvino", {"weights": "float"}, "warning", "float-weight", "conv"),
    ],
)
def test_each_rule_of_the_cpu_runtimes_is_broken_alone(
    name: str,
    given: dict[str, Any],
    level: str,
    rule: str,
    node: str,
    tmp_path: Path,
) -> None:
    model = one_conv(**given)
    assert rules(model, name) == [(level, rule, node)]
    target, file = runtime(name), write(model, tmp_path / "g.onnx")
    (built := tmp_path / "built").mkdir()
    if rule == "opset":
        with pytest.raises(InputError, match="cannot load it"):
            target.load(target.build(file, built)[0], 1)
    # whether that one is computed wrongly depends on the processor
    elif rule != "signed-behind-concat":
        here, judge = (
            target.load(target.build(file, built)[0], 1),
            runtime("reference").load(file, 1),
        )
        assert parity.referee(here, judge, judge, [inputs(model)]).runtime_db > 50


def test_onnx_runtime_rounds_weights_unasked_and_our_sessions_do_not(tmp_path: Path) -> None:
    import onnxruntime

    model = one_conv("uint8", output=True, weights="float")
    file, x = write(model, tmp_path / "g.onnx"), inputs(model)
    plain = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    ours, judge = runtime("onnxruntime").load(file, 1), runtime("reference").load(file, 1)
    assert parity.referee(lambda **i: plain.run(None, i)[0], judge, judge, [x]).runtime_db < 40
    assert parity.referee(ours, judge, judge, [x]).runtime_db > 100


def test_unsigned_behind_a_concat_is_no_finding() -> None:
    assert lint(one_conv("uint8", 128, concat=True), "openvino") == ()


def test_operators_without_an_implementation_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["d"], "odd_one"),
        helper.make_node("Unsqueeze", ["d", "axes"], ["u"], "u"),
        helper.make_node("Add", ["x", "u"], ["y"], "a"),
    ]
    model = tiny.graph_of(nodes, [helper.make_tensor("axes", 7, [2], [2, 3])], 8, 8)
    for name in ("tensorrt", "openvino"):
        assert rules(model, name) == [("error", "operator", "odd_one")]
        assert lint(model, name)[0].remedy == "replace it by operators that the runtime has"
    assert lint(model, "onnxruntime") == ()
    file = write(model, tmp_path / "g.onnx")
    with pytest.raises(
        EdgegenError,
        match="OpenVINO cannot convert it: No conversion rule found for operations: Det",
    ):
        runtime("openvino").build(file, tmp_path)
    foreign = onnx.ModelProto()
    foreign.CopyFrom(model)
    foreign.graph.node[0].domain, foreign.graph.node[0].name = "evil", ""
    assert rules(foreign, "onnxruntime") == [("error", "operator", "Det -> d")]


SUPPORTED = """
import tensorrt_rtx as trt, onnx
builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
parser = trt.OnnxParser(builder.create_network(0), trt.Logger(trt.Logger.INTERNAL_ERROR))
known = {s.name for s in onnx.defs.get_all_schemas_with_history()
         if not s.domain and not s.deprecated
         and s.support_level == onnx.defs.OpSchema.SupportType.COMMON}
print(*sorted(name for name in known if not parser.supports_operator(name)))
"""


@pytest.mark.slow
@ENGINES
def test_the_list_for_tensorrt_is_what_its_parser_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SUPPORTED], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.splitlines()[-1].split()) == NOT_IN_TENSORRT


@pytest.mark.parametrize("name", RULES)
def test_what_we_export_breaks_no_rule_of_its_own_runtime(name: str, every_graph: Graphs) -> None:
    """However many convolutions are INT8. Toys have few channels; our ONNX Runtime sessions round
    no weights by themselves.
    """
    for (_, graph), model in every_graph.items():
        convolutions = [n.name for n in model.graph.node if n.op_type == "Conv"]
        assert lint(model, name) == ()
        for kept in ([], convolutions[::2], convolutions[1::2]):
            made = qdq.quantize(
                model, graph, int8_plan(model, graph, [*kept, *ends(model)]), runtime(name).dialect
            )
            assert [
                f for f in lint(made, name) if f.rule not in ("narrow", "weight-rounded-unasked")
            ] == []


def test_constants_of_other_exporters_are_seen() -> None:
    """Zero points that are Constant nodes."""
    model = one_conv(zero=5)
    kept = [t for t in model.graph.initializer if t.name != "xd.z"]
    constant = helper.make_node(
        "Constant", [], ["xd.z"], value=onnx.numpy_helper.from_array(np.asarray(5, np.int8), "z")
    )
    nodes = [constant, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    assert rules(model, "tensorrt") == [("error", "zero-point", "xd.Q")]


def test_a_zero_point_left_out_means_unsigned() -> None:
    model = one_conv("uint8")
    for node in model.graph.node[:2]:
        del node.input[2:]
    assert rules(model, "tensorrt") == [("error", "uint8", "xd.Q")]


def test_the_verb_fails_the_gate_with_node_and_remedy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(one_conv(bias="int32"), tmp_path / "m.onnx")
    assert run(["lint", str(file), "--runtime", "tensorrt,openvino", "--json"]) == 3
    said = json.loads(capfd.readouterr().out)
    assert (
        said["code"] == "E-LINT"
        and "b.DQ" in said["message"]
        and said["hint"] == "keep the bias in float32"
    )
    assert [(f["runtime"], f["rule"], f["level"]) for f in said["details"]["findings"]] == [
        ("tensorrt", "int32-bias", "error")
    ]
    assert (
        run(["lint", str(write(one_conv(cin=8), tmp_path / "n.onnx")), "--runtime", "tensorrt"])
        == 0
    )
    shown = capfd.readouterr().out
    assert "narrow" in shown and "1 warning" in shown
    assert (
        run(["lint", str(file)]) == 2
        and "add --runtime, such as tensorrt" in capfd.readouterr().err
    )
    assert run(["lint", str(file), "--runtime", "reference"]) == 2
    assert "there are no rules for 'reference'" in capfd.readouterr().err
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    assert run(["lint", str(tmp_path / "bad.onnx"), "--runtime", "tensorrt"]) == 4


@pytest.mark.slow
def test_with_build_the_runtime_itself_is_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(one_conv("uint8", output=True, opset=27), tmp_path / "m.onnx")
    assert run(["lint", str(file), "--runtime", "onnxruntime", "--build", "--json"]) == 3
    findings = json.loads(capfd.readouterr().out)["details"]["findings"]
    assert [f["rule"] for f in findings] == ["opset", "refused"] and "cannot load it" in findings[
        1
    ]["what"]
    good = write(one_conv("uint8", output=True), tmp_path / "g.onnx")
    assert run(["lint", str(good), "--runtime", "onnxruntime", "--build"]) == 0
    assert "no findings" in capfd.readouterr().out
    if runtime("tensorrt").cannot_run():
        assert (
            run(
                [
                    "lint",
                    str(write(one_conv(), tmp_path / "t.onnx")),
                    "--runtime",
                    "tensorrt",
                    "--build",
                ]
            )
            == 5
        )
        assert "tensorrt is not available here" in capfd.readouterr().err


def test_a_bundle_is_linted_for_its_own_runtimes(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["lint", str(tiny_bundle), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["findings"]
    assert {f["level"] for f in found} <= {"warning"}
    assert {f["runtime"] for f in found} <= set(Bundle.open(tiny_bundle).manifest.runtimes)
    assert run(["lint", str(tiny_bundle), "--runtime", "tensorrt"]) == 2
    assert "the bundle has no INT8 files for tensorrt" in capfd.readouterr().err


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    onnx.save_model(
        one_conv(weights="float"),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        size_threshold=0,
    )
    with pytest.raises(InputError, match=r"E-ONNX-(EXTERNAL|PARSE)"):
        checked(GraphFile.made_here(tmp_path / "m.onnx"))


def test_an_unknown_runtime_has_no_rules() -> None:
    with pytest.raises(
        UsageError,
        match="there are no rules for 'tensorflow'; there are for tensorrt, tensorrt-rtx, ",
    ):
        lint(one_conv(), "tensorflow")


def test_export_writes_no_file_that_its_runtime_would_refuse() -> None:
    """Files that are built on the target are refused where they are made: another runtime's
    dialect, under this one's name.
    """
    from edgegen.workflows.export.build import check

    model = tiny.conv_net((16, 16), (16, 16))
    made = qdq.quantize(model, "g", tiny.everything_int8(model), runtime("onnxruntime").dialect)
    check(made, "onnxruntime")
    with pytest.raises(EdgegenError, match=r"E-LINT. tensorrt cannot take \S+: it "):
        check(made, "tensorrt")
