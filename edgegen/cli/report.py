"""edgegen report: make a report's page again from its bench.json."""

from __future__ import annotations

from typing import Annotated

import typer

from . import output


def report(
    what: Annotated[
        str, typer.Argument(help="Folder that `edgegen bench --report` wrote.", metavar="REPORT")
    ],
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    json: output.Json = False,
) -> None:
    """Make the page, charts and tables of a bench report again from its bench.json."""
    from ..workflows.bench_report.run import remake_report

    page = remake_report(what)
    output.result("report", {"page": str(page)})
    print(f"report: {page}")
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
