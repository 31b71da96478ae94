"""Make the page of a report, which an integrator decides by and sends to a customer unchanged."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

from ...core.counting import counted
from ...core.html_text import escape
from ..bench_document import BenchDocument, BenchedBundle, BenchRow
from ..bench_peers import own_rows, peers_in_words
from ..bench_tables import UNSIGNED, decibels
from ..pareto import Chart, charts, in_words
from . import style
from .charts import chart_svg
from .images import Pictures, same_seeds, worst_pairs
from .rows import rows_table, table
from .times import histograms, stages


def page(document: BenchDocument, pictures: Pictures) -> bytes:
    """Return HTML in UTF-8 that loads nothing; `pictures` holds the document's strips by
    file name.
    """
    body = "".join(_body(document, pictures))
    digest = base64.b64encode(hashlib.sha256(style.SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    names = escape(", ".join(bundle.name for bundle in document.bundles))
    html = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Accuracy against latency: {names}</title><style>{style.PAGE}</style>"
        f"<main>{body}</main><script>{style.SCRIPT}</script></html>\n"
    )
    return html.encode()


def _body(document: BenchDocument, pictures: Pictures) -> Iterator[str]:
    found = charts(document)
    yield "<h1>Accuracy against latency</h1>"
    yield f"<p class=soft>{escape(_measured_on(document))}</p>"
    for bundle in document.bundles:
        if bundle.manifest_sha256 is not None:
            name, said = at_a_glance(document, bundle)
            words = " ".join(filter(None, [said, peers_in_words(document, name)]))
            yield f"<p><b>{escape(name)}</b>: {escape(words)}</p>"
    if absent := [one.name for one in document.bundles if one.manifest_sha256 is None]:
        yield f"<p>Not made, and why stands in the table: {escape(', '.join(absent))}.</p>"
    if document.gates:
        yield from _gates(document)
    yield "<h2>Latency against quality</h2>"
    for chart in found:
        if chart.points:
            yield f'<div class="box bare" tabindex=0>{chart_svg(document, chart)}</div>'
        else:
            yield f"<h3>{escape(chart.title)}</h3>"
        yield f"<ul>{''.join(f'<li>{escape(said)}</li>' for said in in_words(chart))}</ul>"
    yield "<h2>All rows</h2>"
    yield '<p class="soft screen">A click on a heading sorts by it.</p>'
    yield rows_table(document)
    yield f"<p class=soft>{escape(_columns(document))}</p>"
    # for bundles that were not measured there is nothing more to show
    found = [
        c for c in found if any(row.latency for one in c.bundles for row in document.of(one.name))
    ]
    yield f"<h2>Where the time of an image goes</h2><p class=soft>{STAGES}</p>"
    for chart in found:
        yield from _titled(chart, found)
        yield from stages(document, chart)
    yield f"<h2>How the times scatter</h2><p class=soft>{SCATTER}</p>"
    for chart in found:
        yield from _titled(chart, found)
        yield f"<div class=tiles>{''.join(histograms(document, chart))}</div>"
    yield "<h2>The same seeds</h2>"
    for chart in found:
        yield from _titled(chart, found)
        yield from same_seeds(document, chart, pictures)
    yield f"<h2>The worst pairs</h2><p class=soft>{WORST}</p>"
    for chart in found:
        yield from _titled(chart, found)
        yield from worst_pairs(document, chart, pictures)
    yield from _again(document)


def _titled(chart: Chart, found: list[Chart]) -> Iterator[str]:
    """Yield the title of a chart if there are several."""
    if len(found) > 1:
        yield f"<h3>{escape(chart.title)}</h3>"


STAGES = (
    "The round with the median time, in its stages, which add up to the whole: each graph with its "
    "number of calls, the conversion to 8 bits, and the rest, which is the sampler's own "
    "arithmetic and its noise."
)
SCATTER = (
    "One image at a time. Where the interval of the median, at 95 %, is wider than 10 % of it, a "
    "row is unstable: nothing is compared with it."
)
WORST = (
    "Of all pairs that were made for this report, the ones that differ most. The slider moves "
    "between full precision, on the left, and the row; arrow keys move it, too."
)


def _measured_on(document: BenchDocument) -> str:
    machine = document.machine
    first = next((row.first for row in document.rows if row.first), None)
    rounds = f", {first.rounds} rounds on {counted(first.threads, 'thread')}" if first else ""
    on = machine.get("cpu", "a machine")
    return f"Measured on {document.made} with edgegen {document.edgegen} on {on}{rounds}."


def at_a_glance(document: BenchDocument, bundle: BenchedBundle) -> tuple[str, str]:
    """Return a bundle's name, and in plain words the row of it to choose."""
    kind = "CPU time" if document.compared_by == "cpu" else "time"
    best = _best(document, bundle)
    if best is None or best.first is None or best.quality is None:
        return bundle.name, f"no row is recommended, since {_why_none(document, bundle)}."
    quality, latency = best.quality, best.first
    speed = (
        ""
        if latency.speed is None
        else (f", {latency.speed:.2f} x as fast as the fastest full precision")
    )
    psnr = "no pixel differs" if quality.psnr_db is None else f"PSNR {decibels(quality.psnr_db)}"
    verdict = "Its evidence holds no verdict."
    if best.verdict is not None:
        by = f"signed by {best.verdict.signed_by[:16]}" if best.verdict.signed_by else UNSIGNED
        verdict = (
            f"The bundle's own verdict, over {best.verdict.pairs:,} pairs: {best.verdict.state} "
            f"({by})."
        )
    return bundle.name, (
        f"{best.label} makes an image in "
        f"{document.compared(latency).p50:.2f} ms of {kind}{speed}. Against full precision: "
        f"{psnr}, {quality.ruined} of {quality.pairs} pairs ruined. {verdict}"
    )


