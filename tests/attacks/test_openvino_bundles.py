"""OpenVINO's files in a bundle that nobody vouches for: its own pass, and no others reach OpenVINO
in this process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.attack import REFUSED, TOY, copy, generated, listed, resealed
from edgegen.export import runtime
from edgegen.export.ov import OpenVino

Captured = pytest.CaptureFixture[str]
THETA = "int8/openvino/theta.xml"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with OpenVINO's files for its only runtime; read it only."""
    target = runtime("openvino")
    if why := target.cannot_run():
        pytest.skip(why)
    root = copy(tmp_path_factory.mktemp("openvino"))
    (place := root / "int8/openvino").mkdir()
    for graph in ("theta", "phi"):
        target.build(TOY / f"int8/onnxruntime/{graph}.onnx", place)
    files = [p.relative_to(root).as_posix() for p in sorted(place.iterdir())]
    changes = [listed(root, name, (root / name).read_bytes()) for name in files]

    def change(manifest: dict[str, Any]) -> None:
        for one in changes:
            one(manifest)
        built = manifest["runtimes"].pop("onnxruntime")
        load = {graph: f"int8/openvino/{graph}.xml" for graph in ("theta", "phi")}
        manifest["runtimes"]["openvino"] = {**built, "load": load}

    return resealed(root, change)


def edited(change: Callable[[bytes], bytes], name: str = THETA) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def replaced(old: bytes, new: bytes) -> Callable[[Path], object]:
    return edited(lambda data: data.replace(old, new, 1))


BIN = THETA.replace(".xml", ".bin")
SPOILT: dict[str, Callable[[Path], object]] = {
    "a loop": replaced(b'type="Convolution"', b'type="Loop"'),
    "numbers of its own": replaced(b'type="Convolution"', b'type="RandomUniform"'),
    "an operator of nobody": replaced(b'version="opset1"', b'version="extension"'),
    "an operator that is not": replaced(b'type="Convolution"', b'type="Nothing"'),
    "a constant behind the weights": replaced(b'offset="0"', b'offset="99999999"'),
    "a document type": replaced(b"<net", b'<!DOCTYPE a [<!ENTITY b "c">]><net'),
    "weights cut": edited(lambda data: data[: len(data) // 2], BIN),
    "no weights": edited(lambda data: b"", BIN),
    "half a model": edited(lambda data: data[: len(data) // 2]),
    "ONNX under its name": lambda root: shutil.copyfile(
        TOY / "int8/onnxruntime/theta.onnx", root / THETA
    ),
    "a compiled model under its name": edited(lambda data: b"\x00\x01compiled" + data),
    "a page": edited(lambda data: b"<html><body></body></html>"),
    "another version": replaced(b'version="11"', b'version="99"'),
    "an edge to nowhere": replaced(b'<edge from-layer="', b'<edge from-layer="99999'),
    "another shape": replaced(b',16,16"', b',17,16"'),
    "a shape beyond numbers": replaced(b',16,16"', b',99999999999999999999,16"'),
}


def test_its_own_files_make_the_image(sound: Path, capfd: Captured) -> None:
    generated(sound, capfd, codes=(0,))
    (sound.parent / "image.png").unlink()


# these pass what Python reads, and each needs a process
ONLY_A_PROCESS_TELLS = ("an operator that is not", "another shape", "a shape beyond numbers")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.reliability) if case in ONLY_A_PROCESS_TELLS else case
        for case in SPOILT
    ],
)
def test_other_files_do_not_reach_it(
    case: str, sound: Path, tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sound, root := tmp_path / "bundle")
    before = (root / THETA).read_bytes(), (root / BIN).read_bytes()
    SPOILT[case](root)
    assert ((root / THETA).read_bytes(), (root / BIN).read_bytes()) != before, "nothing was spoilt"
    monkeypatch.setattr(OpenVino, "session", lambda *_: pytest.fail("OpenVINO was given the file"))
    generated(resealed(root), capfd, codes=REFUSED)


def test_weights_that_are_not_listed_are_not_taken(
    sound: Path, tmp_path: Path, capfd: Captured
) -> None:
    shutil.copytree(sound, root := tmp_path / "bundle")
    resealed(root, lambda manifest: manifest["files"].pop(BIN))
    assert "is not listed" in generated(root, capfd, codes=(6,))
    (root / BIN).unlink()
    generated(root, capfd, codes=(4,))
