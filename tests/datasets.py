"""Whole data sets for tests: where scripts/datasets.sh puts them, or a skip that says how to get
them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parent / "data" / "photos"  # 36 renders in 3 classes, always there


def cache() -> Path:
    """The folder that scripts/datasets.sh fills when it is given none."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgegen"


def fashion_mnist() -> Path:
    """Folder of the four IDX files; skips the test when they are missing."""
    return _first(
        "fashion-mnist", "train-images-idx3-ubyte.gz", Path("/usr/share/datasets/fashion-mnist")
    )


def furniture() -> Path:
    """Folder of the renders in class sub-folders; skips the test when they are missing."""
    return _first("furniture", "kitchen")


def _first(name: str, inside: str, *others: Path) -> Path:
    for folder in (cache() / name, *others):
        if (folder / inside).exists():
            return folder
    pytest.skip(f"the data set {name} is missing in {cache()}: run scripts/datasets.sh")
