"""Parts of an HTML page without external files: pictures, tables, words."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.html_text import escape as escape
from ..core.images import png
from .pictures import colours

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
figure { display: inline-table; margin: 0 1rem 1rem 0; vertical-align: top }
figcaption { display: table-caption; caption-side: bottom; font-size: 13px; color: #555 }
img { display: block; image-rendering: pixelated; max-width: 100% }
table { border-collapse: collapse; font-size: 14px }
td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } th { border-bottom: 1px solid #999 }
.m td { padding: .1rem .5rem } .m th { padding-right: .5rem }
.note { background: #fff6dd; padding: .6rem .9rem; border-left: 4px solid #e0b030 }
"""


def number(value: Any) -> str:
    """Return a value as text, with a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return "exact" if math.isinf(value) else f"{value:.3g}"
    return str(value)


def figure(pixels: np.ndarray, caption: str) -> str:
    data = base64.b64encode(png(pixels)).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" '
        f'src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table with text aligned left and numbers right, except in the first column.

    "8.9 %" and "-" count as numbers.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = [
        "".join(
            f"<td{' class=n' if k and not _is_text(cell) else ''}>{escape(number(cell))}</td>"
            for k, cell in enumerate(row)
        )
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and cell != "-" and not cell.endswith("%")


def matrix(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], whole: str) -> str:
    """Return an HTML table with a name and shares of `whole` per row, each share on a background
    from white to dark red; the largest has the full colour.
    """
    most = max((value for _, values in rows for value in values), default=0.0)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for name, values in rows:
        grounds = colours(np.array([values]) / max(most, 1e-30))[0].tolist()
        # adding 0.0 turns -0.0 into 0.0
        shown = [
            (tuple(c), "#fff" if sum(c) < 330 else "#222", round(100 * v, 1) + 0.0)
            for v, c in zip(values, grounds, strict=True)
        ]
        cells = [
            f'<td class=n style="background:rgb{ground};color:{ink}">{share:.1f}</td>'
            for ground, ink, share in shown
        ]
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    note = words(f"Per cent of {whole}; the darkest cell is {100 * most:.1f}.")
    return f"<table class=m><tr>{head}</tr>{''.join(lines)}</table>{note}"


def facts(values: Mapping[str, Any]) -> str:
    """Return a table of names and values, with one row for each entry of an inner mapping."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        rows += (
            [(f"{name}, {inner}", v) for inner, v in value.items()]
            if isinstance(value, Mapping)
            else [(name, value)]
        )
    return table(("what", "value"), rows)


def page(title: str, parts: Sequence[str]) -> bytes:
    text = escape(title)
    head = (
        '<!doctype html><html lang="en"><meta '
        f'charset="utf-8"><title>{text}</title><style>{STYLE}</style><h1>{text}</h1>'
    )
    return (head + "\n".join(parts) + "</html>\n").encode()


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def words(text: str, note: bool = False) -> str:
    return f"<p{' class=note' if note else ''}>{escape(text)}</p>"
