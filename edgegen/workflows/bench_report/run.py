"""Measure bundles and publish the report of their accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import files
from ...core.files import write_bytes
from ...core.progress import Listener, silent
from ...errors import GateFailed, UsageError
from ...evidence.bench_document import FILE, BenchDocument, read_document
from ...evidence.bench_gates import held_to, read_gates
from .candidates import candidates_of, opened_bundles, torch_candidates
from .settings import BenchReportSettings as BenchReportSettings

if TYPE_CHECKING:
    import numpy as np

    from ...evidence.bench_document import Strip
    from .documented import Documenting
    from .zoo import NotMade

PAGE, CSV, MARKDOWN = "index.html", "bench.csv", "bench.md"
SHOWN = 5  # failed gates that the message names


@dataclass(frozen=True)
class BenchReport:
    """Hold all that was measured in `document`, and in `out` the folder of the report, if one was
    written.
    """

    document: BenchDocument
    out: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return the document of `edgegen bench --json` for several bundles or with a report."""
        document = self.document.model_dump()
        del document["schema_version"]
        return {"report": None if self.out is None else str(self.out), **document}


def bench_bundles(
    bundles: Sequence[str | Path],
    out: str | Path | None = None,
    settings: BenchReportSettings | None = None,
    listen: Listener = silent,
) -> BenchReport:
    """Measure bundles on every runtime in INT8 and full precision, from seed to image and on the
    same seeds, and publish the folder `out`, if one is named.

    Raises InputError or TrustError if a folder is not a sound bundle, and RuntimeMissing if nothing
    runs here. Raises GateFailed with the result if a row misses a gate; the report is written even
    then.
    """
    from ...export import RUNTIMES

    settings, target = settings or BenchReportSettings(), None if out is None else Path(out)
    if target is not None:
        files.check_target(target, FILE, settings.overwrite)
    elif settings.overwrite:
        raise UsageError("E-USAGE", "--overwrite has no meaning without --report")
    gates = None if settings.gates is None else read_gates(settings.gates, RUNTIMES)
    documenting = _documenting(bundles, target, settings, listen)
    document = documenting.document()
    if gates is not None:
        there = {one.name for one in document.bundles if one.manifest_sha256 is not None}
        rows = [row for row in document.rows if row.state != "skipped" or row.bundle in there]
        document = document.model_copy(update={"gates": held_to(rows, gates)})
    result = BenchReport(document, target)
    if target is not None:
        _publish(target, document, documenting.pictures, settings.overwrite)
    if failed := document.failed_gates:
        said = "; ".join(f"{g.row}: {g.gate} {g.limit}, {g.found}" for g in failed[:SHOWN])
        error = GateFailed("E-GATE", f"{len(failed)} gates failed: {said}", path=settings.gates)
        error.result = result
        raise error
    return result


def _documenting(
    bundles: Sequence[str | Path],
    out: Path | None,
    settings: BenchReportSettings,
    listen: Listener,
) -> Documenting:
    """Make the bundles that are missing, measure everything and return it ready to document."""
    from ...core.temporary import scratch
    from .documented import Documenting
    from .measured import BenchRun, measured
    from .peer_candidates import peer_candidates

    of_zoo, absent = _of_zoo(settings, out, listen)
    opened = opened_bundles(bundles, settings.public_key, settings.least_release, of_zoo)
    if not opened and not absent:
        raise UsageError("E-USAGE", "there is no bundle to measure")
    candidates = candidates_of(opened, settings.runtimes, settings.trust_engines)
    if settings.torch:
        candidates += torch_candidates(opened)
    with scratch() as folder:
        peers = peer_candidates(opened, candidates, settings, folder, listen)
        every = [*candidates, *peers.candidates]
        found = BenchRun(every, settings, listen, failed=dict(peers.failed))
        if opened:
            measured(found)
        return Documenting(opened, found, absent, peers.versions)


def _of_zoo(
    settings: BenchReportSettings, out: Path | None, listen: Listener
) -> tuple[list[Path], list[NotMade]]:
    if not settings.zoo:
        return [], []
    from .zoo import zoo_bundles

    work = settings.folder_of_zoo(out)
    return zoo_bundles(work, settings.zoo_steps, settings.runtimes, listen)


def _publish(
    out: Path, document: BenchDocument, pictures: Mapping[str, bytes], overwrite: bool
) -> None:
    with files.publish_alone(out, FILE, overwrite) as folder:
        (folder / "pictures").mkdir()
        for name, data in pictures.items():
            files.put(folder / name, data)
        for name, data in _made_of(document, folder).items():
            files.put(folder / name, data)
        files.put(folder / FILE, document.to_bytes())


def remake_report(folder: str | Path) -> Path:
    """Make the page, the charts and the tables of a report anew from its bench.json and pictures,
    and return the path of the page.

    Raises InputError if the folder is not a report or is damaged.
    """
    from ...core.locks import held

    out = Path(folder)
    document = read_document(out)
    with held(out):
        for name, data in _made_of(document, out).items():
            write_bytes(out / name, data)
    return out / PAGE


def _made_of(document: BenchDocument, folder: Path) -> dict[str, bytes]:
    """Return every file that follows from the document and from the pictures in the folder."""
    from ...evidence.bench_page.charts import chart_file
    from ...evidence.bench_page.page import page
    from ...evidence.bench_page.strips import read_strip
    from ...evidence.bench_tables import csv_bytes, markdown_bytes
    from ...evidence.pareto import charts

    strips: list[Strip | None] = [bundle.seeds for bundle in document.bundles]
    for row in document.rows:
        strips += [row.seeds, row.worst]
    pictures: dict[str, np.ndarray] = {
        about.file: read_strip(folder, about) for about in strips if about is not None
    }
    drawn = {
        f"chart-{number}.svg": chart_file(document, chart)
        for number, chart in enumerate(charts(document), 1)
    }
    return {
        **drawn,
        CSV: csv_bytes(document),
        MARKDOWN: markdown_bytes(document),
        PAGE: page(document, pictures),
    }
