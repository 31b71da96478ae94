"""Have other toolkits quantize a bundle's graphs to INT8, each in its own Python and from the feeds
that an export calibrates on. edgegen's runtimes execute the result like any file from outside.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.files import put
from ...core.graph_file import GraphFile
from ...core.held_session import HeldSession, loaded_by
from ...core.offline import OFFLINE
from ...core.reader import GRAPH_BYTES, opened, read_bytes
from ...core.seeds import CALIBRATION
from ...core.spec import Array
from ...errors import EdgegenError, UsageError
from ...evidence.bench import record
from ...export import STAND_IN, runtime
from . import peer_scripts

if TYPE_CHECKING:
    from ...core.bundle import Bundle
    from ...core.runtime import Pipeline, Runtime

SEEDS, BATCH = 128, 8  # the seeds that an export calibrates on, and how many make one call
LIMIT = 1800  # seconds that a tool may take for one graph
WORDS = 64 << 10  # bytes of a tool's output that are read for its last words
# switches off the telemetry of these tools, which edgegen itself does not use
QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "NNCF_TELEMETRY": "0"}
# Gives the further words of a variant's program, from the path of the FP32 graph.
Words = Callable[[Path], Sequence[str]]


def _no_words(_: Path) -> Sequence[str]:
    return ()


def inner_convolutions(graph: Path) -> Sequence[str]:
    """Return words that leave out by hand what edgegen leaves in FP32: all operators but
    convolutions, and the convolutions at the graph's ends.
    """
    import onnx

    from ...calibrate.choose import ends

    return ["Conv", *ends(onnx.load(graph))]


@dataclass(frozen=True)
class Variant:
    """Describe one way to use a tool. `name` is shown in its rows; `runtime` executes what it
    writes.
    """

    name: str
    program: str
    runtime: str
    suffix: str = ".onnx"
    words: Words = _no_words


@dataclass(frozen=True)
class Peer:
    """Describe a tool. `packages` are its names in package indices; any of them provides it."""

    packages: tuple[str, ...]
    variants: tuple[Variant, ...]


# The keys are the names that --peer takes.
PEERS: Mapping[str, Peer] = {
    "onnxruntime": Peer(
        ("onnxruntime", "onnxruntime-gpu"),
        (
            Variant("quantize_static", peer_scripts.ONNXRUNTIME, STAND_IN),
            Variant(
                "quantize_static of inner convolutions",
                peer_scripts.ONNXRUNTIME,
                STAND_IN,
                words=inner_convolutions,
            ),
        ),
    ),
    "nncf": Peer(
        ("nncf",),
        (
            Variant("nncf", peer_scripts.NNCF, "openvino", ".xml"),
            Variant(
                "nncf without MatMul", peer_scripts.NNCF, "openvino", ".xml", lambda _: ["left"]
            ),
            Variant("nncf accuracy control", peer_scripts.NNCF_ACCURACY, "openvino", ".xml"),
        ),
    ),
    "modelopt": Peer(("nvidia-modelopt",), (Variant("modelopt", peer_scripts.MODELOPT, STAND_IN),)),
    "olive": Peer(
        ("olive-ai",),
        (
            Variant("olive", peer_scripts.OLIVE, STAND_IN),
            Variant("olive per channel", peer_scripts.OLIVE, STAND_IN, words=lambda _: ["better"]),
        ),
    ),
}


def check_peers(peers: Mapping[str, str]) -> None:
    """Raise UsageError for a tool that is not known or a Python that does not exist."""
    for name, python in peers.items():
        if name not in PEERS:
            raise UsageError(
                "E-USAGE",
                f"--peer {name}: there is no such tool; the known tools are {', '.join(PEERS)}",
            )
        if python and shutil.which(python) is None:
            raise UsageError(
                "E-USAGE",
                f"--peer {name}={python}: there is no program of this name",
                hint="give the path of the Python in the tool's environment; scripts/peers.sh "
                "makes one",
            )


@dataclass(frozen=True)
class MadeByPeer:
    """Hold the files that a tool wrote from a bundle's graphs (graph to file name) in a temporary
    folder.
    """

    folder: Path
    files: Mapping[str, str]

    def pipeline(self, bundle: Bundle, target: Runtime, threads: int, batch: int) -> Pipeline:
        """Return a pipeline of the bundle in which `target` executes the tool's files."""
        call = {}
        for graph, file in self.admitted(bundle, target).items():
            session = loaded_by(partial(target.session, file, threads), file.path)
            call[graph] = HeldSession(session, bundle.declared[graph].output, file.path)
        return bundle.of(call, batch)

    def admitted(self, bundle: Bundle, target: Runtime) -> dict[str, GraphFile]:
        """Return the files after a check that they are plain graphs, because nobody vouches for
        them. Raises EdgegenError if they are not.
        """
        files = {graph: self._file(name) for graph, name in self.files.items()}
        target.admit(files, {graph: bundle.declared[graph] for graph in files})
        return files

    def _file(self, name: str) -> GraphFile:
        path = self.folder / name

        def read(other: str) -> bytes | None:
            beside = path.with_name(other)
            return read_bytes(beside, GRAPH_BYTES) if os.path.lexists(beside) else None

        return GraphFile(path, read)


@dataclass(frozen=True)
class PeerResult:
    """Hold what a tool made with one variant, or why it made nothing. `skipped`: something is
    missing on this machine.
    """

    variant: Variant
    made: MadeByPeer | None
    why: str = ""
    skipped: bool = False


class PeerFailed(Exception):
    """Carry the last line that a failed tool printed."""


