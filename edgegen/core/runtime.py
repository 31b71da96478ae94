"""What executes graphs: a runtime, the dialect of Q/DQ it wants, and the pipeline that drives it.
(numpy only)
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

NOT_INSTALLED = "not installed"  # the version of a runtime without its package


@dataclass(frozen=True)
class Dialect:
    """How one runtime wants Q/DQ written: the writer reads this and never asks who is reading."""

    activation: Literal["int8", "uint8"] = "int8"  # type of quantized activations
    symmetric: bool = True  # zero point 0 (int8) or 128 (uint8)
    per_channel_weights: bool = True
    # that an int8 weight uses; 7 where sums of products would overflow, see core/cpu.py
    weight_bits: int = 8
    # bias as int32 with the product of both scales, else float
    int32_bias: bool = False
    int8_ops: frozenset[str] = LAYERS  # ops whose inputs and weights get Q/DQ
    # ops between convolutions that run quantized too: all inputs and the output get Q/DQ
    between: frozenset[str] = frozenset()
    # transposed convolutions in int8 are written as convolutions of their phases (export/phases.py)
    phases: bool = False
    # whether an int8 convolution's output gets Q/DQ whatever reads it
    outputs: bool = False
    # what is not int8 runs in; float16 keeps islands of float32
    floats: Literal["float32", "float16"] = "float32"
    # large weights that stay float are stored in; float16 ones are computed with in float32
    stored: Literal["float32", "float16"] = "float32"

    @property
    def largest_weight(self) -> int:
        """Magnitude of the largest int8 weight: 127 or 63."""
        return 2 ** (self.weight_bits - 1) - 1


class Session(Protocol):
    """One loaded graph: named float32 arrays in, its single output back.

    Several threads may call it at once; each gets what it would have got alone.
    """

    def __call__(self, **inputs: Array) -> Array: ...


class Runtime(Protocol):
    """One backend. `build` turns an ONNX file into what the device loads; `session` makes it
    callable.
    """

    name: str
    dialect: Dialect
    # what it builds is code (a GPU engine), not data: loaded only from somebody trusted
    executable: bool
    # of the files that it builds and loads; nothing else of a bundle is loaded by it
    suffixes: tuple[str, ...]

    def missing(self) -> str | None:
        """Why nothing can be built here, as a sentence with the remedy; None when it can."""

    def cannot_run(self) -> str | None:
        """Why a built file cannot be executed on this machine; None when it can."""

    def version(self) -> str:
        """Package version, such as "1.31.1", or NOT_INSTALLED."""

    def device(self) -> str:
        """What executes, such as "CPU"."""

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        """Write into `folder` what the device loads; the first path is the one for load."""

    def load(self, built: Path, threads: int) -> Session:
        """What this process built, or its cache holds, ready to call. RuntimeMissing when it cannot
        run here.
        """

    def session(self, file: GraphFile, threads: int) -> Session:
        """The same of bytes. Those that nobody vouches for have passed `admit` before."""

    def admit(self, files: Mapping[str, GraphFile], graphs: Mapping[str, Declared]) -> None:
        """Try files by graph that nobody vouches for where they can do no harm. EdgegenError for
        one that is no graph, breaks the runtime, answers otherwise than `graphs` says, or takes
        more time or memory than a graph may.
        """


@runtime_checkable
class Compiling(Runtime, Protocol):
    """A runtime that builds for the machine it is on, and keeps what it built there: nobody else
    needs to vouch for it.
    """

    def compiled(self, onnx: GraphFile) -> Path | None:
        """What was built here of that file, for load; None if nothing was. TrustError for something
        damaged.
        """

    def compile(self, onnx: GraphFile) -> Path:
        """Build it, in place of what was there. RuntimeMissing when this machine cannot."""


@runtime_checkable
class Placed(Protocol):
    """A session that knows where its nodes run."""

    def placement(self) -> Mapping[str, int]:
        """Nodes by what executes them."""


def placement(call: Call[np.ndarray]) -> dict[str, dict[str, int]]:
    """Where each graph's nodes run, of the sessions that know."""
    sessions: Mapping[str, object] = call
    placed = {
        graph: dict(session.placement())
        for graph, session in sessions.items()
        if isinstance(session, Placed)
    }
    return {graph: nodes for graph, nodes in placed.items() if nodes}


@dataclass(frozen=True)
class Pipeline:
    """Seeds to images on whatever executes the graphs; what generate, verify, bench and explain all
    take.

    workers: batches at once; where a batch begins, and so each image, does not depend on it.
    """

    latent: Latent
    sampler: Sampler
    call: Call[np.ndarray] = field(repr=False)
    batch: int = 64
    workers: int = 1

    def __call__(self, seeds: Sequence[int], label: int | None = None) -> Array:
        """Images (len(seeds), c, h, w) in [-1, 1]; image k depends on seeds[k] and the label
        alone.
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
