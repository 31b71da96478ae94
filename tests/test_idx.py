"""IDX files: padded to the size, recognised by content, and refused by name when damaged."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import fashion_mnist

from edgegen.errors import InputError
from edgegen.training import idx
from edgegen.training.data import load, read_idx


def write_idx(
    root: Path,
    n: int = 5,
    side: int = 28,
    zipped: bool = True,
    prefix: str = "train",
    separator: str = "-",
) -> Path:
    root.mkdir(exist_ok=True)
    pictures = np.random.default_rng(n).integers(0, 256, (n, side, side), np.uint8)
    for kind, blob in (
        ("images", struct.pack(">4B3I", 0, 0, 8, 3, n, side, side) + pictures.tobytes()),
        ("labels", struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(k % 3 for k in range(n))),
    ):
        name = f"{prefix}-{kind}{separator}idx{3 if kind == 'images' else 1}-ubyte"
        (root / (name + ".gz" * zipped)).write_bytes(gzip.compress(blob) if zipped else blob)
    return root


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("separator", ["-", "."])
def test_idx_folders_are_padded_with_black(tmp_path: Path, zipped: bool, separator: str) -> None:
    write_idx(tmp_path, 5, zipped=zipped, separator=separator)
    write_idx(tmp_path, 7, zipped=zipped, separator=separator, prefix="t10k")
    photos, report = load(tmp_path, 32)
    pictures = np.random.default_rng(5).integers(0, 256, (5, 28, 28), np.uint8)
    assert (photos.pixels == np.pad(pictures, ((0, 0), (2, 2), (2, 2)))[..., None]).all()
    assert (
        photos.classes == ("0", "1", "2")
        and photos.labels.tolist() == [0, 1, 2, 0, 1]
        and report.kept == 5
    )
    assert len(load(tmp_path, 32, split="test")[0]) == 7


def test_idx_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    write_idx(tmp_path)
    for path in tmp_path.iterdir():
        path.rename(path.with_suffix(""))
    assert len(load(tmp_path, 32)[0]) == 5


@pytest.mark.parametrize("size", [16, 28, 30, 64])
def test_idx_at_other_sizes_is_centred(tmp_path: Path, size: int) -> None:
    images = np.full((1, 28, 28), 255, np.uint8)
    out = idx.to_square(images, size)[0, :, :, 0]
    inner = 28 if size in (28, 30) else size * 7 // 8
    edge = (size - inner) // 2
    assert out.shape == (size, size) and out.sum() == 255 * inner**2
    assert (out[edge : edge + inner, edge : edge + inner] == 255).all()


def test_idx_keeps_duplicates_but_reports_them(tmp_path: Path) -> None:
    write_idx(tmp_path, 3, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    blob = bytearray(path.read_bytes())
    blob[16 : 16 + 784] = blob[16 + 784 : 16 + 2 * 784]
    path.write_bytes(blob)
    photos, report = load(tmp_path, 32)
    assert (
        len(photos) == 3
        and report.duplicates == (("0", "1"),)
        and report.warnings == {"W-DATA-DUP": ("1",)}
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda b: b[:-1], "E-IDX-LENGTH"),
        (lambda b: b + b"\0", "E-IDX-LENGTH"),
        (lambda b: b[:10], "E-IDX-HEADER"),
        (lambda b: b"", "E-IDX-HEADER"),
        (lambda b: b"\0\0\x0d\3" + b[4:], "E-IDX-HEADER"),
        (lambda b: b"\0\0\x08\1" + b[4:], "E-IDX-HEADER"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "E-IDX-HEADER"),
        (lambda b: b[:4] + bytes(12) + b[16:], "E-IDX-HEADER"),
        (lambda b: gzip.compress(b)[:-300], "E-IDX-LENGTH"),
        (lambda b: gzip.compress(b)[:-2], "E-IDX-LENGTH"),
        (lambda b: gzip.compress(b)[:-8] + bytes(8), "E-IDX-GZIP"),
        (lambda b: gzip.compress(b)[:12] + b"\xff" * 99, "E-IDX-GZIP"),
    ],
)
def test_damaged_idx_files_are_named(
    tmp_path: Path, change: Callable[[bytes], bytes], code: str
) -> None:
    write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        load(tmp_path, 32)
    assert caught.value.code == code and caught.value.path == str(path)


def test_idx_halves_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, 5), write_idx(tmp_path / "b", 6)
    with pytest.raises(InputError, match="5 images but 6 labels"):
        read_idx(
            tmp_path / "train-images-idx3-ubyte.gz",
            tmp_path / "b" / "train-labels-idx1-ubyte.gz",
            32,
        )
    with pytest.raises(InputError, match="the test split needs t10k-images-idx3-ubyte") as caught:
        load(tmp_path, 32, split="test")
    assert caught.value.code == "E-IDX-MISSING"


def test_fashion_mnist_loads_whole() -> None:
    photos, report = load(fashion_mnist(), 32, split="test")
    assert photos.pixels.shape == (10_000, 32, 32, 3) and report.classes == {
        str(k): 1000 for k in range(10)
    }
