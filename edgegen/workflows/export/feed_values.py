"""Whether calibration inputs from files could be the sampler's own: one value that is none of them
stretches a range so far that everything else rounds to a few levels.
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

SEEDS = 8  # whose trajectories say what inputs are like
FAR = 10.0  # times the largest value of these: no input of this generator


class FeedValues:
    """What is seen of the inputs of all graphs while their files are read, once."""

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
        """At rows from `first` on; InputError names an input with a value that is far off."""
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
        """After the last row: InputError names an input that was 0 throughout."""
        for (graph, name), largest in self._seen.items():
            if not largest and self._largest.get(graph, {}).get(name):
                raise InputError(
                    "E-FEEDS",
                    f"{name} of {graph} is 0 in every row, and the sampler's own inputs are not",
                    path=folder / graph,
                    hint="save what the graph is really asked",
                )
