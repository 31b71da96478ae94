"""The door's own process, and OpenVINO models before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.attack import copy
from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.errors import EdgegenError
from edgegen.export import door, ir_structure, runtime

NOTHING = Declared({}, ())
IR = b"""<?xml version="1.0"?><net name="g" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1">
<data shape="1,1,2,2" element_type="f32"/></layer>
<layer id="1" name="c" type="Const" version="opset1">
<data element_type="f32" shape="2" offset="0" size="8"/></layer></layers></net>"""


def test_a_child_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashing, hanging and silent: the file is named, and this process lives."""
    file = GraphFile.of(tmp_path / "g.onnx", b"x")
    said = {}
    for name, body in (
        ("crashes", "import os; os.kill(os.getpid(), 11)"),
        ("is killed", "import os; os.kill(os.getpid(), 9)"),
        ("hangs", "import time; time.sleep(600)"),
        ("is silent", "pass"),
    ):
        monkeypatch.setattr(door, "_CHILD", body)
        monkeypatch.setattr(door, "SECONDS", 1)
        with pytest.raises(EdgegenError) as caught:
            door.tried("m:Runtime", name, {"g": file}, {"g": NOTHING})
        assert caught.value.path == str(file.path)
        said[name] = caught.value.code
    assert said == {
        "crashes": "E-PARSER-CRASH",
        "is killed": "E-OOM",
        "hangs": "E-TIMEOUT",
        "is silent": "E-PARSER-CRASH",
    }


def test_without_a_place_for_copies_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def no(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", no)
    with pytest.raises(EdgegenError, match=r"E-TMPDIR.*set TMPDIR") as caught:
        door.tried("m:Runtime", "none", {"g": GraphFile.of(tmp_path / "g", b"t")}, {"g": NOTHING})
    assert caught.value.exit_code == 7


def test_what_passed_is_tried_once_and_other_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    tries: list[str] = []
    monkeypatch.setattr(door, "_try", lambda runtime, *_: tries.append(runtime))
    monkeypatch.setattr(door, "_passed", set())
    file, other = (GraphFile.of(tmp_path / "g.onnx", data) for data in (b"x", b"y"))
    for given in (file, file, other):
        door.tried("m:A", "1", {"g": given}, {"g": NOTHING})
    assert len(tries) == 2
    door._passed.clear()  # another process
    door.tried("m:A", "1", {"g": file}, {"g": NOTHING})
    assert len(tries) == 2
    door.tried("m:A", "2", {"g": file}, {"g": NOTHING})
    door.tried("m:B", "1", {"g": file}, {"g": NOTHING})
    assert len(tries) == 4


def test_a_device_without_a_cache_is_left_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(door, "_try", lambda *_: None)
    door.tried("m:A", "8", {"g": GraphFile.of(tmp_path / "g.onnx", b"z")}, {"g": NOTHING})
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_remembers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_bytes(b"a file where a folder belongs")
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    tries: list[int] = []
    monkeypatch.setattr(door, "_try", lambda *_: tries.append(1))
    for _ in range(2):
        monkeypatch.setattr(door, "_passed", set())  # as another process
        door.tried("m:A", "9", {"g": GraphFile.of(tmp_path / "g.onnx", b"z")}, {"g": NOTHING})
    assert len(tries) == 2 and (tmp_path / "cache").read_bytes().startswith(b"a file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: b"", "not a usable OpenVINO model"),
        (lambda d: b"hello", "not a usable OpenVINO model"),
        (lambda d: d[:-9], "not a usable OpenVINO model"),
        (lambda d: b"<html></html>", "it begins with 'html'"),
        (lambda d: b"<net></net>", "it holds no graph"),
        (lambda d: d.replace(b"<net", b"<!DOCTYPE a [<!ENTITY b 'c'>]><net"), "document type"),
        (lambda d: d.replace(b'version="opset1"', b'version="evil"'), "'evil':'Parameter'"),
        (lambda d: d.replace(b'version="opset1"', b""), "'':'Parameter' is not allowed"),
        (lambda d: d.replace(b"Parameter", b"Loop"), "operator Loop is not allowed"),
        (lambda d: d.replace(b"Parameter", b"TensorIterator"), "TensorIterator is not allowed"),
        (lambda d: d.replace(b'offset="0"', b'offset="4"'), "outside the weights"),
        (lambda d: d.replace(b'offset="0"', b'offset="-4"'), "outside the weights"),
        (lambda d: d.replace(b'size="8"', b'size="999999999999"'), "outside the weights"),
        (lambda d: d.replace(b'shape="2"', b'shape="3"'), "has 8 bytes"),
        (lambda d: d.replace(b'shape="2"', b'shape="-2"'), "outside the weights"),
        (lambda d: d.replace(b'offset="0"', b""), "not a usable OpenVINO model"),
        (lambda d: d.replace(b'shape="2"', b'shape="two"'), "not a usable OpenVINO model"),
        (lambda d: b"<net>" + b"<a>" * 1000, "more than a graph needs"),
        (lambda d: d.replace(b"Parameter", b"\xff"), "not a usable OpenVINO model"),
    ],
    ids=range(19),
)
def test_an_openvino_model_is_read_before_openvino_sees_it(
    change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    ir_structure.check(IR, bytes(8), tmp_path)
    with pytest.raises(EdgegenError, match=said) as caught:
        ir_structure.check(change(IR), bytes(8), tmp_path)
    assert caught.value.exit_code == 4


def test_what_openvino_writes_passes(tmp_path: Path) -> None:
    if why := runtime("openvino").cannot_run():
        pytest.skip(why)
    root = copy(tmp_path)
    for name in ("theta", "phi"):
        source = root / f"int8/onnxruntime/{name}.onnx"
        (folder := tmp_path / name).mkdir()
        model, weights = runtime("openvino").build(source, folder)
        ir_structure.check(model.read_bytes(), weights.read_bytes(), model)
