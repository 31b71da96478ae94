"""What explaining the zoo's generators costs is measured, in CPU seconds, and how far it is true.

    python -m benchmarks explain gated
        primitives: all four families, their middle layers, 3x3 regions
    python -m benchmarks explain optimised isc-gan
        512 demands
    python -m benchmarks explain damage
        does what is said of each layer's INT8 agree with putting it back?

docs/explain.md has what was found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import torch
from _result import Part, arguments_of, followed, report

from edgegen.core.seeds import DAMAGE_MAP
from edgegen.explain.agreement import Check, by_region, decibels
from edgegen.explain.regions import regions
from edgegen.export import runtime
from edgegen.families import FAMILIES
from edgegen.machine.resident import peak_bytes
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import calibrated
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.export.quantized import Quantized
from edgegen.workflows.generators import load_generator

# the layer with maps of 8x8; the others use "mid"
LAYERS = {"isc-gan": "synthesis.blocks.1"}
SEEDS = 32


def primitives(family: str, demands: str) -> dict[str, Any]:
    """Measure one report of seed 7, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        before, out = getrusage(RUSAGE_CHILDREN), Path(folder) / "out"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "edgegen",
                "explain",
                family,
                "--seed",
                "7",
                "--layer",
                LAYERS.get(family, "mid"),
                "--demands",
                demands,
                "--baseline",
                "1000",
                "--threads",
                "1",
                "-o",
                str(out),
            ],
            check=True,
        )
        after = getrusage(RUSAGE_CHILDREN)
        report = json.loads((out / "report.json").read_text())
    kept = {
        name: report[name]
        for name in report
        if name.startswith(("Sparsity", "Additivity", "PSNR", "found"))
    }
    return {
        "cpu seconds": after.ru_utime - before.ru_utime,
        "peak MB": after.ru_maxrss / 1024,
        **kept,
    }


def damage(family: str, name: str) -> dict[str, Any]:
    """Measure a damage map of a plan that keeps only each graph's ends in full precision, with
    which a search begins; 2x2 regions.
    """
    torch.set_num_threads(1)
    source, seeds = load_generator(family), DAMAGE_MAP.take(SEEDS)
    models = fp32_models(source)
    calibration = calibrated(source, models, 128, Context())
    even, plan = calibration.models, calibration.plan
    made = Quantized(source, even, plan, runtime(name), 1)
    masks = regions("2x2", *source.generator.image_shape[1:]).masks
    full = hosted(models, source.generator, 1)(seeds)
    int8 = hosted({g: made.file(g, plan) for g in even}, source.generator, 1, made.host)
    square = by_region(int8(seeds) - full, masks)
    start = time.process_time()
    layers, found = made.attributed(masks, seeds, None)
    between = time.process_time()
    check = Check(found.parts.sum(1), made.removed(layers, int8, full, masks, seeds, None))
    return {
        "runtime": name,
        "layers": len(layers),
        "psnr_db": decibels(float(square.sum()), full.size),
        "predicted_psnr_db": decibels(float(found.whole.sum()), full.size),
        **check.to_json(),
        "cpu seconds to attribute": between - start,
        "cpu seconds to put back": time.process_time() - between,
        "peak MB": peak_bytes() / 2**20,
    }


def main() -> None:
    parser = arguments_of(__doc__)
    kinds = ("gated", "optimised", "damage")
    parser.add_argument("what", choices=kinds, nargs="?", default=kinds[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    given = parser.parse_args()
    is_damage = given.what == "damage"
    rows = followed(
        {
            "family": family,
            **(damage(family, "onnxruntime") if is_damage else primitives(family, given.what)),
        }
        for family in given.families or tuple(FAMILIES)
    )
    seeds = f"{SEEDS} from {DAMAGE_MAP.first:,} on" if is_damage else "7"
    report(given.json, "explain", given.what, Part(rows, seeds))


if __name__ == "__main__":
    main()
