"""Whole data sets for tests: where scripts/datasets.sh puts them, or a skip that says how to get
them.
"""

from __future__ import annotations

import hashlib
import json
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


def objects() -> Path:
    """Folder of the coloured objects (train, test), as the script of now makes it, or a skip."""
    folder = _first("objects", "train/metadata.jsonl")
    script = Path(__file__).parent.parent / "scripts" / "objects.py"
    made_by = json.loads((folder / ".sources.json").read_text())["script"]
    if made_by != hashlib.sha256(script.read_bytes()).hexdigest():
        pytest.skip(f"{folder} was made by another scripts/objects.py: run scripts/datasets.sh")
    return folder


def _first(name: str, inside: str, *others: Path) -> Path:
    for folder in (cache() / name, *others):
        if (folder / inside).exists():
            return folder
    pytest.skip(f"the data set {name} is missing in {cache()}: run scripts/datasets.sh")
