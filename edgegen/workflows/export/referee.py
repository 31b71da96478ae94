"""Check that a runtime computes the layers of a large graph as its file says. The whole graph would
take the numpy referee hours, so a sample of layers is cut out, each with its input on a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibrate.histogram import fetched
from ...calibrate.observe import session
from ...core.temporary import scratch
from ...evidence import parity
from ...export import STAND_IN, runtime
from ...export.excerpt import IN, Excerpts

if TYPE_CHECKING:
    from ...core.graph_file import GraphFile
    from ...core.runtime import Session
    from ...core.spec import Array

SAMPLED = 8  # sampled layers of a graph
EQUAL_DB = 200.0  # dB that the referee gives equal outputs


def refereed_layers(
    file: GraphFile,
    load: Callable[[Path, int], Session],
    inputs: Mapping[str, Array],
    half: bool,
) -> parity.Refereed:
    """Return the worst agreement in a sample of the Q/DQ file's layers.

    `load` gives a session of what executes the runtime's files; `inputs` are those of one call of
    the graph.
    """
    with file.placed() as path:
        excerpts = Excerpts(path)
        sample = excerpts.sample(SAMPLED)
        if not sample:  # the plan rounds nothing of this graph
            return parity.Refereed(EQUAL_DB, EQUAL_DB, half)
        tensors = list(dict.fromkeys(one.reads for one in sample))
        _, *values = session(fetched(excerpts.model, tensors), 1).run(None, dict(inputs))
        read = dict(zip(tensors, values, strict=True))
        found = []
        for one in sample:
            with scratch() as folder:
                rounded, exact = excerpts.write(one, read[one.reads].shape, folder)
                sides = (
                    load(rounded, 1),
                    runtime("reference").load(rounded, 1),
                    runtime(STAND_IN).load(exact, 1),
                )
                found.append(parity.referee(*sides, [{IN: read[one.reads]}], half))
    return min(found, key=lambda one: (one.agrees, one.runtime_db))
