"""The interfaces of runtimes that execute graphs, the Q/DQ dialects they need, and the pipeline
that calls them. (numpy only)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from .declared import Declared
from .graph_file import GraphFile
from .latent import Latent
from .layers import LAYERS
from .noise import noise
from .samplers import Call, Sampler
from .side_by_side import over_workers
from .spec import Array

NOT_INSTALLED = "not installed"  # version of a runtime whose package is missing


@dataclass(frozen=True)
class Dialect:
    """How one runtime needs Q/DQ written; the writer depends on this and not on the runtime."""

    activation: Literal["int8", "uint8"] = "int8"  # type of quantized activations
    symmetric: bool = True  # zero point 0 (int8) or 128 (uint8)
    per_channel_weights: bool = True
    # bits of an int8 weight; 7 where sums of products would overflow, see core/cpu.py
    weight_bits: int = 8
    # whether the bias is int32 with the product of both scales; otherwise it is float
    int32_bias: bool = False
    int8_ops: frozenset[str] = LAYERS  # ops whose inputs and weights get Q/DQ
    # ops between convolutions that also run quantized: all inputs and the output get Q/DQ
    between: frozenset[str] = frozenset()
    # whether int8 transposed convolutions become convolutions per phase (export/phases.py)
    phases: bool = False
    # whether the output of an int8 convolution always gets Q/DQ, whichever node reads it
    outputs: bool = False
    # type in which everything but int8 runs; with float16 some parts stay in float32
    floats: Literal["float32", "float16"] = "float32"
    # type in which large float weights are stored; they are converted to float32 for computing
    stored: Literal["float32", "float16"] = "float32"

    @property
    def largest_weight(self) -> int:
        """The magnitude of the largest int8 weight: 127 or 63."""
        return 2 ** (self.weight_bits - 1) - 1


class Session(Protocol):
    """One loaded graph, which takes named float32 arrays and returns its single output.

    Several threads may call it at once, without effect on each other's results.
    """

    def __call__(self, **inputs: Array) -> Array: ...


class Runtime(Protocol):
    """One backend, which builds ONNX files into what the device loads, and makes them callable."""

    name: str
    dialect: Dialect
    # whether it builds code (a GPU engine) and not data; code is loaded only from trusted sources
    executable: bool
    # suffixes of the files that it builds and loads; it loads no other file of a bundle
    suffixes: tuple[str, ...]

    def missing(self) -> str | None:
        """Return why it cannot build here, as a sentence with the remedy, or None if it can."""

    def cannot_run(self) -> str | None:
        """Return why this machine cannot execute a built file, or None if it can."""

    def version(self) -> str:
        """Return the package version, such as "1.31.1", or NOT_INSTALLED."""

    def device(self) -> str:
        """Return the name of the device that executes graphs, such as "CPU"."""

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        """Write what the device loads into `folder`; return its paths, first the one to `load`."""

    def load(self, built: Path, threads: int) -> Session:
        """Load a file that this process built or its cache holds, and return its session.

        RuntimeMissing if it cannot run here.
        """

    def session(self, file: GraphFile, threads: int) -> Session:
        """Load a graph from bytes. Files that nobody vouches for must pass `admit` first."""

    def admit(self, files: Mapping[str, GraphFile], graphs: Mapping[str, Declared]) -> None:
        """Try files by graph that nobody vouches for, isolated so that they can do no harm.

        EdgegenError for a file that is not a graph, crashes the runtime, gives another output than
        `graphs` declares, or needs more time or memory than allowed.
        """


@runtime_checkable
class Compiling(Runtime, Protocol):
    """A runtime that builds for its own machine and keeps the result, which needs no signature."""

    def compiled(self, onnx: GraphFile) -> Path | None:
        """Return what was built from that file before, or None. TrustError if it is damaged."""

    def compile(self, onnx: GraphFile) -> Path:
        """Build the file, replacing an earlier result. RuntimeMissing if it cannot build here."""


@runtime_checkable
class Placed(Protocol):
    """A session that can report which devices execute its nodes."""

    def placement(self) -> Mapping[str, int]:
        """Return the number of nodes by the name of what executes them."""


def placement(call: Call[np.ndarray]) -> dict[str, dict[str, int]]:
    """Return the number of nodes by executor and graph, for the sessions that report it."""
    sessions: Mapping[str, object] = call
    placed = {
        graph: dict(session.placement())
        for graph, session in sessions.items()
        if isinstance(session, Placed)
    }
    return {graph: nodes for graph, nodes in placed.items() if nodes}


@dataclass(frozen=True)
class Pipeline:
    """Turns seeds into images with any executor of the graphs, for all workflows.

    batch: images per call of the sampler; workers: batches computed at once, which does not affect
    the images.
    """

    latent: Latent
    sampler: Sampler
    call: Call[np.ndarray] = field(repr=False)
    batch: int = 64
    workers: int = 1

    def __call__(self, seeds: Sequence[int], label: int | None = None) -> Array:
        """Return images (len(seeds), c, h, w) in [-1, 1].

        Image k depends only on seeds[k] and the label.
        """
        parts = [seeds[k : k + self.batch] for k in range(0, len(seeds), self.batch)]
        return np.concatenate(
            list(over_workers(lambda part: self._batch(part, label), parts, self.workers))
        )

    def _batch(self, seeds: Sequence[int], label: int | None) -> Array:
        images: Array = self.sampler(
            self.call,
            self.latent.start(seeds),
            self.latent.condition(seeds, label),
            lambda stream: noise(self.latent.noise, seeds, stream),
        )
        return images.astype(np.float32, copy=False)
