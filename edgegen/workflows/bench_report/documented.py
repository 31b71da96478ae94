"""What was measured, as the document and the pictures of a report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from ...core.runtime import NOT_INSTALLED, placement
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
from .candidates import Candidate, OpenedForBench, full_precision_of, held_verdict
from .measured import BenchRun
from .settings import BenchReportSettings

Pictures = dict[str, bytes]


class Documenting:
    """Rows and bundles of one run; `pictures` fills on the way, by file."""

    def __init__(self, opened: Sequence[OpenedForBench], found: BenchRun) -> None:
        self.opened, self.found = opened, found
        self.pictures: Pictures = {}
        # what was made of a candidate is known once its pairs are
        self.quality = {one.name: self._quality(one) for one in found.running}

    def document(self) -> BenchDocument:
        settings = self.found.settings
        made = BenchDocument(
            schema_version=SCHEMA,
            kind="edgegen bench",
            edgegen=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            command=command([one.name for one in self.opened], settings, settings.runtimes),
            machine=machine(),
            versions=self._versions(),
            compared_by=self._kind,
            bundles=[self._bundle(number, one) for number, one in enumerate(self.opened)],
            rows=[self._row(number, one) for number, one in enumerate(self.found.candidates)],
            gates=[],
        )
        return with_speeds(made)

    @property
    def _kind(self) -> Literal["cpu", "wall"]:
        return "cpu" if self.found.kind == "cpu" else "wall"

    def _versions(self) -> dict[str, str]:
        on = measured_on()
        names = dict.fromkeys(one.runtime for one in self.found.candidates)
        return {
            "edgegen": __version__,
            "python": on["python"],
            "numpy": on["numpy"],
            **{name: runtime(name).version() or NOT_INSTALLED for name in names},
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
            source=str(manifest.source.get("name") or one.name)[:300],
            edgegen=manifest.edgegen,
            manifest_sha256=one.bundle.manifest_sha256,
            full_sha256=full_precision_of(one.bundle),
            signed_by=one.bundle.signed_by,
            image=None if full is None else [*full.shape[1:3]],
            reference=reference,
            prompt=self.found.prompts.get(one.name),
            seeds=seeds,
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
        found, target = self.found, runtime(one.runtime)
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
            verdict=None if one.precision == FULL else held_verdict(one.opened.bundle, one.runtime),
            command=command([one.opened.name], found.settings, [one.runtime]),
            seeds=shown[0],
            worst=shown[1],
        )

    def _strips(
        self, number: int, one: Candidate, quality: PairsHere | None
    ) -> Iterator[Strip | None]:
        """Of what is not full precision: the first seeds, and the worst pairs, full precision
        above.
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
        """Within this strip's part of what a page may hold: of each row its seeds, their difference
        and two rows of worst pairs.
        """
        shown = sum(one.shown != FULL for one in self.found.running) or 1
        budget = BUDGET // (shown * 5)
        count, side = fitting(max(rows[0].shape[1:3]), budget, most)
        about, data = strip(name, [images[:count] for images in rows], side)
        self.pictures[about.file] = data
        return about


def machine() -> dict[str, str]:
    """What the figures are of; nothing that tells whose machine it is."""
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


def command(
    names: Sequence[str], settings: BenchReportSettings, runtimes: Sequence[str] | None
) -> str:
    """What measures it again, from the folder that holds the bundles."""
    words = ["edgegen", "bench", *names]
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
    return shlex.join([*words, "--report", "report"])