@dataclass
class RecordedFeeds:
    """Record the inputs of a bundle's graphs over its sampler's run when they are first needed."""

    bundle: Bundle
    folder: Path

    @cached_property
    def places(self) -> Mapping[str, Path]:
        return recorded(self.bundle, self.folder)


@dataclass
class Quantizing:
    """Run one tool in its own Python; `folder` is private to this run and removed after it."""

    tool: str
    python: str
    folder: Path
    version: str = field(default="", init=False)
    missing: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.python = self.python or sys.executable
        packages = PEERS[self.tool].packages
        try:
            self.version = self._run(peer_scripts.VERSION, *packages, limit=60).strip()[:100]
        except PeerFailed as error:
            self.missing = f"the Python that was named for {self.tool}: {error}"
        if not self.version and not self.missing:
            self.missing = f"{packages[0]} is not installed in the Python that was named"

    @property
    def count(self) -> int:
        return len(PEERS[self.tool].variants)

    def results(self, feeds: RecordedFeeds, runtimes: Sequence[str] | None) -> Iterator[PeerResult]:
        """Yield the result of each variant whose runtime was asked for."""
        for number, variant in enumerate(PEERS[self.tool].variants):
            if runtimes is not None and variant.runtime not in runtimes:
                continue
            if why := self.missing or runtime(variant.runtime).cannot_run():
                yield PeerResult(variant, None, why, skipped=True)
                continue
            (place := feeds.folder / f"{self.tool}-{number}").mkdir()
            try:
                yield PeerResult(variant, self._made(variant, feeds, place))
            except PeerFailed as error:
                yield PeerResult(variant, None, str(error))
            except EdgegenError as error:
                yield PeerResult(variant, None, f"{error.code}: {error.message}")
            except ModuleNotFoundError as error:  # a device has no onnx
                yield PeerResult(variant, None, f"{error.name} is not installed", skipped=True)

    def _made(self, variant: Variant, feeds: RecordedFeeds, place: Path) -> MadeByPeer:
        files = {}
        for number, (graph, name) in enumerate(feeds.bundle.manifest.graphs.items()):
            (own := place / str(number)).mkdir()
            file = feeds.bundle.graph_file(name)
            full, out = own / file.path.name, own / "int8"
            # a copy, because some tools write into the folder they are given
            put(full, file.data())
            file.put_weights(own)
            words = [str(full), str(feeds.places[graph]), str(out), *variant.words(full)]
            self._run(variant.program, *words)
            if not out.with_suffix(variant.suffix).is_file():
                raise PeerFailed("it ended without an error but wrote no file")
            files[graph] = f"{number}/int8{variant.suffix}"
        return MadeByPeer(place, files)

    def _run(self, program: str, *words: str, limit: int = LIMIT) -> str:
        """Return what the program printed. Raises PeerFailed with its last words."""
        said, erred = self.folder / "said", self.folder / "erred"
        environment = {**os.environ, **OFFLINE, **QUIET}
        with open(said, "wb") as out, open(erred, "wb") as err:
            try:
                # -I keeps out both edgegen's modules and those of the user's working folder
                child = subprocess.Popen(
                    [self.python, "-I", "-c", program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=self.folder,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise PeerFailed(f"it cannot be started: {error.strerror}") from error
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired as error:
                raise PeerFailed(f"it had not finished after {limit} s") from error
            finally:
                if child.returncode is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        if code:
            how = f"{signal.Signals(-code).name}: " if code < 0 else ""
            raise PeerFailed(how + self._last_words(erred, said))
        return _tail(said)

    def _last_words(self, *places: Path) -> str:
        for place in places:
            if lines := [line.strip() for line in _tail(place).splitlines() if line.strip()]:
                return without_places(lines[-1], str(self.folder), self.python)[:500]
        return "it printed no reason"


def without_places(text: str, *places: str) -> str:
    """Remove the names of this machine's folders from a text, because a report goes to others."""
    for place in (*places, os.path.expanduser("~")):
        if len(place) > 1:
            text = text.replace(place, "...")
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", ".../", text)


def _tail(place: Path) -> str:
    with opened(place) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - WORDS))
        return file.read(WORDS).decode("utf-8", "replace")


def recorded(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """Record what the sampler asks each graph for on the seeds that an export calibrates on.

    Returns one .npz file for each graph, with the arrays NAME|CALL.
    """
    full = _full_precision(bundle)
    calls: dict[str, list[dict[str, Array]]] = {graph: [] for graph in full.call}
    seeds = CALIBRATION.take(SEEDS)
    for start in range(0, SEEDS, BATCH):
        for graph, asked in record(full, seeds[start : start + BATCH]).items():
            calls[graph] += asked
    places = {}
    for number, (graph, found) in enumerate(calls.items()):
        arrays = {
            f"{name}|{k}": value for k, one in enumerate(found) for name, value in one.items()
        }
        place = folder / f"feeds-{number}.npz"
        np.savez(place, **arrays)  # type: ignore[arg-type]
        places[graph] = place
    return places


def _full_precision(bundle: Bundle) -> Pipeline:
    """Return the full-precision pipeline on the stand-in, or on the bundle's first runtime that can
    execute it. Raises PeerFailed if none can.
    """
    reasons = []
    for name in dict.fromkeys((STAND_IN, *bundle.manifest.runtimes)):
        target = runtime(name)
        if target.executable or (why := target.cannot_run()):
            reasons.append(f"{name}: {'executes engines alone' if target.executable else why}")
            continue
        try:
            return bundle.pipeline(target, "fp32", 1)
        except EdgegenError as error:
            reasons.append(f"{name}: {error.message}")
    raise PeerFailed(f"there is no full precision to record feeds with: {'; '.join(reasons)}")
