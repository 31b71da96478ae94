"""Sessions of the tiny generator's graphs in any runtime, or a skip that says why there is none."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny

from edgegen.core.runtime import Runtime, Session
from edgegen.export import qdq, runtime
from edgegen.export.onnx import write

ENGINES = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no engine was built"
)


def running(name: str) -> Runtime:
    found = runtime(name)
    if why := found.cannot_run():
        pytest.skip(f"{name} does not run here: {why}")
    return found


def loaded(target: Runtime, graph: str, folder: Path, int8: bool) -> Session:
    model = (
        qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect)
        if int8
        else tiny.models()[graph]
    )
    (source := folder / "source").mkdir()
    (built := folder / "built").mkdir()
    paths = target.build(write(model, source / f"{graph}.onnx"), built)
    assert all(p.parent == built for p in paths) and sorted(paths) == sorted(built.iterdir())
    assert list(source.iterdir()) == [source / f"{graph}.onnx"]
    return target.load(paths[0], 1)
