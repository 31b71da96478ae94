"""edgegen build: compile a bundle's graphs for this very machine once, and keep the results."""

from __future__ import annotations

from typing import Annotated

import typer

from . import output
from .options import BundleFolder, LeastRelease, Precision, PublicKey, Runtimes, names_of


def build(
    bundle: BundleFolder,
    runtime: Runtimes = None,
    precision: Precision = "int8",
    again: Annotated[
        bool, typer.Option("--again", help="Build again what was already built.")
    ] = False,
    public_key: PublicKey = None,
    least_release: LeastRelease = None,
    json: output.Json = False,
) -> None:
    """Build a bundle's graphs for this machine's GPU or CPU from its ONNX files. Engines that are
    built here need no signature.
    """
    from ..workflows.engines import EngineSettings, build_engines

    names = names_of(runtime) if runtime else None
    settings = EngineSettings(names, precision, again, public_key, least_release)
    result = build_engines(bundle, settings, output.terminal)
    rows = [
        [one.runtime, one.graph, one.state, f"{one.seconds:.1f}", f"{one.bytes / 1e6:.1f}"]
        for one in result.engines
    ]
    rows += [[name, "", f"nothing to build: {why}", "", ""] for name, why in result.skipped.items()]
    output.table(["runtime", "graph", "state", "seconds", "MB"], rows)
    output.result("build", result.to_json())
