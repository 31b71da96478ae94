"""Adapters that other programs wrote or changed, and what is said of a run that holds one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from looking import Site

from edgegen.cli.main import run


def said_of(site: Site, change: Callable[[Path], None]) -> str:
    """What is said of a run whose adapter was changed by that."""
    adapters = pytest.importorskip("adapters")
    place = site.root / "run"
    if not place.exists():
        adapters.run("cas-dm", place, 1)
        (place / "digests.json").unlink()  # as a run has none whose adapter was made elsewhere
    kept = {path: path.read_bytes() for path in (place / "adapter").iterdir()}
    change(place / "adapter")
    try:
        site.captured.readouterr()
        code = run(["generate", str(place), "-o", str(site.root / "x.png")])
        said = site.captured.readouterr().err.strip().splitlines()[-1]
        assert code in (4, 6) and said.startswith("error["), said
        return said
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return changed
