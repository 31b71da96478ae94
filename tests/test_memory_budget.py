"""What follows from the memory that an export may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper

from edgegen.calibrate.rounding import MOST_BYTES, rounded_sizes
from edgegen.core.bundle import Bundle
from edgegen.core.spec import Array
from edgegen.errors import UsageError
from edgegen.evidence.full_side import KEPT_BYTES, FullSide
from edgegen.machine.resident import free_bytes
from edgegen.workflows.context import Context, MemoryShares
from edgegen.workflows.export.calibration import weight_moments
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.memory_budget import image_bytes, least_bytes, memory_shares
from edgegen.workflows.export.run import ExportSettings
from edgegen.workflows.inspect import inspect_source


def layer(pixels: int, channels: int = 3) -> onnx.ModelProto:
    """One convolution at so many pixels a side."""
    value = helper.make_tensor_value_info
    shape: list[str | int | None] = ["batch", channels, pixels, pixels]
    weight = np.ones((channels, channels, 1, 1), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "c")],
        "g",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_an_image_takes_what_its_layers_read() -> None:
    assert image_bytes(layer(512)) == 4 * 3 * 512 * 512
    two = tiny.conv_net((3, 16), (16, 4))
    assert image_bytes(two) == 4 * (3 + 16) * 8 * 8


def test_plenty_of_memory_changes_nothing_for_small_models() -> None:
    found = memory_shares(10_000_000_000, tiny.models(), 2)
    assert (found.images, found.pixels_bytes) == (64, 1 << 30)
    assert found.moments_bytes == MemoryShares().moments_bytes


def test_what_is_kept_without_a_budget_is_what_each_part_keeps_by_itself() -> None:
    assert MemoryShares().moments_bytes == MOST_BYTES == 2 << 30
    assert MemoryShares().pixels_bytes == KEPT_BYTES == 1 << 30


def test_inspect_names_the_memory_that_an_export_insists_on() -> None:
    models = tiny.models()
    weights = sum(math.prod(t.dims) for m in models.values() for t in m.graph.initializer)
    least = int(least_bytes(weights))
    with pytest.raises(UsageError, match=r"E-RAM"):
        memory_shares(least, models, 1)
    assert memory_shares(least + (64 << 20), models, 1).images >= 1
    assert inspect_source("cas-dm").peak_bytes >= least


def test_less_memory_holds_fewer_images_and_moments() -> None:
    large = {"g": layer(2048, 16)}  # 268 MB an image
    found = [memory_shares(budget, large, 2) for budget in (4 * 10**9, 6 * 10**9, 16 * 10**9)]
    assert [one.images for one in found] == [1, 2, 7]
    moments = [one.moments_bytes for one in found]
    assert moments == sorted(moments) and all(math.log2(n).is_integer() for n in moments)
    assert found[0].pixels_bytes < found[2].pixels_bytes <= 1 << 30
    assert memory_shares(16 * 10**9, large, 4).images == 3, "each thread has a batch"


def test_what_is_not_enough_says_what_is() -> None:
    with pytest.raises(UsageError) as caught:
        memory_shares(10**9, {"g": layer(2048, 16)}, 2)
    error = caught.value
    assert (error.code, error.exit_code) == ("E-RAM", 2)
    assert error.message == (
        "an export of this generator with --threads 2 needs at least 3.1 GB of memory, but is "
        "allowed only 1.0 GB"
    )
    assert "--memory" in error.hint and "--threads" in error.hint


def test_settings_refuse_what_is_no_size() -> None:
    with pytest.raises(UsageError, match="--memory must be such as 500MB or 8GB, got '8'"):
        ExportSettings(memory="8")


def test_free_memory_is_what_the_kernel_says() -> None:
    assert 1 << 26 < free_bytes() < 1 << 50


def test_moments_are_of_blocks_where_memory_is_little() -> None:
    feeds = Trajectories(tiny.generator(), 32, batch=4)

    def sides(most: int) -> list[int]:
        context = Context(memory=MemoryShares(moments_bytes=most))
        found = weight_moments(tiny.generator().sampler, tiny.models(), feeds, context)
        parts = [part for one in found.values() for of in one.second.values() for part in of]
        expected = [n for m in tiny.models().values() for _, n in rounded_sizes(m, (), most)]
        assert [len(part) for part in parts] == expected, "what a price is made of"
        return expected

    assert len(sides(1)) > len(sides(2 << 30))
    assert max(sides(1)) <= 64


def test_batches_of_a_calibration_follow() -> None:
    batches = []

    def counted(execute: Callable[..., Array]) -> Callable[..., Array]:
        def call(**inputs: Array) -> Array:
            batches.append(len(inputs["x"]))
            return execute(**inputs)

        return call

    calls = {name: counted(call) for name, call in tiny.torch_images().call.items()}
    Trajectories(tiny.generator(), 8, batch=3).run(calls, "calibrating")
    assert set(batches) == {3, 2}


def test_pixels_beyond_the_budget_are_made_again() -> None:
    class Features:
        name, sha256, size = "f", "0", 8

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            return pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32)

    def images(seeds: range) -> np.ndarray:
        return np.stack([np.full((3, 8, 8), (s % 5) / 5, np.float32) for s in seeds])

    side = FullSide(images, Features(), None, 0)  # type: ignore[arg-type]
    side.kept_bytes = 10 * 3 * 8 * 8
    first = side.pixels(0, 20)
    assert len(side) == 10 and np.array_equal(side.pixels(0, 20), first)
    assert side.from_seed(7).kept_bytes == side.kept_bytes


@pytest.mark.slow
def test_an_export_keeps_to_its_memory_and_says_what_it_took(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert tiny.export(tiny_run, out, "--memory", "1.1GB", runtimes="onnxruntime") == 0
    assert "of memory at most" in capfd.readouterr().err
    told = Bundle.open(out).manifest.evidence["memory"]
    assert told["budget_bytes"] == 1_100_000_000 and told["peak_bytes"] > 100_000_000
    refused = tmp_path / "refused"
    assert tiny.export(tiny_run, refused, "--memory", "100MB", runtimes="onnxruntime") == 2
    said = capfd.readouterr().err
    assert "error[E-RAM] an export of this generator with --threads 1 needs at least" in said
    assert not refused.exists()
