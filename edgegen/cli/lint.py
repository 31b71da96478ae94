"""edgegen lint: list the nodes of a graph that a runtime will refuse, compute wrongly or run
slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateFailed
from . import output
from .options import Runtimes, names_of

if TYPE_CHECKING:
    from ..workflows.lint import LintResult


def lint(
    model: Annotated[str, typer.Argument(help="ONNX file or bundle folder.", metavar="MODEL")],
    runtime: Runtimes = None,
    build: Annotated[
        bool, typer.Option("--build", help="Also let the runtime itself build each graph.")
    ] = False,
    json: output.Json = False,
) -> None:
    """List the nodes of a graph that a runtime refuses, computes wrongly or runs slowly, each with
    a remedy; exit 3 if a node is refused or computed wrongly.
    """
    from ..workflows.lint import LintResult, lint_model

    try:
        result = lint_model(model, names_of(runtime) if runtime else None, build)
    except GateFailed as failed:
        if isinstance(failed.result, LintResult):
            _show(failed.result)
        raise
    _show(result)
    output.result("lint", result.to_json())
    print(f"{len(result.findings)} warnings" if result.findings else "no findings")


def _show(result: LintResult) -> None:
    rows = [
        [
            one.finding.level,
            one.runtime,
            one.file.stem,
            one.finding.node,
            f"{one.finding.what} ({one.finding.rule})",
            one.finding.remedy,
        ]
        for one in result.findings
    ]
    output.table(["level", "runtime", "graph", "node", "what", "remedy"], rows)
