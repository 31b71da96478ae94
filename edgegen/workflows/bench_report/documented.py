"""Turn the measurements of a bench into the document and the pictures of its report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...core.runtime import NOT_INSTALLED, placement
from ...core.samplers import sampler_from_json
from ...core.seeds import BENCH_PAIRS
from ...evidence.bench_document import (
    FULL,
    REFERENCE,
    SCHEMA,
    BenchDocument,
    BenchedBundle,
    BenchRow,
    PairsHere,
    Strip,
)
from ...evidence.bench_page.strips import BUDGET, MOST, fitting, strip
from ...evidence.bench_rows import latency_of, state_and_why, with_speeds
from ...evidence.classes import class_names
from ...evidence.paired_quality import SHOWN, PairLimits, PairSides, pairs_here
from ...export import runtime
from ...machine.describe import measured_on
from ...version import __version__
from .candidates import Candidate, OpenedForBench, full_precision_of, has_int8, held_verdict
from .measured import BenchRun
from .settings import BenchReportSettings

if TYPE_CHECKING:
    from .zoo import NotMade

Pictures = dict[str, bytes]


class Documenting:
    """Build the document of one run; `pictures` (file name to bytes) fills as it is built.

    `absent` lists the bundles that could not be made, `peers` the versions of the other toolkits.
    """

    def __init__(
        self,
        opened: Sequence[OpenedForBench],
        found: BenchRun,
        absent: Sequence[NotMade] = (),
        peers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.opened, self.found, self.absent, self.peers = opened, found, absent, peers
        self.pictures: Pictures = {}
        # the document reads the quality of a candidate several times
        self.quality = {one.name: self._quality(one) for one in found.running}

    def document(self) -> BenchDocument:
        settings = self.found.settings
        given = [one.name for one in self.opened if not one.of_zoo]
        bundles = [self._bundle(number, one) for number, one in enumerate(self.opened)]
        bundles = in_order([*bundles, *map(absent_bundle, self.absent)])
        rows = [self._row(number, one) for number, one in enumerate(self.found.candidates)]
        rows += [row for one in self.absent for row in absent_rows(one)]
        place = {one.name: number for number, one in enumerate(bundles)}
        made = BenchDocument(
            schema_version=SCHEMA,
            kind="edgegen bench",
            edgegen=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=command(given, settings, settings.runtimes, settings.zoo),
            machine={**machine(), **self.found.machine},
            versions=self._versions(),
            compared_by=self._kind,
            bundles=bundles,
            rows=sorted(rows, key=lambda row: place[row.bundle]),
            gates=[],
        )
        return with_speeds(made)

    @property
    def _kind(self) -> Literal["cpu", "wall"]:
        return "cpu" if self.found.kind == "cpu" else "wall"

    def _versions(self) -> dict[str, str]:
        on = measured_on()
        targets = {one.runtime: one.target for one in self.found.candidates}
        return {
            "edgegen": __version__,
            "python": on["python"],
            "numpy": on["numpy"],
            **{name: one.version() or NOT_INSTALLED for name, one in targets.items()},
            **self.peers,
        }

    def _bundle(self, number: int, one: OpenedForBench) -> BenchedBundle:
        manifest, reference = one.bundle.manifest, self.found.reference(one.name)
        full = self.found.images.get(reference or "")
        seeds = None
        if full is not None:
            seeds = self._strip(f"bundle-{number}", [full], MOST)
        return BenchedBundle(
            name=one.name,
            family=manifest.family,
            source=one.source,
            edgegen=manifest.edgegen,
            manifest_sha256=one.bundle.manifest_sha256,
            full_sha256=full_precision_of(one.bundle),
            signed_by=one.bundle.signed_by,
            image=None if full is None else [*full.shape[1:3]],
            reference=reference,
            prompt=self.found.prompts.get(one.name),
            seeds=seeds,
            steps=len(sampler_from_json(manifest.sampler).timesteps),
        )

    def _quality(self, one: Candidate) -> PairsHere | None:
        settings, bundle = self.found.settings, one.opened.bundle
        reference = self.found.reference(one.opened.name)
        if reference is None or one.name not in self.found.images:
            return None
        against = next(c.label for c in self.found.candidates if c.name == reference)
        first = BENCH_PAIRS.first
        sides = PairSides(
            against,
            first,
            self.found.images[reference],
            self.found.images[one.name],
            class_names(bundle.manifest.source, bundle.latent, first),
        )
        return pairs_here(sides, PairLimits(settings.min_psnr_db, settings.max_ruined))

    def _row(self, number: int, one: Candidate) -> BenchRow:
        found, target = self.found, one.target
        is_running = one.name not in found.failed and not one.why
        is_reference = found.reference(one.opened.name) == one.name
        quality = self.quality.get(one.name)
        state, why = state_and_why(quality, one.shown == FULL)
        if not is_running:
            state, why = ("skipped", one.why) if one.why else ("failed", found.failed[one.name])
        elif is_reference:
            why = REFERENCE
        pipeline = found.pipelines.get(one.name)
        shown = list(self._strips(number, one, quality)) if is_running else [None, None]
        return BenchRow(
            bundle=one.opened.name,
            runtime=one.runtime,
            precision=one.shown,
            state=state,
            why=why[:4000],
            version=target.version() or NOT_INSTALLED,
            device=target.device() or "unknown",
            placement={} if pipeline is None else placement(pipeline.call),
            latency=[
                latency_of(samples[one.name], batch, found.settings.threads, self._kind)
                for batch, samples in found.samples.items()
                if is_running and one.name in samples
            ],
            own=found.own.get(one.name),
            quality=quality if is_running else None,
            verdict=(
                None
                if one.precision == FULL or one.peer
                else held_verdict(one.opened.bundle, one.runtime)
            ),
            command=command([one.opened.name], found.settings, [one.runtime]),
            energy=found.energy.get(one.name) if is_running else None,
            peer=one.peer or None,
            seeds=shown[0],
            worst=shown[1],
        )

    def _strips(
        self, number: int, one: Candidate, quality: PairsHere | None
    ) -> Iterator[Strip | None]:
        """Yield the strips of a candidate that is not full precision: its first seeds, then its
        worst pairs below the images of full precision. Yield None twice for any other.
        """
        reference = self.found.reference(one.opened.name)
        if one.shown == FULL or quality is None or reference is None:
            yield from (None, None)
            return
        own, full = self.found.images[one.name], self.found.images[reference]
        yield self._strip(f"row-{number}", [own], MOST)
        order = [pair.seed - quality.first_seed for pair in quality.worst_pairs]
        yield self._strip(f"worst-{number}", [full[order], own[order]], SHOWN)

    def _strip(self, name: str, rows: list[np.ndarray], most: int) -> Strip:
        """Make one picture, small enough that all of a page stay within BUDGET.

        The budget is divided among the candidates that are shown, five rows of images for each: its
        seeds, their difference and the pairs that came out worst.
        """
        shown = sum(one.shown != FULL for one in self.found.running) or 1
        budget = BUDGET // (shown * 5)
        count, side = fitting(max(rows[0].shape[1:3]), budget, most)
        about, data = strip(name, [images[:count] for images in rows], side)
        self.pictures[about.file] = data
        return about


def machine() -> dict[str, str]:
    """Return the facts about the hardware that the figures depend on, but nothing that identifies
    the machine.
    """
    on = measured_on()
    pages = os.sysconf("SC_PAGE_SIZE")
    found: Mapping[str, object] = {
        "cpu": on["cpu"],
        "flags": ", ".join(on["flags"]),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{pages * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f} processes wanted to run at the end",
        "system": on["system"],
    }
    return {name: str(value) or "-" for name, value in found.items()}


def in_order(bundles: Sequence[BenchedBundle]) -> list[BenchedBundle]:
    """Return the bundles with those of one generator together, ordered by their number of steps."""
    sources = list(dict.fromkeys(one.source for one in bundles))
    return sorted(bundles, key=lambda one: (sources.index(one.source), one.steps or 0))


def absent_bundle(one: NotMade) -> BenchedBundle:
    return BenchedBundle(
        name=one.name,
        family=one.family,
        source=one.source,
        edgegen=__version__,
        manifest_sha256=None,
        full_sha256=None,
        signed_by=None,
        image=None,
        reference=None,
        prompt=None,
        seeds=None,
        steps=one.steps,
    )


def absent_rows(one: NotMade) -> Iterator[BenchRow]:
    """Yield one row for each runtime that the missing bundle was meant for."""
    for name in one.runtimes:
        target = runtime(name)
        yield BenchRow(
            bundle=one.name,
            runtime=name,
            precision="int8" if has_int8(name) else "fp16",
            state=one.state,
            why=one.why,
            version=target.version() or NOT_INSTALLED,
            device=target.device() or "unknown",
            placement={},
            latency=[],
            own=None,
            quality=None,
            verdict=None,
            command="",
            seeds=None,
            worst=None,
        )


def command(
    names: Sequence[str],
    settings: BenchReportSettings,
    runtimes: Sequence[str] | None,
    with_zoo: bool = False,
) -> str:
    """Return the command that repeats the measurement from the folder that holds the bundles."""
    words = ["edgegen", "bench", *names]
    if with_zoo:
        words += ["--zoo"]
        steps = ",".join(map(str, settings.zoo_steps or ()))
        words += ["--steps", steps] if steps else []
    if runtimes is not None:
        words += ["--runtime", ",".join(runtimes)]
    usual = BenchReportSettings()
    for flag, own, other in (
        ("--batch", settings.batch, usual.batch),
        ("--rounds", settings.rounds, usual.rounds),
        ("--threads", settings.threads, usual.threads),
        ("--pairs", settings.pairs, usual.pairs),
        ("--min-psnr", settings.min_psnr_db, usual.min_psnr_db),
        ("--max-ruined", settings.max_ruined, usual.max_ruined),
    ):
        words += [flag, f"{own:.10g}"] if own != other else []
    words += ["--trust-engines"] if settings.trust_engines else []
    words += ["--torch"] if settings.torch else []
    for name, python in settings.peers.items():
        words += ["--peer", f"{name}=PYTHON" if python else name]
    return shlex.join([*words, "--report", "report"])
