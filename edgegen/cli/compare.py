"""edgegen compare: show fine-tuned runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import output

if TYPE_CHECKING:
    from ..workflows.finetune.compare import RunComparison


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders that `edgegen finetune` wrote.", metavar="RUN", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="PNG file to write, with images of the base, images of each run, and photos.",
        ),
    ] = Path("compared.png"),
    json: output.Json = False,
) -> None:
    """Compare fine-tuned runs side by side in a table and a picture."""
    from ..workflows.finetune.compare import compare_runs

    compared = compare_runs(runs, out, output.terminal)
    _show(compared)
    output.result("compare", compared.to_json())
    print(f"picture: {compared.picture}")


def _show(compared: RunComparison) -> None:
    from ..core.verdict import Interval
    from ..workflows.finetune.periodic_eval import interval_text, ratio_text

    distances = ["KID", "FD", "FD / base"]
    columns = ["run", "family", "rank", "images", *distances, "near-copies", "novelty", "adapter"]
    rows = []
    for run in compared.runs:
        last, size = run.last, run.adapter_bytes
        rows.append(
            [
                run.path.name,
                run.family,
                run.rank or "all",
                run.images,
                *(interval_text(Interval(**last["adapted"][name])) for name in ("KID", "FD")),
                ratio_text(last["ratio"]),
                last["memory"]["near_copies"],
                f"{last['memory']['features']['ratio']:.2f}",
                "-" if size is None else f"{size / 1e3:.0f} kB",
            ]
        )
    output.table(columns, rows)
    print(compared.runs[0].last["what"])
