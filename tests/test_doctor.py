"""doctor tells the truth: a runtime is "ok" only when it ran a graph and the numbers were right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgegen.core import cpu
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import InputError
from edgegen.machine import child_process, describe, probe
from edgegen.workflows import doctor


class Fake:
    """A runtime whose answers the test chooses."""

    name, dialect, executable = "fake", Dialect(), True
    suffixes: tuple[str, ...] = (".onnx",)

    def __init__(
        self,
        absent: str | None = None,
        no_device: str | None = None,
        factor: float = 2.0,
        breaks: Exception | None = None,
    ) -> None:
        self.absent, self.no_device, self.factor, self.breaks = absent, no_device, factor, breaks

    def missing(self) -> str | None:
        return self.absent

    def cannot_run(self) -> str | None:
        return self.no_device

    def version(self) -> str:
        return "1.0"

    def device(self) -> str:
        return "CPU"

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        if self.breaks:
            raise self.breaks
        return (onnx,)

    def load(self, built: Path, threads: int) -> Session:
        return self.session(GraphFile.made_here(built), threads)

    def admit(self, files: object, graphs: object) -> None:
        pass

    def session(self, file: GraphFile, threads: int) -> Session:
        def session(**inputs: Array) -> Array:
            return inputs["x"] * np.float32(self.factor)

        return session


@pytest.mark.parametrize(
    ("fake", "state", "why"),
    [
        (Fake(), "ok", ""),
        (Fake(absent="not here"), "missing", "not here"),
        (Fake(no_device="no GPU"), "builds", "no GPU"),
        (Fake(factor=3.0), "failed", "ran, but 2 x [0, 1, 2, 3] came out as [0.0, 3.0, 6.0, 9.0]"),
        (
            Fake(factor=float("nan")),
            "failed",
            "ran, but 2 x [0, 1, 2, 3] came out as [nan, nan, nan, nan]",
        ),
        (Fake(breaks=ValueError("two\nlines")), "failed", "ValueError: two lines"),
        (Fake(breaks=InputError("E-X", "no")), "failed", "error[E-X] no"),
    ],
)
def test_states(fake: Fake, state: str, why: str, tmp_path: Path) -> None:
    assert probe.probe(fake, tmp_path) == {
        "version": "1.0",
        "device": "CPU",
        "state": state,
        "why": why,
    }


def test_the_tiny_graph_is_what_it_says() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "tiny", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.load_from_string(probe.TINY) == model


@pytest.mark.parametrize(
    ("child", "why"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "the process crashed with SIGSEGV",
        ),
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("raise SystemExit('no such library')", "the process ended with 1: no such library"),
    ],
)
def test_a_crash_is_an_answer(child: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_CHILD", child)
    monkeypatch.setattr(child_process, "LIMIT", 1)
    assert doctor.isolated("onnxruntime") == (
        {"version": "", "device": "", "state": "failed", "why": why},
        (),
    )


def test_cpu_flags_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cpu, "cpu_line", lambda key: "fpu avx2 avx512_vnni amx_int8 avx2x" if key == "flags" else ""
    )
    assert cpu.cpu_flags() == ["avx2", "avx512_vnni", "amx_int8"]


@pytest.mark.parametrize(
    ("machine", "flags", "bits"),
    [
        ("x86_64", ["avx2"], 7),
        ("x86_64", [], 7),
        ("x86_64", ["avx2", "avx512f"], 7),
        ("x86_64", ["avx2", "avx_vnni"], 8),
        ("x86_64", ["avx512f", "avx512_vnni"], 8),
        ("x86_64", ["amx_int8"], 8),
        ("aarch64", ["asimddp"], 8),
        ("aarch64", [], 8),
    ],
)
def test_weights_have_7_bits_where_sums_of_products_overflow(
    machine: str, flags: list[str], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    assert cpu.weight_bits.__wrapped__() == bits


MACHINE = {"shared_memory_bytes": {"total": 1 << 30, "free": 0}, "disk_bytes": {".": 1 << 40}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"shared_memory_bytes": None}, "/dev/shm is not there: libraries"),
        ({"shared_memory_bytes": {"total": 1 << 16, "free": 0}}, "/dev/shm holds 0.0655 MB:"),
        ({"disk_bytes": {".": 1 << 20, "/dev/shm": 0}}, ". has 1 MB left: an export may need 1 GB"),
    ],
)
def test_what_is_likely_to_fail_is_remarked(change: dict[str, Any], words: str) -> None:
    said = describe.remarks(MACHINE | change)
    assert len(said) == bool(words) and words in "".join(said)


def test_a_machine_without_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "SHARED", "/nowhere/at/all")
    found = describe.machine()
    assert found["shared_memory_bytes"] is None and "is not there" in found["remarks"][0]
