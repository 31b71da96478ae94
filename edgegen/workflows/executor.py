"""Choose what executes a bundle's files for a runtime: the runtime itself, or the stand-in where it
cannot run, which the user is always told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.fp32_last_steps import with_fp32_steps
from ..core.progress import Listener
from ..core.runtime import Pipeline
from ..errors import RuntimeMissing
from ..export import STAND_IN, executing, runtime

if TYPE_CHECKING:
    from ..core.bundle import Bundle


def executor(name: str) -> str:
    """Return the name of the runtime, or of the stand-in where the runtime cannot run here."""
    return executing(runtime(name)).name


def label(name: str) -> str:
    """Return a runtime's name, with "INT8" if its files are INT8, for people."""
    return f"{name} INT8" if runtime(name).dialect.int8_ops else name


def int8(bundle: Bundle, name: str, threads: int, trust_engines: bool) -> Pipeline:
    """Return the runtime's pipeline, or a pipeline in which the stand-in executes its
    ONNX files.
    """
    target = runtime(name)
    host = executing(target)
    if host is target:
        return bundle.pipeline(target, "int8", threads, trust_engines=trust_engines)
    bundle.check_code(target)
    quantized = bundle.sessions(host, bundle.onnx(target, "int8"), threads)
    until = bundle.built(name).until
    if not until:
        return bundle.of(quantized)
    graphs = {graph: bundle.manifest.graphs[graph] for graph in until}
    full = bundle.sessions(runtime(STAND_IN), graphs, threads)
    return bundle.of(with_fp32_steps(quantized, full, until))


def insist(names: Iterable[str], allow_cpu: bool, listen: Listener) -> None:
    """Raise RuntimeMissing for the first runtime that cannot run here; with `allow_cpu`, say
    instead in a note what runs in its place.
    """
    for name in names:
        if why := runtime(name).cannot_run():
            host = executor(name)
            if not allow_cpu:
                raise RuntimeMissing(
                    "E-BACKEND",
                    f"{name} does not run here: {why}",
                    hint=f"add --allow-cpu to let {host} run the files on the CPU instead",
                )
            listen.note(
                f"{name} does not run here: {why}; --allow-cpu: {host} executes its files on the "
                "CPU"
            )
