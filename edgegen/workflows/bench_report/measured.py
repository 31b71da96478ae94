"""Measure all candidates in one run: each alone in a process, then all in turn, then pairs of
images from the same seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.images import to_uint8
from ...core.progress import Listener
from ...core.runtime import Pipeline
from ...core.seeds import BENCH_PAIRS
from ...errors import EdgegenError, RuntimeMissing
from ...evidence.bench_document import FULL, EnergyFound, OwnProcess
from ...evidence.image_latency import ImageMaker, ImageSample, image_times
from ...machine.energy import Meter, gpu_meter, gpu_state, processor_meter
from ...machine.pinning import pinned
from ..prompts import encoders_of
from .candidates import Candidate, OpenedForBench
from .own_process import Asked, in_own_process, keys_of, said_by

if TYPE_CHECKING:
    from ...core.latent import Latent
    from .settings import BenchReportSettings

CPU = "CPU"  # the device that a runtime on the CPU names
METERED = 2.0  # seconds during which the energy of one candidate is metered


@dataclass
class BenchRun:
    """Collect what is known so far of each candidate, by its name; `failed` says why one is
    measured no further.
    """

    candidates: Sequence[Candidate]
    settings: BenchReportSettings
    listen: Listener
    failed: dict[str, str] = field(default_factory=dict)
    own: dict[str, OwnProcess] = field(default_factory=dict)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    samples: dict[int, Mapping[str, Sequence[ImageSample]]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)  # (n, h, w, 3) uint8
    # bundle name to the prompt that its encoder was timed with
    prompts: dict[str, str] = field(default_factory=dict)
    energy: dict[str, EnergyFound] = field(default_factory=dict)
    # facts about the machine that the measurement itself found
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def running(self) -> list[Candidate]:
        """Return the candidates that are neither skipped nor failed."""
        return [one for one in self.candidates if not one.why and one.name not in self.failed]

    @property
    def kind(self) -> str:
        """Return the clock that rows are compared by: "cpu" if one CPU thread does all the work,
        else "wall".
        """
        on_cpu = all(one.target.device() == CPU for one in self.running)
        return "cpu" if on_cpu and self.settings.threads == 1 else "wall"

    def reference(self, bundle: str) -> str | None:
        """Return the name of the candidate that the others of a bundle are compared with: its first
        in full precision that made images, or None.
        """
        return next(
            (
                one.name
                for one in self.running
                if one.opened.name == bundle and one.shown == FULL and one.name in self.images
            ),
            None,
        )

    def attempt(self, one: Candidate, work: Callable[[], object]) -> None:
        """Run `work` for a candidate; if it raises, record the reason in `failed` and go on."""
        try:
            work()
        except Exception as error:  # runtimes raise errors of any class
            self.failed[one.name] = said_by(error)


def measured(found: BenchRun) -> None:
    """Measure everything about the candidates and write it into `found`.

    Raises RuntimeMissing if all candidates are skipped.
    """
    if not found.running:
        reasons = "; ".join(f"{one.label}: {one.why}" for one in found.candidates)
        raise RuntimeMissing("E-BACKEND", reasons or "there is nothing to measure")
    with pinned(found.settings.threads) as where:
        found.machine["threads"] = f"{found.settings.threads}, {where}"
        _in_own_processes(found)
        _load(found)
        on_gpu = any(one.target.device() != CPU for one in found.running)
        found.machine |= {"GPU before": gpu_state()} if on_gpu else {}
        _time(found)
        found.machine |= {"GPU after": gpu_state()} if on_gpu else {}
        _meter(found)
        # inside the pinning, because OpenVINO leaves its thread on the cores that it began on
        _make_pairs(found)


def _in_own_processes(found: BenchRun) -> None:
    settings, running = found.settings, found.running
    with found.listen.progress(
        "loading each candidate in its own process", len(running)
    ) as advance:
        for one in running:
            asked = Asked(
                str(one.opened.place.resolve()),
                one.runtime,
                one.precision,
                settings.threads,
                settings.batches,
                keys_of(settings.public_key),
                settings.least_release,
                settings.trust_engines,
                () if one.made is None else (str(one.made.folder), dict(one.made.files)),
            )
            answer = in_own_process(asked)
            if isinstance(answer, str):
                found.failed[one.name] = answer
            else:
                found.own[one.name] = answer
            advance(1)


def _load(found: BenchRun) -> None:
    settings = found.settings
    most = max(settings.batches)

    def load(one: Candidate) -> None:
        found.pipelines[one.name] = one.pipeline(settings.threads, most, settings.trust_engines)

    for one in found.running:
        found.attempt(one, lambda one=one: load(one))  # type: ignore[misc]


def _time(found: BenchRun) -> None:
    """Time each batch size by itself, the smallest first, with all candidates of all bundles in
    turn.
    """
    settings = found.settings
    encoders = {one.opened.name: _encoder(found, one.opened) for one in found.running}
    for batch in settings.batches:
        makers = {
            one.name: ImageMaker(found.pipelines[one.name], encoders[one.opened.name])
            for one in found.running
        }
        with found.listen.progress(f"timing, batch {batch}", settings.rounds + 1) as advance:
            done = image_times(makers, BENCH_PAIRS.take(batch), settings.rounds, advance=advance)
        found.failed |= done.failed
        found.samples[batch] = done.samples


def _meter(found: BenchRun) -> None:
    """Meter the joules of an image, each candidate alone for METERED seconds. If there is no meter,
    `found.machine` holds the reason.
    """
    batch = max(found.settings.batches)
    seeds = BENCH_PAIRS.take(batch)
    for kind, meter in (("CPU", processor_meter()), ("GPU", gpu_meter())):
        found.machine[f"energy of the {kind}"] = meter if isinstance(meter, str) else meter.name
        if isinstance(meter, str):
            continue
        for one in found.running:
            if (one.target.device() == CPU) == (kind == CPU):
                found.energy[one.name] = metered(meter, found.pipelines[one.name], seeds)


def metered(meter: Meter, pipeline: Pipeline, seeds: Sequence[int]) -> EnergyFound:
    """Return the energy of an image, measured over as many batches as fit METERED seconds, at least
    one.
    """
    images, begin = 0, time.perf_counter()
    meter.start()
    while not images or time.perf_counter() - begin < METERED:
        to_uint8(pipeline(seeds))
        images += len(seeds)
    joules, seconds = meter.joules(), time.perf_counter() - begin
    return EnergyFound(
        meter=meter.name, joules_an_image=joules / images, watts=joules / seconds, images=images
    )


def _encoder(found: BenchRun, opened: OpenedForBench) -> Callable[[], Latent] | None:
    """Return a call that takes the bundle's first prompt through its text encoder.

    Returns None if the bundle has no encoder, or if the encoder cannot run here, which the listener
    is told.
    """
    bundle = opened.bundle
    bank, made = bundle.latent.prompts, encoders_of(bundle, found.settings.threads)
    if bank is None or made is None:
        return None
    try:
        encoder = made()
    except EdgegenError as error:
        found.listen.note(f"{opened.name}: its text encoder is not timed: {error.message}")
        return None
    text, latent = bank.texts[0], bundle.latent
    found.prompts[opened.name] = text

    def encode() -> Latent:
        rows = {name: row[None] for name, row in encoder(text).embeddings.items()}
        shown = replace(bank, texts=(text,), embeddings={**bank.embeddings, **rows})
        return latent.showing(shown)

    return encode


def _make_pairs(found: BenchRun) -> None:
    """Make images of the same seeds on every candidate, in batches of the largest size that was
    timed.
    """
    settings = found.settings
    seeds, batch = BENCH_PAIRS.take(settings.pairs), max(settings.batches)

    def make(one: Candidate) -> None:
        pipeline = found.pipelines[one.name]
        parts = []
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            parts.append(to_uint8(pipeline(part)))
            advance(len(part))
        found.images[one.name] = np.concatenate(parts)

    total = len(found.running) * len(seeds)
    with found.listen.progress("making pairs of equal seeds", total, "images") as advance:
        for one in found.running:
            found.attempt(one, lambda one=one: make(one))  # type: ignore[misc]
