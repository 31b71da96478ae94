"""Load one candidate in a process of its own and measure its load time, the time to its first image
and its peak memory. A runtime that crashes ends that process and not the bench.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.reader import Places
from ...errors import EdgegenError
from ...evidence.bench_document import OwnProcess, PeakMemory
from ...machine.resident import peak_bytes

if TYPE_CHECKING:
    from ...core.bundle import Bundle
    from .candidates import Candidate

QUESTION = f"{__name__}:first_images"
LIMIT = 1800  # seconds that loading and the first images may take


@dataclass(frozen=True)
class Asked:
    """Hold what the child process needs to know, as values that JSON can carry."""

    place: str
    runtime: str
    precision: str
    threads: int
    batches: Sequence[int]
    public_key: Sequence[str]
    least_release: int | None
    trust_engines: bool
    made: Sequence[Any] = ()  # for a peer's INT8: its folder, and the files by graph


def keys_of(places: Places) -> list[str]:
    """Return the paths of the key files as absolute, so that another process finds them."""
    if places is None:
        return []
    many = [places] if isinstance(places, str | Path) else places
    return [str(Path(place).resolve()) for place in many]


def in_own_process(asked: Asked) -> OwnProcess | str:
    """Return what the child process measured, or a sentence that says why it failed."""
    from ...machine.child_process import ask

    answer = ask(QUESTION, json.dumps(vars(asked)), limit=LIMIT)
    if answer.found is None:
        return answer.why
    if "failed" in answer.found:
        return str(answer.found["failed"])
    return OwnProcess.model_validate(answer.found)


def first_images(_: Path, words: str) -> dict[str, Any]:
    """Answer in the child process: an OwnProcess as JSON, or {"failed": reason}."""
    asked = Asked(**json.loads(words))
    try:
        return _first_images(asked).model_dump()
    except EdgegenError as error:
        return {"failed": said_by(error)}


def _first_images(asked: Asked) -> OwnProcess:
    from ...core.seeds import BENCH_PAIRS
    from ...evidence.image_latency import Clock, ImageMaker
    from ..bundles import precision_of, read_bundle
    from .candidates import Candidate, OpenedForBench
    from .peers import MadeByPeer

    bundle = read_bundle(asked.place, list(asked.public_key) or None, asked.least_release)
    precision = precision_of(asked.precision)
    opened = OpenedForBench("", Path(asked.place), bundle)
    made = MadeByPeer(Path(asked.made[0]), asked.made[1]) if asked.made else None
    one = Candidate(opened, asked.runtime, precision, made=made)
    _admit(one, bundle)  # this check is done first so that it is not part of the load time
    clock = Clock()
    wall = clock.wall()
    pipeline = one.pipeline(asked.threads, max(asked.batches), asked.trust_engines)
    load = clock.wall() - wall
    maker, peak, spent = ImageMaker(pipeline), [], [0.0, 0.0]
    for number, batch in enumerate(asked.batches):
        cpu, wall = clock.cpu(), clock.wall()
        maker(BENCH_PAIRS.take(batch))
        if not number:
            spent = [clock.cpu() - cpu, clock.wall() - wall]
        peak.append(PeakMemory(batch=batch, bytes=peak_bytes()))
    return OwnProcess(
        load_ms=1e3 * load, first_cpu_ms=1e3 * spent[0], first_wall_ms=1e3 * spent[1], peak=peak
    )


def _admit(one: Candidate, bundle: Bundle) -> None:
    """Check that the files which the candidate loads may be loaded."""
    from .in_torch import TorchProgram

    target = one.target
    if isinstance(target, TorchProgram):
        return
    if one.made is not None:
        one.made.admitted(bundle, target)
    elif not bundle.built_here(target, one.precision):
        of_int8 = one.precision == "int8"
        names = bundle.built(target.name).load if of_int8 else bundle.manifest.graphs
        bundle.admitted(target, names)


def said_by(error: Exception) -> str:
    """Return the code and message of an error without its path, because a report goes to others."""
    if isinstance(error, EdgegenError):
        return f"{error.code}: {error.message}"
    return " ".join(str(error).split())[:500] or type(error).__name__
