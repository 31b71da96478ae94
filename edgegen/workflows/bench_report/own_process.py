"""One candidate in a process of its own: how long it takes to load, how long until the first image,
and how much memory it needs. A runtime that crashes ends that process and not the bench.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.reader import Places, read_bytes
from ...errors import EdgegenError
from ...evidence.bench_document import OwnProcess, PeakMemory

if TYPE_CHECKING:
    from ...core.bundle import Bundle
    from .candidates import Candidate

QUESTION = f"{__name__}:first_images"
LIMIT = 1800  # seconds that loading and the first images may take
_PEAK = "VmHWM:"


@dataclass(frozen=True)
class Asked:
    """What a process needs to know, in words that JSON has."""

    place: str
    runtime: str
    precision: str
    threads: int
    batches: Sequence[int]
    public_key: Sequence[str]
    least_release: int | None
    trust_engines: bool
    made: Sequence[Any] = ()  # by a peer: the folder, and the files by graph


def keys_of(places: Places) -> list[str]:
    """Names of key files as another process finds them."""
    if places is None:
        return []
    many = [places] if isinstance(places, str | Path) else places
    return [str(Path(place).resolve()) for place in many]


def in_own_process(asked: Asked) -> OwnProcess | str:
    """What it found, or why it failed, in its own words."""
    from ...machine.child_process import ask

    answer = ask(QUESTION, json.dumps(vars(asked)), limit=LIMIT)
    if answer.found is None:
        return answer.why
    if "failed" in answer.found:
        return str(answer.found["failed"])
    return OwnProcess.model_validate(answer.found)


def first_images(_: Path, words: str) -> dict[str, Any]:
    """In the child: OwnProcess as JSON, or "failed" with the reason."""
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
    _admit(one, bundle)  # whether it may be loaded is not what is timed
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
    """What of a bundle's files is loaded, if any of them is."""
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


def peak_bytes() -> int:
    """The most memory that this process has had in use. Not ru_maxrss, where the kernel says it
    itself: that one keeps the peak of whoever started the process.
    """
    try:
        lines = read_bytes(Path("/proc/self/status"), 1 << 16).decode().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(_PEAK)) << 10
    except (EdgegenError, StopIteration, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def said_by(error: Exception) -> str:
    """Code and words of an error, without the place: a report goes to others."""
    if isinstance(error, EdgegenError):
        return f"{error.code}: {error.message}"
    return " ".join(str(error).split())[:500] or type(error).__name__
