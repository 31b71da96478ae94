"""Images of the export against images made here: equal, as good as equal, or others; and a file
that only edgegen writes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from edgegen.errors import TrustError
from edgegen.evidence import golden_images

RNG = np.random.default_rng(0)
FULL = RNG.integers(8, 248, (4, 8, 8, 3)).astype(np.uint8)


def moved(images: np.ndarray, levels: int) -> np.ndarray:
    """Every pixel by that many levels, up or down."""
    return (images + RNG.choice([-levels, levels], images.shape)).astype(np.uint8)


INT8 = moved(FULL, 4)
KEPT = golden_images.Kept(1000, {"fp32": FULL, "onnxruntime": INT8})


def test_the_file_gives_back_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    path.write_bytes(golden_images.to_bytes(KEPT))
    found = golden_images.parsed(path.read_bytes(), path)
    assert found.seeds == range(1000, 1004) and sorted(found.sets) == ["fp32", "onnxruntime"]
    np.testing.assert_array_equal(found.sets["onnxruntime"], INT8)
    assert golden_images.to_bytes(found) == path.read_bytes()


def test_equal_images_are_the_same_whatever_quantization_costs() -> None:
    alike = golden_images.int8(KEPT, "onnxruntime", INT8)
    assert alike.same and alike.share == 1 and alike.to_json()["psnr_db"] is None
    # INT8 that costs nothing allows nothing but rounding
    free = golden_images.Kept(0, {"fp32": FULL, "onnxruntime": FULL})
    assert golden_images.int8(free, "onnxruntime", moved(FULL, 1)).same
    assert not golden_images.int8(free, "onnxruntime", moved(FULL, 2)).same
    assert golden_images.int8(free, "onnxruntime", FULL).to_json()["least_db"] is None


def test_int8_may_differ_by_less_than_quantization_costs() -> None:
    assert golden_images.int8(KEPT, "onnxruntime", moved(INT8, 3)).same
    other = golden_images.int8(KEPT, "onnxruntime", moved(INT8, 5))
    assert not other.same and other.psnr_db < other.least_db
    assert other.least_db == pytest.approx(20 * np.log10(255 / 4))


def test_fp32_must_be_within_a_level_nearly_everywhere() -> None:
    assert golden_images.full(KEPT, "openvino", moved(FULL, 1)).same
    few = FULL.copy()
    few[0, 0, 0] += 9
    assert not golden_images.full(KEPT, "openvino", few).same


def test_images_of_another_size_are_others() -> None:
    assert not golden_images.full(KEPT, "openvino", FULL[:, :4]).same
    assert not golden_images.int8(KEPT, "onnxruntime", INT8[:3]).same


def test_a_runtime_without_kept_images_is_named() -> None:
    with pytest.raises(
        TrustError, match="no INT8 images of openvino were kept; there are fp32, onnxruntime"
    ):
        golden_images.int8(KEPT, "openvino", INT8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        golden_images.to_bytes(KEPT)[:-1],
        save({"fp32": FULL}),
        save({"fp32": FULL}, {"first_seed": "one"}),
        save({"onnxruntime": FULL}, {"first_seed": "1"}),
        save({"fp32": FULL.astype(np.float32)}, {"first_seed": "1"}),
        save({"fp32": FULL[0]}, {"first_seed": "1"}),
        save({"fp32": FULL, "openvino": FULL[:2]}, {"first_seed": "1"}),
    ],
)
def test_a_file_that_edgegen_did_not_write_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="these are no images of an export"):
        golden_images.parsed(data, tmp_path / "x")