def _why_none(document: BenchDocument, bundle: BenchedBundle) -> str:
    rows = own_rows(document, bundle.name)
    if any(row.first is not None and row.first.unstable for row in rows):
        return "its times scatter too much: let nothing else run meanwhile, or take more rounds"
    words = dict.fromkeys(row.state for row in rows)
    return f"those that are not full precision are {', '.join(words) or 'not there'}"


def _best(document: BenchDocument, bundle: BenchedBundle) -> BenchRow | None:
    """Return edgegen's fastest row that is not full precision and whose pairs show no damage, or
    one with a ruined pair if there is no other; None without either.
    """
    rows = [
        (row.quality.ruined > 0, document.compared(row.first).p50, number, row)
        for number, row in enumerate(own_rows(document, bundle.name))
        if row.state in ("within", "undecided")
        and row.first is not None
        and not row.first.unstable
        and row.quality is not None
    ]
    return min(rows)[-1] if rows else None


def _gates(document: BenchDocument) -> Iterator[str]:
    failed = len(document.failed_gates)
    said = "All gates passed." if not failed else f"{failed} of {len(document.gates)} gates failed."
    yield f"<h2>Gates</h2><p>{said}</p>"
    rows = [
        [
            (escape(gate.row), None),
            (escape(gate.gate), None),
            (escape(gate.limit), None),
            (escape(gate.found), None),
            (_word("passed" if gate.passed else "failed"), None),
        ]
        for gate in document.gates
    ]
    yield table([(name, "") for name in ("row", "gate", "limit", "found", "")], rows)


def _word(state: str) -> str:
    return f"<span class={state}>{state}</span>"


def _columns(document: BenchDocument) -> str:
    kind = "CPU time of one thread" if document.compared_by == "cpu" else "wall time"
    return (
        f"Rows are compared by {kind} from a seed to an image of 8 bits, one image at a time. "
        "The state follows from the pairs made for this report, by pixels; the bundle's verdict is "
        "what its maker found before, with features and with more pairs, and is as good as who "
        "signed it. A dash is what was not measured, or what the rounds are too few to resolve."
    )


def _again(document: BenchDocument) -> Iterator[str]:
    yield "<h2>To measure it again</h2><p>All of it, from the folder that holds the bundles:</p>"
    yield f"<pre>{escape(document.command)}</pre>"
    lines = [
        [(escape(row.name), None), (f"<code>{escape(row.command)}</code>", None)]
        for row in document.rows
        if row.state != "skipped" and row.command
    ]
    yield "<h3>One row</h3>" + table([("row", ""), ("command", "wide")], lines)
    bundles = [
        [
            (escape(one.name), None),
            (escape(one.family), None),
            (f"<code>{one.manifest_sha256}</code>", None),
            (escape(f"signed by {one.signed_by}" if one.signed_by else UNSIGNED), None),
            (escape(one.prompt or "-"), None),
        ]
        for one in document.bundles
        if one.manifest_sha256 is not None
    ]
    heads = [
        ("bundle", ""),
        ("family", ""),
        ("sha256 of its manifest", "wide"),
        ("vouched for", ""),
        ("prompt that was timed", ""),
    ]
    yield "<h3>Bundles</h3>" + table(heads, bundles)
    facts = {**document.machine, **{f"version of {k}": v for k, v in document.versions.items()}}
    lines = [[(escape(name), None), (escape(value), None)] for name, value in sorted(facts.items())]
    yield "<h3>Machine and versions</h3>" + table([("what", ""), ("", "wide")], lines)
    placed = [
        [(escape(row.name), None), (escape(_placed(row)), None)]
        for row in document.rows
        if row.placement
    ]
    if placed:
        yield "<h3>What executed the nodes</h3>" + table([("row", ""), ("graphs", "wide")], placed)


def _placed(row: BenchRow) -> str:
    return "; ".join(
        f"{graph}: " + ", ".join(f"{count} on {who}" for who, count in sorted(nodes.items()))
        for graph, nodes in sorted(row.placement.items())
    )
