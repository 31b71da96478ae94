"""Generators of other programs are held to the programs they come from, part by part.

    python -m benchmarks bring samplers|graphs|lora|size|models|plans|device ... [--folder FOLDER]
        [--models MODELS] [--work WORK] [--nncf PYTHON] [--json docs/results/bring.json]

samplers: each against diffusers' own pipeline, with the folder's networks and replayed noise.
graphs: the folder's ONNX files against torch. lora: three naming schemes against fuse_lora. size: a
folder of Stable Diffusion 1.5's shape to ONNX, peak memory and time. models: the three real models
exported for each runtime, beside other toolkits' INT8 of the same graphs, feeds and seeds. plans:
which convolutions of the terrain model bear INT8, by plans made by hand. device: prompts to images
in an empty environment with one runtime. Parts that are named are measured anew and written into
the JSON file, where the others stay as they are.

--folder: a text-to-image folder, tests/data/emoji unless told. --models: what
`scripts/real_models.py MODELS` makes. --work: bundles that were exported stay here, and are not
exported again. --nncf: a Python that has nncf and openvino.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import _bring_exact
import _bring_models
import _bring_plans
import _bring_size
from _result import Part, Row, arguments_of, report

ROOT = Path(__file__).resolve().parents[1]
SEEDS = "replayed noise; plans: the first of the benchmarks' range; verdicts: the export's own"
PARTS: Mapping[str, Callable[[argparse.Namespace], Sequence[Row]]] = {
    "samplers": lambda given: _bring_exact.samplers(given.folder),
    "graphs": lambda given: _bring_exact.graphs(given.folder),
    "lora": lambda given: _bring_exact.lora(given.folder),
    "size": lambda given: _bring_size.size(given.shape),
    "models": lambda given: _bring_models.models(
        _bring_models.Subjects(given.folder, given.models, given.work, given.nncf, given.only),
        _bring_models.Effort(
            given.max_images, given.samples, given.feeds, given.time, given.max_ruined
        ),
    ),
    "plans": lambda given: list(_bring_plans.plans(given.models / "terrain")),
    "device": lambda given: _bring_models.device(given.bundle or given.work / "emoji-onnxruntime"),
}


def by_model(part: str, rows: Sequence[Row]) -> Mapping[str, Sequence[Row]]:
    """Make each model a part of its own, because another command may have measured it."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{part}, {row['model']}" if "model" in row else part, []).append(row)
    return found


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--folder", type=Path, default=ROOT / "tests" / "data" / "emoji")
    parser.add_argument("--models", type=Path, default=Path("out/real-models"))
    parser.add_argument("--work", type=Path, default=Path("out/bring"))
    parser.add_argument("--bundle", type=Path, help="of the part `device`, in place of the work's")
    parser.add_argument("--shape", type=Path, help="of the part `size`, in place of a made folder")
    parser.add_argument("--nncf", help="Python that has nncf and openvino")
    parser.add_argument("--only", help="of the real models, by name")
    parser.add_argument("--max-images", type=int, default=1000, help="of the exports' verdicts")
    parser.add_argument("--samples", type=int, default=256, help="pairs that peers are judged on")
    parser.add_argument("--feeds", type=int, default=32, help="seeds that peers calibrate on")
    parser.add_argument("--time", help="that each export may take, such as 15m")
    parser.add_argument("--max-ruined", type=float, default=0.002, help="share that passes")
    given = parser.parse_args()
    given.json = given.json or ROOT / "docs" / "results" / "bring.json"
    for part in given.parts:
        rows = PARTS[part](given)
        for name, some in by_model(part, rows).items():
            report(given.json, "bring", name, Part(some, SEEDS))


if __name__ == "__main__":
    main()
