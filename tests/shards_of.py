"""Tar shards that tests write: whole ones, and such with one thing wrong."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgegen.errors import EdgegenError, TrustError


def png(seed: int, side: int = 24) -> bytes:
    rough = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def shard(
    path: Path, seeds: range, label: str = "cls", format: int = tarfile.GNU_FORMAT, **more: bytes
) -> Path:
    """PNGs 000000.png, ... whose label is seed modulo 3 (label: "cls", "json" or ""), and files of
    `more` by suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for seed in seeds:
            add(tar, f"{seed:06d}.png", png(seed))
            if label == "cls":
                add(tar, f"{seed:06d}.cls", str(seed % 3).encode())
            if label == "json":
                add(tar, f"{seed:06d}.json", json.dumps({"label": "abc"[seed % 3]}).encode())
            for suffix, data in more.items():
                add(tar, f"{seed:06d}.{suffix}", data)
    return path


def folder(path: Path, count: int = 40, each: int = 10, **options: Any) -> Path:
    """`count` photos in shards of `each`."""
    for k in range(0, count, each):
        shard(path / f"{k // each:03d}.tar", range(k, min(k + each, count)), **options)
    return path


def refused(call: Callable[[], object], kind: type[EdgegenError], code: str) -> str:
    """What the error of that kind and code says; one that is missing, or another, fails the
    test.
    """
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code and caught.value.exit_code == (
        6 if kind is TrustError else 4
    ), caught.value
    return str(caught.value)
