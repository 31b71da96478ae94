"""Is a backend's package here: answered without importing it; and what every CPU runtime answers alike."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar


def absent(module: str, extra: str) -> str | None:
    """None if `module` can be imported, else the sentence with the command that installs it."""
    if find_spec(module) is not None:
        return None
    return f'{module} is not installed: pip install "edgegen[{extra}]"'


def installed(distributions: Sequence[str]) -> str:
    """Version of the first of these distributions that is installed, or "not installed"."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"


class CpuRuntime:
    """What the runtimes of this machine's CPU share: installed means it works, and it loads the ONNX file itself."""

    name: str
    executable = False
    module: ClassVar[str]
    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    def missing(self) -> str | None:
        return absent(self.module, self.extra)

    def cannot_run(self) -> str | None:
        return self.missing()

    def version(self) -> str:
        return installed(self.packages)

    def device(self) -> str:
        return "CPU"

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        return (onnx,) if onnx.parent == folder else (Path(shutil.copyfile(onnx, folder / onnx.name)),)
