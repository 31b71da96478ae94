"""Make the sortable table of all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...core.html_text import escape
from ..bench_document import BenchDocument, BenchRow
from ..bench_tables import decibels, number, verdict_words

# the HTML that a cell shows, and the value that it sorts by; None sorts by the text
Cell = tuple[str, str | float | None]
Made = Callable[[BenchDocument, BenchRow], Cell]
NOTHING: Cell = ("-", "")
_WORST = 999.0  # dB that an equal pair sorts by


def table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[Cell]]) -> str:
    """Return the HTML of a table in a box that scrolls by itself; `heads` holds each column's text
    and the class of its cells.
    """
    top = "".join(
        f"<th scope=col>{f'<button type=button>{escape(text)}</button>' if text else ''}</th>"
        for text, _ in heads
    )
    lines = "".join("<tr>" + "".join(map(_cell, heads, row)) + "</tr>" for row in rows)
    return (
        "<div class=box tabindex=0><table class=sortable>"
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cell(head: tuple[str, str], cell: Cell) -> str:
    shown, value = cell
    kind = f' class="{head[1]}"' if head[1] else ""
    sorts = shown if value is None else str(value)
    return f'<td{kind} data-v="{sorts if value is not None else _plain(sorts)}">{shown}</td>'


def _plain(shown: str) -> str:
    """Return the text of a cell for an attribute: it is escaped already, and elements are
    removed.
    """
    out, inside = [], False
    for letter in shown:
        inside = letter == "<" or (inside and letter != ">")
        if not inside and letter != ">":
            out.append(letter)
    return "".join(out).replace('"', "")


def rows_table(document: BenchDocument) -> str:
    kind = "CPU" if document.compared_by == "cpu" else "wall"
    # the first seven fit on a screen of 1366 pixels; the rest needs scrolling
    columns: Sequence[tuple[str, str, Made]] = (
        ("bundle", "name", lambda d, row: (escape(row.bundle), None)),
        ("candidate", "name", lambda d, row: (escape(row.label), None)),
        (f"{kind} ms an image", "n", lambda d, row: _ms(d, row, "p50")),
        ("speed", "n", _speed),
        ("PSNR", "n", _psnr),
        ("state of its pairs", "state", _state),
        ("verdict of the bundle", "wide", _verdict),
        ("ruined", "n", _ruined),
        ("steps", "n", _steps),
        ("p90", "n", lambda d, row: _ms(d, row, "p90")),
        ("p99", "n", lambda d, row: _ms(d, row, "p99")),
        ("p99.9", "n", lambda d, row: _ms(d, row, "p999")),
        (_throughput_name(document), "n", _throughput),
        ("load, ms", "n", _load),
        ("first image, ms", "n", _first_image),
        ("memory, MB", "n", _memory),
        ("J an image", "n", _energy),
        ("worst pair", "n", _worst),
        ("worst class", "", _class),
    )
    rows = [[made(document, row) for _, _, made in columns] for row in document.rows]
    return table([(name, kind) for name, kind, _ in columns], rows)


def _number(value: float | None, digits: int) -> Cell:
    return NOTHING if value is None else (number(value, digits), value)


def _steps(document: BenchDocument, row: BenchRow) -> Cell:
    return _number(document.bundle(row.bundle).steps, 0)


def _state(_: BenchDocument, row: BenchRow) -> Cell:
    mark = ""
    if row.first is not None and row.first.unstable:
        mark = " <span class=unstable>(unstable)</span>"
    why = f"<small>{escape(row.why)}</small>" if row.why else ""
    order = ("within", "undecided", "outside", "failed", "skipped").index(row.state)
    return f"<span class={row.state}>{row.state}</span>{mark}{why}", order


def _ms(document: BenchDocument, row: BenchRow, name: str) -> Cell:
    if row.first is None:
        return NOTHING
    value: float | None = getattr(document.compared(row.first), name)
    return _number(value, 2)


def _speed(_: BenchDocument, row: BenchRow) -> Cell:
    if row.first is None or row.first.speed is None:
        return NOTHING
    first = row.first
    ends = f"{number(first.speed_low, 2)} to {number(first.speed_high, 2)}"
    small = "" if first.speed_low == first.speed_high else f"<small>{ends}</small>"
    return f"{first.speed:.2f} x{small}", first.speed


def _throughput_name(document: BenchDocument) -> str:
    largest = max((one.batch for row in document.rows for one in row.latency), default=1)
    return f"images/s, batch {largest}"


def _throughput(_: BenchDocument, row: BenchRow) -> Cell:
    return _number(row.latency[-1].images_per_second, 1) if row.latency else NOTHING


def _load(_: BenchDocument, row: BenchRow) -> Cell:
    return NOTHING if row.own is None else _number(row.own.load_ms, 0)


def _first_image(_: BenchDocument, row: BenchRow) -> Cell:
    return NOTHING if row.own is None else _number(row.own.first_wall_ms, 1)


def _memory(_: BenchDocument, row: BenchRow) -> Cell:
    if row.own is None or not row.own.peak:
        return NOTHING
    return _number(row.own.peak[-1].bytes / 1e6, 0)


def _energy(_: BenchDocument, row: BenchRow) -> Cell:
    if row.energy is None:
        return NOTHING
    said = f"{row.energy.joules_an_image:.3g}<small>{row.energy.watts:.3g} W</small>"
    return said, row.energy.joules_an_image


def _psnr(_: BenchDocument, row: BenchRow) -> Cell:
    if (found := row.quality) is None:
        return NOTHING
    if found.psnr_db is None:
        return "equal", _WORST
    ends = [decibels(end) for end in (found.psnr_low_db, found.psnr_high_db) if end is not None]
    interval = f"<small>{' to '.join(ends)}</small>" if ends else ""
    return f"{decibels(found.psnr_db)}{interval}", found.psnr_db


def _worst(_: BenchDocument, row: BenchRow) -> Cell:
    if (found := row.quality) is None:
        return NOTHING
    if found.worst_psnr_db is None:
        return "equal", _WORST
    said = f"{decibels(found.worst_psnr_db)}<small>seed {found.worst_seed}</small>"
    return said, found.worst_psnr_db


def _ruined(_: BenchDocument, row: BenchRow) -> Cell:
    if (found := row.quality) is None:
        return NOTHING
    most = f"<small>at most {found.ruined_at_most:.2%}</small>"
    return f"{found.ruined} of {found.pairs}{most}", found.ruined / found.pairs


def _class(_: BenchDocument, row: BenchRow) -> Cell:
    if row.quality is None or (worst := row.quality.worst_class) is None:
        return NOTHING
    value = _WORST if worst.psnr_db is None else worst.psnr_db
    return f"{escape(worst.name)}: {decibels(worst.psnr_db)}", value


def _verdict(_: BenchDocument, row: BenchRow) -> Cell:
    if row.verdict is None:
        return NOTHING
    state, said = verdict_words(row.verdict).split(": ", 1)
    word = f"<span class={row.verdict.state}>{escape(state)}</span>"
    return f"{word}<small>{escape(said)}</small>", row.verdict.state
