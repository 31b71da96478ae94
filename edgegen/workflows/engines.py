"""Compile a bundle's graphs for this very machine once, and keep the results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..core.reader import Places
from ..core.runtime import Compiling
from ..errors import RuntimeMissing, TrustError
from ..export import runtime
from .bundles import precision_of, read_bundle
from .limits import check_numbers

if TYPE_CHECKING:
    from ..core.bundle import Bundle, Precision
    from ..core.graph_file import GraphFile


@dataclass(frozen=True)
class EngineSettings:
    """Say what is built."""

    runtimes: Sequence[str] | None = None  # None: every runtime of the bundle that builds here
    precision: str = "int8"  # or fp32, for the full-precision graphs
    again: bool = False  # build even what exists already
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    least_release: int | None = None  # refuse what was signed as an older release

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class KeptEngine:
    """Describe one graph as a runtime loads it on this machine; `state` is "built", "there" or
    "built again".
    """

    runtime: str
    graph: str
    state: str
    seconds: float
    path: str
    bytes: int


@dataclass(frozen=True)
class EnginesResult:
    """Hold what was built or existed already, and why other runtimes have nothing to build."""

    bundle: str
    precision: str
    engines: Sequence[KeptEngine]
    skipped: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen build --json` prints, without its outer frame."""
        built = [asdict(engine) for engine in self.engines]
        return {"bundle": self.bundle, "precision": self.precision, "built": built}


def build_engines(
    bundle: str | Path, settings: EngineSettings | None = None, listen: Listener = silent
) -> EnginesResult:
    """Build a bundle's graphs for this GPU or CPU from its ONNX files, and keep them in
    the cache.

    Engines that were built here need no signature. Raises RuntimeMissing for a named runtime that
    cannot build here.
    """
    settings = settings or EngineSettings()
    precision = precision_of(settings.precision)
    opened = read_bundle(bundle, settings.public_key, settings.least_release)
    engines: list[KeptEngine] = []
    skipped: dict[str, str] = {}
    for name in settings.runtimes or opened.manifest.runtimes:
        target = runtime(name)
        if precision == "int8":
            opened.check_code(target)
        if not isinstance(target, Compiling):
            skipped[name] = "this runtime loads its files directly"
        elif why := target.cannot_run():
            if settings.runtimes:
                raise RuntimeMissing(
                    "E-BACKEND", f"{name} cannot build for this machine: {why}", path=bundle
                )
            skipped[name] = why
        else:
            for graph, file in _sources(opened, target, precision).items():
                engines.append(_kept(target, graph, file, settings.again, listen))
    return EnginesResult(str(bundle), precision, engines, skipped)


def _sources(bundle: Bundle, target: Compiling, precision: Precision) -> dict[str, GraphFile]:
    """Return the ONNX files by graph; INT8 includes the FP32 graphs of the sampler's last steps."""
    files = bundle.sources(target, precision)
    if precision == "int8" and bundle.built(target.name).until:
        full = bundle.sources(target, "fp32")
        files |= {f"{graph}, last steps": full[graph] for graph in bundle.built(target.name).until}
    return files


def _kept(
    target: Compiling, graph: str, file: GraphFile, again: bool, listen: Listener
) -> KeptEngine:
    start, state, path = time.monotonic(), "built", None
    with listen.progress(f"building {file.path.stem}"):
        try:
            path = None if again else target.compiled(file)
        except TrustError as error:
            listen.note(f"{error}; it is built again")
            state = "built again"
        if path is not None:
            return KeptEngine(target.name, graph, "there", 0.0, str(path), path.stat().st_size)
        path = target.compile(file)
    seconds = time.monotonic() - start
    return KeptEngine(target.name, graph, state, seconds, str(path), path.stat().st_size)
