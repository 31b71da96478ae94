"""One trained generator's student in 1, 2 and 4 steps is compared with its teacher in 50 and in 1,
from the same seeds and labels.

    python -m benchmarks lcd SOURCE --data ~/.cache/edgegen/fashion-mnist [--samples 10000]
        [--threads 1] [--json FILE]

SOURCE is a zoo name or a run folder with reference statistics of held-out photos. FD over the
reference's own features, projected and corrected for the number of samples, 95 % interval; KID over
all features against the test photos in --data. The goals are docs/methods/latent-consistency.md,
E.3 test 11 (FD of 4, 2 and 1 steps in that order with 5 % slack, one step at most 0.7 of the
teacher's one) and the zoo's (4 steps at most 1.25 times the teacher's 50, 1 step at most 2 times).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _measure import columns
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.images import to_uint8
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.distances import kernel_distance
from edgegen.evidence.intervals import distance_interval
from edgegen.training.data import load
from edgegen.workflows.export.judges import judge_of
from edgegen.workflows.generators import load_generator, torch_pipeline
from edgegen.workflows.sampling_choices import SamplingChoices, chosen

WAYS = (("teacher", 50), ("teacher", 1), ("student", 1), ("student", 2), ("student", 4))


def measure(source: str, data: Path, count: int, threads: int) -> Part:
    """Measure FD and KID of each way, with what they were measured on."""
    made = load_generator(source)
    stored = reference.read(made.reference)
    network = judge_of(stored, None)
    photos, _ = load(data, made.generator.image_shape[1], split="test")
    real, seeds = network(photos.pixels), range(EVIDENCE.first, EVIDENCE.first + count)

    def rows() -> Iterator[Row]:
        for way, steps in WAYS:
            generator, given = chosen(made, SamplingChoices(steps=steps, way=way))
            pipeline, start = torch_pipeline(generator, given), time.perf_counter()
            features = network(to_uint8(pipeline(seeds)))
            yield {
                "way": way,
                "steps": steps,
                **columns("FD", distance_interval(stored.moments, stored.project(features))),
                "KID": kernel_distance(real, features),
                "seconds": time.perf_counter() - start,
            }

    found = followed(rows())
    said = verdicts(found)
    print("\n".join(said))
    about = {
        "source": made.about,
        "reference": str(stored),
        "samples": count,
        "photos": len(photos),
        "verdicts": said,
    }
    words = f"{seeds[0]} to {seeds[-1]}, label seed modulo classes"
    return Part(found, words, threads, about)


def verdicts(rows: list[Row]) -> list[str]:
    """Return the goals in words, each met or missed, with its ratio."""
    fd = {(row["way"], row["steps"]): row["FD"] for row in rows}
    teacher, blurred = fd["teacher", 50], fd["teacher", 1]
    one, two, four = (fd["student", steps] for steps in (1, 2, 4))
    goals = [
        ("student 4 steps / teacher 50", four / teacher, 1.25),
        ("student 1 step / teacher 50", one / teacher, 2.0),
        ("student 4 / 2", four / two, 1.05),
        ("student 2 / 1", two / one, 1.05),
        ("student 1 / teacher 1", one / blurred, 0.7),
    ]
    return [
        f"{name}: {ratio:.2f}, at most {limit}: {'met' if ratio <= limit else 'NOT met'}"
        for name, ratio, limit in goals
    ]


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("source")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    part = measure(given.source, given.data, given.samples, given.threads)
    report(given.json, "lcd", Path(given.source).name, part)


if __name__ == "__main__":
    main()
