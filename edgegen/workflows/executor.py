"""Who executes a bundle's files of a runtime: that runtime, or the stand-in where it cannot run;
which is never left unsaid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.fp32_last_steps import stepped
from ..core.progress import Listener
from ..core.runtime import Pipeline
from ..errors import RuntimeMissing
from ..export import STAND_IN, runtime

if TYPE_CHECKING:
    from ..core.bundle import Bundle


def executor(name: str) -> str:
    """The runtime itself, or the stand-in where it cannot run here."""
    return name if runtime(name).cannot_run() is None else STAND_IN


def label(name: str) -> str:
    """A runtime with the precision of its files, for people."""
    return f"{name} INT8" if runtime(name).dialect.int8_ops else name


def int8(bundle: Bundle, name: str, threads: int, trust_engines: bool) -> Pipeline:
    """The runtime's pipeline, or its ONNX files executed by the stand-in."""
    if executor(name) == name:
        return bundle.pipeline(runtime(name), "int8", threads, trust_engines=trust_engines)
    host = runtime(STAND_IN)
    full = bundle.pipeline(host, "fp32", threads)
    files = bundle.onnx(runtime(name), "int8")
    call = stepped(
        {g: host.load(f, threads) for g, f in files.items()}, full.call, bundle.built(name).until
    )
    return Pipeline(full.latent, full.sampler, call, full.batch)


def insist(names: Iterable[str], allow_cpu: bool, listen: Listener) -> None:
    """RuntimeMissing for the first that cannot run here; with `allow_cpu`, a note that says what
    runs instead.
    """
    for name in names:
        if why := runtime(name).cannot_run():
            if not allow_cpu:
                raise RuntimeMissing(
                    "E-BACKEND",
                    f"{name} does not run here: {why}",
                    hint=f"add --allow-cpu to let {STAND_IN} execute its files on the CPU",
                )
            listen.note(
                f"{name} does not run here: {why}; --allow-cpu: {STAND_IN} executes its files on "
                "the CPU"
            )
