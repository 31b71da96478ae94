"""Write the rows of a bench as CSV, and as Markdown for a pull request. It needs numpy only."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from ..core.counting import counted
from ..errors import escaped
from .bench_document import REFERENCE, BenchDocument, BenchRow, HeldVerdict
from .bench_peers import peers_in_words
from .pareto import charts, in_words

Cells = Mapping[str, object]
# characters that Markdown or a spreadsheet would interpret
MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~"})
UNSIGNED = "unsigned: as its maker says"
FORMULA = ("=", "+", "-", "@")


def csv_bytes(document: BenchDocument) -> bytes:
    """Return CSV with one line for each row, with the numbers as in bench.json."""
    lines = [_line(document, row) for row in document.rows]
    columns = dict.fromkeys(name for line in lines for name in line)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return out.getvalue().encode()


def _cell(value: object) -> object:
    """Return the value of a CSV cell; a text that a spreadsheet would take for a formula gets a
    quote before it.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _line(document: BenchDocument, row: BenchRow) -> Cells:
    line: dict[str, object] = {
        "bundle": row.bundle,
        "runtime": row.runtime,
        "precision": row.precision,
        "peer": row.peer,
        "steps": document.bundle(row.bundle).steps,
        "state": row.state,
        "why": row.why,
        "version": row.version,
        "device": row.device,
    }
    for latency in row.latency:
        at = f"batch_{latency.batch}"
        for kind, found in (("cpu", latency.cpu), ("wall", latency.wall)):
            line |= {f"{at}_{kind}_{name}_ms": ms for name, ms in found.model_dump().items()}
        line[f"{at}_images_per_second"] = latency.images_per_second
        line[f"{at}_speed"] = latency.speed
        line[f"{at}_speed_low"] = latency.speed_low
        line[f"{at}_speed_high"] = latency.speed_high
        line[f"{at}_unstable"] = latency.unstable
    if own := row.own:
        line |= {"load_ms": own.load_ms, "first_image_ms": own.first_wall_ms}
        line |= {f"batch_{peak.batch}_peak_bytes": peak.bytes for peak in own.peak}
    if energy := row.energy:
        line |= {"joules_an_image": energy.joules_an_image, "watts": energy.watts}
    if quality := row.quality:
        worst = quality.worst_class
        line |= {
            "pairs": quality.pairs,
            "psnr_db": quality.psnr_db,
            "psnr_low_db": quality.psnr_low_db,
            "psnr_high_db": quality.psnr_high_db,
            "worst_seed": quality.worst_seed,
            "worst_psnr_db": quality.worst_psnr_db,
            "ruined": quality.ruined,
            "ruined_at_most": quality.ruined_at_most,
            "worst_class": worst.name if worst else None,
            "worst_class_psnr_db": worst.psnr_db if worst else None,
        }
    if verdict := row.verdict:
        line |= {
            "verdict": verdict.state,
            "verdict_change": verdict.change,
            "verdict_change_low": verdict.change_low,
            "verdict_change_high": verdict.change_high,
            "verdict_features": verdict.features,
            "verdict_pairs": verdict.pairs,
            "verdict_signed_by": verdict.signed_by,
        }
    return line


def headings(document: BenchDocument) -> list[str]:
    """Return the headings of `cells`."""
    kind = "CPU" if document.compared_by == "cpu" else "wall"
    return [
        "bundle",
        "candidate",
        "state",
        f"{kind} ms an image",
        "p90",
        "speed",
        "images/s",
        "PSNR",
        "ruined",
        "verdict of the bundle",
    ]


def cells(document: BenchDocument, row: BenchRow) -> list[str]:
    """Return a row's cells for people: the latency of the smallest batch, and the images per second
    of the largest.
    """
    first, quality = row.first, row.quality
    return [
        row.bundle,
        row.label,
        f"{row.state} (unstable)" if first and first.unstable else row.state,
        number(document.compared(first).p50, 2) if first else "-",
        number(document.compared(first).p90, 2) if first else "-",
        f"{first.speed:.2f} x" if first and first.speed is not None else "-",
        number(row.latency[-1].images_per_second, 1) if first else "-",
        decibels(quality.psnr_db) if quality else "-",
        f"{quality.ruined} of {quality.pairs}" if quality else "-",
        verdict_words(row.verdict) if row.verdict else "-",
    ]


def reasons(document: BenchDocument) -> list[str]:
    """Say why rows are in their state, each reason once."""
    rows: dict[str, list[str]] = {}
    for row in document.rows:
        if row.why and row.why != REFERENCE:
            rows.setdefault(f"{row.state}: {row.why}", []).append(row.name)
    return [f"{', '.join(names)} - {why}" for why, names in rows.items()]


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def verdict_words(verdict: HeldVerdict) -> str:
    """Say what a bundle's evidence concludes, who vouches for it, and by what it was judged."""
    said = "distance not counted"
    if verdict.change is not None:
        said = f"FD {verdict.change:+.2%}"
        if verdict.change_low is not None and verdict.change_high is not None:
            said += f" ({verdict.change_low:+.2%} to {verdict.change_high:+.2%})"
    by = f"by {verdict.features}, " if verdict.features else ""
    signed = f"signed by {verdict.signed_by[:16]}" if verdict.signed_by else UNSIGNED
    return f"{verdict.state}: {said}, {by}{verdict.pairs:,} pairs; {signed}"


def markdown_bytes(document: BenchDocument) -> bytes:
    """Return the table of rows, which rows dominate which, the other toolkits and the gates as
    Markdown.
    """
    names, machine = headings(document), document.machine
    latency = next((row.first for row in document.rows if row.first), None)
    lines = [
        "### edgegen bench",
        "",
        _markdown(names),
        _markdown(["---"] * len(names)),
        *(_markdown(cells(document, row)) for row in document.rows),
        "",
    ]
    if why := reasons(document):
        lines += [f"- {escaped(one).translate(MARKS)}" for one in why] + [""]
    for chart in charts(document):
        lines += [f"**{escaped(chart.title).translate(MARKS)}**", ""]
        lines += [f"- {escaped(said).translate(MARKS)}" for said in in_words(chart)] + [""]
    if said := [
        f"{b.name}: {w}" for b in document.bundles if (w := peers_in_words(document, b.name))
    ]:
        lines += ["**Other toolkits**", ""]
        lines += [f"- {escaped(one).translate(MARKS)}" for one in said] + [""]
    if document.gates:
        lines += ["**Gates**", ""]
        lines += [
            f"- {'passed' if g.passed else 'FAILED'}: "
            + escaped(f"{g.row}, {g.gate} {g.limit}: {g.found}").translate(MARKS)
            for g in document.gates
        ] + [""]
    threads = counted(latency.threads, "thread") if latency else ""
    measured = f"{latency.rounds} rounds, {threads}, " if latency else ""
    lines.append(
        escaped(
            f"{measured}{machine.get('cpu', 'unknown CPU')}, edgegen {document.edgegen}, "
            f"{document.made}"
        ).translate(MARKS)
    )
    return ("\n".join(lines) + "\n").encode()


def _markdown(row: Sequence[str]) -> str:
    is_rule = all(cell == "---" for cell in row)
    return f"| {' | '.join(row if is_rule else [escaped(c).translate(MARKS) for c in row])} |"
