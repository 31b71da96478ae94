"""Find whether a backend's package is installed, without importing it, and define what runtimes
answer alike.
"""

from __future__ import annotations

import abc
import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import NOT_INSTALLED, Dialect, Session


def absent(module: str, extra: str) -> str | None:
    """Return None if `module` can be imported, else a sentence with the command that
    installs it.
    """
    if find_spec(module) is not None:
        return None
    return f'{module} is not installed: pip install "edgegen[{extra}]"'


def installed(distributions: Sequence[str]) -> str:
    """Return the version of the first of these distributions that is installed, or
    NOT_INSTALLED.
    """
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return NOT_INSTALLED


def processor() -> str:
    """Return a hash of the CPU and its features, as far as the system shows them: code compiled for
    one CPU may crash on another.
    """
    info = Path("/proc/cpuinfo")
    lines = (
        info.read_text(errors="replace").splitlines() if info.is_file() else [platform.processor()]
    )
    lasting = {
        line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))
    }
    return hashlib.sha256("\n".join(sorted(lasting or lines)).encode()).hexdigest()


class FileRuntime(abc.ABC):
    """Answer for a runtime what most runtimes answer: installed means that it works, it runs on the
    CPU, and it loads ONNX files itself.
    """

    name: str
    dialect: Dialect
    executable = False
    suffixes: tuple[str, ...] = (".onnx",)
    executes: ClassVar[bool] = True  # whether a session computes anything
    # "module:Class" of the runtime that tries its files; "" for itself
    tried_on: ClassVar[str] = ""
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
        return (
            (onnx,) if onnx.parent == folder else (Path(shutil.copyfile(onnx, folder / onnx.name)),)
        )

    def load(self, built: Path, threads: int) -> Session:
        return self.session(GraphFile.made_here(built), threads)

    @abc.abstractmethod
    def session(self, file: GraphFile, threads: int) -> Session: ...

    def admit(self, files: Mapping[str, GraphFile], graphs: Mapping[str, Declared]) -> None:
        from . import door

        itself = f"{type(self).__module__}:{type(self).__qualname__}"
        door.admit(self.tried_on or itself, self.version(), files, graphs)
