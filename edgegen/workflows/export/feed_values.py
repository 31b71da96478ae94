"""Check that calibration inputs from files could be the sampler's own. One value that could not
would stretch a range so far that everything else rounds to a few levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...core.graph import Exportable
from ...core.seeds import CALIBRATION
from ...core.spec import Array
from ...errors import InputError
from ...evidence.bench import record
from ..generators import torch_pipeline

SEEDS = 8  # seeds whose trajectories show what inputs are usual
FAR = 10.0  # an input this many times larger than the usual maximum is refused


class FeedValues:
    """Look once at the inputs of all graphs while their files are read."""

    def __init__(self, generator: Exportable) -> None:
        self._largest = {
            graph: {
                name: max(float(np.abs(call[name]).max()) for call in calls) for name in calls[0]
            }
            for graph, calls in record(torch_pipeline(generator), CALIBRATION.take(SEEDS)).items()
            if calls
        }
        self._seen: dict[tuple[str, str], float] = {}

    def look(self, graph: str, inputs: Mapping[str, Array], first: int, path: Path) -> None:
        """Check rows from `first` on. Raises InputError, which names the input, if a value is far
        off.
        """
        for name, values in inputs.items():
            usual = self._largest.get(graph, {}).get(name, np.inf)
            sizes = np.abs(values.reshape(len(values), -1)).max(1)
            if (worst := int(sizes.argmax())) >= 0 and sizes[worst] > FAR * usual > 0:
                raise InputError(
                    "E-FEEDS",
                    f"{name} of {graph} is {sizes[worst]:.3g} in row {first + worst}, and the "
                    f"sampler's own inputs stay within {usual:.3g}",
                    path=path,
                    hint="scale the arrays as the sampler does, or leave that row out",
                )
            key = graph, name
            self._seen[key] = max(self._seen.get(key, 0.0), float(sizes.max()))

    def end(self, folder: Path) -> None:
        """Check the totals after the last row. Raises InputError, which names the input, if one was
        always 0.
        """
        for (graph, name), largest in self._seen.items():
            if not largest and self._largest.get(graph, {}).get(name):
                raise InputError(
                    "E-FEEDS",
                    f"{name} of {graph} is 0 in every row, and the sampler's own inputs are not",
                    path=folder / graph,
                    hint="save what the graph is really asked",
                )
