"""edgegen build: what a runtime makes of a bundle on this very machine, made once and kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RuntimeMissing, TrustError, UsageError
from ..workflows import generators
from . import output
from .options import PublicKey

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.bundle import Precision
    from ..core.runtime import Compiling


def build(
    what: Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")],
    runtime: Annotated[
        str | None,
        typer.Option(help="Comma-separated; without it, every one that builds and runs here."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="int8, or fp32 of the full-precision graphs.")
    ] = "int8",
    again: Annotated[bool, typer.Option("--again", help="Build even what is there.")] = False,
    public_key: PublicKey = None,
    json: output.Json = False,
) -> None:
    """Build a bundle's graphs for this GPU or CPU, from its ONNX files: engines built here need
    nobody to vouch for them.
    """
    from ..core.runtime import Compiling
    from ..export import runtime as find

    if precision not in ("int8", "fp32"):
        raise UsageError("E-USAGE", f"--precision must be int8 or fp32, got {precision!r}")
    wanted: Precision = "fp32" if precision == "fp32" else "int8"
    bundle = generators.open_bundle(what, public_key)
    rows, built = [], []
    for name in [n.strip() for n in runtime.split(",")] if runtime else bundle.manifest.runtimes:
        target = find(name)
        if wanted == "int8":
            bundle.built(name)
        if not isinstance(target, Compiling):
            why: str | None = "it loads its files as they are"
        elif (why := target.cannot_run()) and runtime:
            raise RuntimeMissing(
                "E-BACKEND", f"{name} cannot build for this machine: {why}", path=what
            )
        if why or not isinstance(target, Compiling):
            rows.append([name, "", f"nothing to build: {why}", "", ""])
            continue
        files = bundle.onnx(target, wanted)
        if wanted == "int8":
            files |= {
                f"{graph}, last steps": bundle.onnx(target, "fp32")[graph]
                for graph in bundle.built(name).until
            }
        for graph, file in files.items():
            state, path, seconds = _one(target, file, again)
            rows.append([name, graph, state, f"{seconds:.1f}", f"{path.stat().st_size / 1e6:.1f}"])
            built.append(
                {
                    "runtime": name,
                    "graph": graph,
                    "state": state,
                    "seconds": seconds,
                    "path": str(path),
                    "bytes": path.stat().st_size,
                }
            )
    output.table(["runtime", "graph", "state", "seconds", "MB"], rows)
    output.result("build", {"bundle": what, "precision": precision, "built": built})


def _one(target: Compiling, file: Path, again: bool) -> tuple[str, Path, float]:
    """State, where it is kept and the seconds it took."""
    start = time.monotonic()
    state = "built"
    with output.progress(f"building {file.stem}"):
        try:
            if not again and (kept := target.compiled(file)) is not None:
                return "there", kept, 0.0
        except TrustError as error:
            output.note(f"{error}; it is built again")
            state = "built again"
        return state, target.compile(file), time.monotonic() - start
