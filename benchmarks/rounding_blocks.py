"""What rounding loses is measured where a layer's second moments are kept in blocks of its inputs:
the squared error of layers' outputs over that of nearest rounding, as those moments say it.

    python -m benchmarks rounding_blocks cas-dm lcd [--json FILE]

Layers of WIDE inputs or more, geometric means; the first 32 seeds of the calibration, one thread.
docs/calibration.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from _result import Part, Row, arguments_of, report

from edgegen.calibrate.rounding import blocks, on_grid
from edgegen.core.layers import weight_axis
from edgegen.core.weights import GraphConstants
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import weight_moments
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.generators import load_generator

SEEDS, WIDE = 32, 500
BLOCKS = (1152, 576, 288, 144, 64, 1)


def error(weight: np.ndarray, second: np.ndarray, block: int) -> float:
    """Return the squared error of the output of (out, in) weights on inputs with these second
    moments.
    """
    made = on_grid(weight, [second[part, part] for part in blocks(len(second), block)])
    wrong = made - weight
    return float(np.einsum("ij,jk,ik->", wrong, second, wrong, optimize=True))


def rows(name: str) -> Iterator[Row]:
    """Yield a row for each graph of the zoo's generator."""
    source = load_generator(name)
    models = fp32_models(source)
    feeds = Trajectories(source.generator, SEEDS)
    moments = weight_moments(source.generator.sampler, models, feeds, Context(threads=1))
    for graph, model in models.items():
        weights, found = GraphConstants(model.graph), []
        for node in model.graph.node:
            (second,) = moments[graph].second.get(node.name, [np.zeros((0, 0))])
            if len(second) < WIDE:
                continue
            values = weights[node.input[1]].astype(np.float64)
            weight = np.moveaxis(values, weight_axis(node), 0).reshape(-1, len(second))
            errors = [error(weight, second.astype(np.float64), b) for b in (len(second), *BLOCKS)]
            found.append(np.array(errors) / errors[-1])
        if found:
            means = np.exp(np.log(found).mean(0)).round(3).tolist()
            names = ("all", *map(str, BLOCKS))
            yield {
                "graph": f"{name} {graph}",
                "layers": len(found),
                **dict(zip(names, means, strict=True)),
            }


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    given = parser.parse_args()
    for name in given.names:
        part = Part(list(rows(name)), f"0 to {SEEDS - 1}")
        report(given.json, "rounding_blocks", name, part)


if __name__ == "__main__":
    main()
