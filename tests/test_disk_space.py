"""Disk that an export needs, and what is said before the long work where there is not enough."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bring_toys
import pytest
import tiny
import torch

from edgegen.core.graph import Graph
from edgegen.core.spec import TensorSpec
from edgegen.errors import ResourceError
from edgegen.export import runtime
from edgegen.workflows.export.disk_space import (
    BESIDE,
    DiskNeed,
    check_disk,
    disk_need,
    graph_bytes,
)
from edgegen.workflows.generators import load_generator
from edgegen.workflows.source_choices import SourceChoices

ORT, OPENVINO = runtime("onnxruntime"), runtime("openvino")
SPEC = TensorSpec("x", ("batch", 3, 8, 8))


def leave(monkeypatch: pytest.MonkeyPatch, free: Callable[[Path], int]) -> None:
    """Disks with so much free."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=free(Path(place))))


def weights_in_files(half: bool) -> Any:
    """A source whose weights lie apart: 20 million numbers."""
    kind = torch.float16 if half else torch.float32
    with torch.device("meta"):
        module = torch.nn.Linear(2000, 10_000, bias=False).eval()
    weights = {"weight": torch.empty(10_000, 2000, dtype=kind, device="meta")}
    graph = Graph(module, (SPEC,), TensorSpec("y", SPEC.shape), weights)
    return SimpleNamespace(generator=SimpleNamespace(graphs=lambda: {"g": graph}), text=None)


def test_graphs_take_as_much_as_is_written_of_them(tiny_run: Path) -> None:
    source = load_generator(str(tiny_run))
    written = sum(len(model.SerializeToString()) for model in tiny.models().values())
    bare = graph_bytes(source.generator.graphs())
    assert 0.8 * written < bare < written
    assert graph_bytes(weights_in_files(half=True).generator.graphs()) == 40_000_000
    assert graph_bytes(weights_in_files(half=False).generator.graphs()) == 80_000_000


def test_what_is_needed_grows_with_runtimes_and_with_what_lies_in_files(tiny_run: Path) -> None:
    source = load_generator(str(tiny_run))
    one, two = disk_need(source, [ORT], 2), disk_need(source, [ORT, OPENVINO], 2)
    full = graph_bytes(source.generator.graphs())
    assert two.out - one.out == 2 * 2 * full, "OpenVINO has a file of its own beside the ONNX"
    graphs_alone = one.out - 2 * BESIDE
    assert graphs_alone == 2 * 2 * full, "full precision, and ONNX Runtime's file of each graph"
    assert one.temporary == 2 * full and disk_need(source, [ORT], 4).temporary == 4 * full
    apart = disk_need(weights_in_files(half=True), [ORT], 16)
    assert apart.temporary == 40_000_000 + 20_000_000 * 9, "one plan at a time, and rounded weights"


def test_the_text_encoder_counts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\nb\nc\n")
    folder = bring_toys.prompted(tmp_path / "toy")
    source = load_generator(folder, choices=SourceChoices(prompts=prompts))
    assert source.text is not None
    need, text = disk_need(source, [ORT], 1), graph_bytes(source.text.graphs)
    bare = SimpleNamespace(generator=source.generator, text=None)
    assert need.out - disk_need(bare, [ORT], 1).out == 2 * text > 0  # type: ignore[arg-type]


def test_a_disk_that_is_too_small_is_said_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    leave(monkeypatch, lambda _: 4_000_000_000)
    check_disk(DiskNeed(3_000_000_000, 1_000_000_000), tmp_path / "a" / "b" / "out")
    with pytest.raises(ResourceError) as caught:
        check_disk(DiskNeed(3_000_000_000, 1_200_000_000), tmp_path / "a" / "b" / "out")
    error = caught.value
    assert (error.code, error.exit_code, error.path) == ("E-DISK-FULL", 7, str(tmp_path))
    assert error.message == (
        "this export may need 4.2 GB of disk space for out and for temporary files, but only "
        "4.0 GB are free"
    )
    assert "TMPDIR" in error.hint and not list(tmp_path.iterdir())


def test_two_disks_are_looked_at_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other := tmp_path / "other").mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(other))
    real = os.stat

    def stat(path: Any, **more: Any) -> Any:
        found = real(path, **more)
        return SimpleNamespace(st_dev=2 if Path(path) == other else 1, st_mode=found.st_mode)

    leave(monkeypatch, lambda place: 900_000 if place == other else 5_000_000)
    monkeypatch.setattr(os, "stat", stat)
    check_disk(DiskNeed(5_000_000, 900_000), tmp_path / "out")
    with pytest.raises(
        ResourceError,
        match="may need 2 MB of disk space for temporary files, but only 1 MB are free",
    ):
        check_disk(DiskNeed(5_000_000, 2_000_000), tmp_path / "out")
    with pytest.raises(
        ResourceError, match="may need 6 MB of disk space for out, but only 5 MB are free"
    ):
        check_disk(DiskNeed(6_000_000, 100), tmp_path / "out")


@pytest.mark.slow
def test_an_export_is_refused_before_its_long_work(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    leave(monkeypatch, lambda _: 20_000_000)
    assert tiny.export(tiny_run, tmp_path / "out", runtimes="onnxruntime") == 7
    said = capfd.readouterr().err
    assert "error[E-DISK-FULL] this export may need" in said and "but only 20 MB are free" in said
    assert "exporting" not in said and not (tmp_path / "out").exists()
