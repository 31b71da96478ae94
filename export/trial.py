"""Run in the door's process: load and run each graph once, inside limits, and report the
outcome.
"""

from __future__ import annotations

import json
import resource
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.held_session import HeldSession, translated
from edgegen.core.offline import offline
from edgegen.core.rehearsal import sized

from .door import ANSWER, SPEC
from .packages import FileRuntime

MEMORY = 4 << 30  # bytes that the graphs of a bundle may take; large ones get more
COPIES = 8  # copies of a file's bytes that a runtime may make


def named(runtime: str) -> FileRuntime:
    """Return an instance of "module:Class"."""
    module, _, name = runtime.partition(":")
    found: FileRuntime = getattr(import_module(module), name)()
    return found


def child(folder: str) -> None:
    """Read spec.json in the folder and write answer.json: empty if all is well, else graph, exit
    code, code and sentence.
    """
    offline()
    place = Path(folder)
    spec = json.loads((place / SPEC).read_text("utf-8"))
    runtime = named(spec["runtime"])
    runtime.cannot_run()  # this loads the library, whose memory does not count against the graphs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    total = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    limit = _mapped() + MEMORY + COPIES * total
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answer: list[Any] = []
    for graph, asked in spec["graphs"].items():
        path = place / asked["file"]
        try:
            integers = tuple(asked["integers"])
            _run(runtime, path, Declared(asked["inputs"], tuple(asked["output"]), integers))
        except Exception as error:  # runtimes raise errors of any class
            found = translated(error, "cannot be run", path)
            answer = [graph, found.exit_code, found.code, found.message]
            break
    (place / ANSWER).write_text(json.dumps(answer), "utf-8")


def _run(runtime: FileRuntime, path: Path, graph: Declared) -> None:
    rng = np.random.default_rng(0)
    session = HeldSession(runtime.session(GraphFile.made_here(path), 1), graph.output, path)
    if runtime.executes:
        sizes = {name: sized(tuple(shape), 1) for name, shape in graph.inputs.items()}
        drawn: dict[str, np.ndarray] = {
            name: np.zeros(size, np.int64)  # the first token, which every vocabulary has
            if name in graph.integers
            else rng.standard_normal(size, np.float32)
            for name, size in sizes.items()
        }
        session(**drawn)


def _mapped() -> int:
    """Return the bytes of this process's memory, reserved or used."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return MEMORY
    return int(status.read_text("ascii").split()[0]) * resource.getpagesize()
