"""What primitives of the zoo's generators cost and how far they are true: a JSON line each, with CPU seconds and the numbers.

    python benchmarks/explain.py gated                 # all four families, their middle layers, 3x3 regions
    python benchmarks/explain.py optimised isc-gan     # 512 demands; docs/explain.md has what was measured
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from edgegen.families import FAMILIES

LAYERS = {"isc-gan": "synthesis.blocks.1"}  # 8x8, where the specification starts; the others' are "mid"


def measured(family: str, demands: str) -> dict[str, object]:
    """One report of seed 7, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        before, out = getrusage(RUSAGE_CHILDREN), Path(folder) / "out"
        subprocess.run([sys.executable, "-m", "edgegen", "explain", family, "--seed", "7", "--layer", LAYERS.get(family, "mid"),
                        "--demands", demands, "--baseline", "1000", "--threads", "1", "-o", str(out)], check=True)
        after = getrusage(RUSAGE_CHILDREN)
        report = json.loads((out / "report.json").read_text())
    kept = {name: report[name] for name in report if name.startswith(("Sparsity", "Additivity", "PSNR", "found"))}
    return {"family": family, "cpu seconds": after.ru_utime - before.ru_utime, "peak MB": after.ru_maxrss / 1024, **kept}


def main(demands: str = "gated", *families: str) -> None:
    for family in families or tuple(FAMILIES):
        print(json.dumps(measured(family, demands)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
