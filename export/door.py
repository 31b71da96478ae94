"""Try graphs that nobody vouches for before they are used.

A file is first read in Python, which nothing in it can break (onnx_structure.py, ir_structure.py).
Then a process of its own, with limits of time and memory, lets the runtime load and run every graph
of a bundle once: a file that crashes it, hangs or takes all memory ends that process, which counts
as an answer. What passed is remembered by its content, in the cache if there is one, so that a
device tries a bundle once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.reader import mapped
from edgegen.core.temporary import scratch
from edgegen.core.weights import SUFFIX
from edgegen.errors import (
    EdgegenError,
    InputError,
    ResourceError,
    RuntimeMissing,
    TrustError,
    UsageError,
)

from . import cache, ir_structure, onnx_structure
from .onnx_structure import Beside

VERSION = "1"  # version of what passing means; a stricter door gets a newer one
SECONDS = 60  # seconds for all graphs of a bundle; large ones get more
BYTES_A_SECOND = 1 << 20
SPEC, ANSWER = "spec.json", "answer.json"
_ERRORS: dict[int, type[EdgegenError]] = {
    kind.exit_code: kind
    for kind in (UsageError, InputError, RuntimeMissing, TrustError, ResourceError)
}
# The child looks for modules in the same places as this process.
_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:]; from edgegen.export.trial import child; "
    "child(sys.argv[1])"
)
# one thread and one heap, because reserved memory counts against the limit
_ALONE = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_passed: set[str] = set()
_one_at_a_time = threading.Lock()


def admit(
    runtime: str, version: str, files: Mapping[str, GraphFile], graphs: Mapping[str, Declared]
) -> None:
    """Raise EdgegenError for a file that must not be given to the runtime ("module:Class")."""
    for file in files.values():
        content = _content(file)
        data = content.pop(file.path.name)
        if file.path.suffix == ".xml":
            (weights,) = content.values()
            ir_structure.check(data, weights, file.path)
        else:
            onnx_structure.check(data, file.path, beside=beside(file))
    tried(runtime, version, files, graphs)


def beside(file: GraphFile, content: memoryview | None = None) -> Beside | None:
    """Describe the only file in which a graph may keep weights, with its content if given; None if
    the graph has no such file.
    """
    if file.weights is None:
        return None
    return Beside(file.path.with_suffix(SUFFIX).name, file.weights.bytes, content)


def _content(file: GraphFile) -> dict[str, bytes]:
    """Return the contents of the file, and of an OpenVINO model's weights beside it, by name."""
    found = {file.path.name: file.data()}
    if file.path.suffix == ".xml":
        found[f"{file.path.stem}.bin"] = file.read(f"{file.path.stem}.bin") or b""
    return found


def tried(
    runtime: str, version: str, files: Mapping[str, GraphFile], graphs: Mapping[str, Declared]
) -> None:
    """Do the second half of `admit`: find what only running the graphs shows."""
    contents = {graph: _content(file) for graph, file in files.items()}
    digests = {
        graph: {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        for graph, content in contents.items()
    }
    for graph, file in files.items():
        if file.weights is not None:
            digests[graph][file.path.with_suffix(SUFFIX).name] = file.weights.sha256()
    shapes = {graph: asdict(one) for graph, one in graphs.items()}
    facts = {
        "door": VERSION,
        "runtime": f"{runtime} {version}",
        "files": json.dumps([digests, shapes], sort_keys=True),
    }
    key = json.dumps(facts)
    with _one_at_a_time:
        if key in _passed or _noted(facts):
            return
        try:
            _try(runtime, files, shapes, contents)
        except OSError as error:
            what = f"graphs cannot be tried in a process of their own: {error.strerror or error}"
            raise ResourceError("E-TMPDIR", what, path=error.filename, hint="set TMPDIR") from error
        _passed.add(key)
        # Making images must leave no folder on a device without a cache. A cache that cannot be
        # written, or does not belong to the user, remembers nothing.
        with contextlib.suppress(EdgegenError):
            if cache.is_there():
                cache.store(facts, b"", cache.NOTE)


def _noted(facts: Mapping[str, str]) -> bool:
    try:
        return cache.find(facts, cache.NOTE) is not None
    except EdgegenError:
        return False


def _try(
    runtime: str,
    files: Mapping[str, GraphFile],
    shapes: Mapping[str, Any],
    contents: Mapping[str, Mapping[str, bytes]],
) -> None:
    """Try the graphs in a child process that sees copies of these bytes in a folder of its own."""
    with scratch() as folder:
        spec = {}
        for number, (graph, content) in enumerate(contents.items()):
            (place := folder / str(number)).mkdir()
            for other, data in content.items():
                (place / other).write_bytes(data)
            _copy_weights(files[graph], place)
            file = f"{number}/{files[graph].path.name}"
            spec[graph] = {"file": file, **shapes[graph]}
        (folder / SPEC).write_text(json.dumps({"runtime": runtime, "graphs": spec}), "utf-8")
        total = sum(len(data) for content in contents.values() for data in content.values())
        total += sum(file.weights.bytes for file in files.values() if file.weights)
        answer, why = _ask(folder, SECONDS + total // BYTES_A_SECOND)
    if answer is None:
        first = next(iter(files.values())).path
        raise _no_answer(why, runtime, first)
    if answer:
        graph, exit_code, code, message = answer
        path = files[graph].path if graph in files else None
        raise _ERRORS.get(exit_code, InputError)(code, message, path=path)


def _copy_weights(file: GraphFile, place: Path) -> None:
    """Copy the weights into that folder, where nobody else can change them, and check their
    numbers.
    """
    if file.weights is not None:
        file.put_weights(place)
        copy = (place / file.path.name).with_suffix(SUFFIX)
        content = mapped(copy, 0, file.weights.bytes)
        onnx_structure.check(file.data(), file.path, ours=False, beside=beside(file, content))


def _no_answer(why: str | int, runtime: str, path: Path) -> EdgegenError:
    named = runtime.rpartition(":")[2]
    if isinstance(why, str):
        return ResourceError("E-TIMEOUT", f"{named} {why}", path=path)
    if why == -signal.SIGKILL:
        what = f"the process that tried it with {named} was killed, probably for want of memory"
        return ResourceError("E-OOM", what, path=path)
    how = signal.Signals(-why).name if why < 0 else f"exit code {why}"
    what = f"{named} broke on this file or one beside it: its process ended with {how}"
    return InputError("E-PARSER-CRASH", what, path=path)


def _ask(folder: Path, seconds: int) -> tuple[list[Any] | None, str | int]:
    """Return the child's answer, empty if all is well; or None and the reason why there is none."""
    command = [sys.executable, "-P", "-c", _CHILD, str(folder), *sys.path]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
            cwd=folder,
            env={**os.environ, **_ALONE},
        )
    except subprocess.TimeoutExpired:
        return None, f"was not done with it after {seconds} s"
    try:
        return list(json.loads((folder / ANSWER).read_text("utf-8"))), 0
    except (OSError, ValueError):
        return None, done.returncode
