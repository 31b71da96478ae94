"""Estimate the disk space that an export needs before anything long begins: for its bundle, and for
temporary files meanwhile.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.disk import nearest
from ...core.onnx_graph import OnnxGraph
from ...errors import ResourceError
from ..byte_sizes import FULL, bytes_in_words

if TYPE_CHECKING:
    from ...core.graph import ExportGraph
    from ...core.runtime import Runtime
    from ..generators import LoadedGenerator

BESIDE = 16 << 20  # bytes of a bundle without its graphs: reference, pictures, certificate
# a refused bundle is copied under rejected/ before the first folder is removed
COPIES = 2


@dataclass(frozen=True)
class DiskNeed:
    """Hold the bytes that are needed at most at one time, at the output and for temporary files."""

    out: int
    temporary: int


def disk_need(source: LoadedGenerator, targets: Sequence[Runtime], at_once: int) -> DiskNeed:
    """Return the need of an export of this generator for these runtimes, which tries `at_once`
    plans at the same time.

    Each runtime has one file of each graph, and a second one where it compiles another format. A
    file is at most as large as in full precision, because a plan may keep much of it.
    """
    graphs = source.generator.graphs()
    full = graph_bytes(graphs)
    text = {} if source.text is None else source.text.graphs
    formats = sum(1 if target.suffixes[0] == ".onnx" else 2 for target in targets)
    bundle = full * (1 + formats) + graph_bytes(text) + BESIDE
    if not any(is_large(graph) for graph in graphs.values()):
        return DiskNeed(COPIES * bundle, at_once * full)
    # weights of large graphs lie in files before there is a bundle: equalized, rounded for each
    # number of bits, and as integers
    numbers = sum(graph.parameters for graph in graphs.values())
    bits = len({target.dialect.weight_bits for target in targets})
    return DiskNeed(COPIES * bundle, full + numbers * (FULL * (1 + bits) + 1))


def graph_bytes(graphs: Mapping[str, ExportGraph]) -> int:
    """Return the bytes of these graphs' files as an export writes them in full precision."""
    return sum(map(_bytes, graphs.values()))


def _bytes(graph: ExportGraph) -> int:
    from ...core.graph import Graph

    if isinstance(graph, OnnxGraph):
        return len(graph.model)
    if isinstance(graph, Graph) and graph.weights:
        return sum(tensor.nbytes for tensor in graph.weights.values())
    return FULL * graph.parameters


def is_large(graph: ExportGraph) -> bool:
    """Return whether the graph's weights stay in files while it is worked on."""
    from ...core.graph import Graph

    return isinstance(graph, Graph) and bool(graph.weights)


def check_disk(need: DiskNeed, out: Path) -> None:
    """Raise ResourceError if there is not enough free space; both needs are added if they share a
    disk.
    """
    temporary = Path(tempfile.gettempdir())
    place = nearest(out)
    if os.stat(place).st_dev == os.stat(temporary).st_dev:
        _check(place, need.out + need.temporary, f"{out.name} and for temporary files")
        return
    _check(place, need.out, out.name)
    _check(temporary, need.temporary, "temporary files")


def _check(place: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ResourceError(
            "E-DISK-FULL",
            f"this export may need {bytes_in_words(needed)} of disk space for {what}, but only "
            f"{bytes_in_words(free)} are free",
            path=place,
            hint="free some space, choose another folder with -o, or set TMPDIR to a folder on "
            "another disk",
        )
