"""edgegen merge: an adapted run to a plain one, whose weights hold the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import output
from .options import Overwrite


def merge(
    run: Annotated[Path, typer.Argument(help="Run folder of `edgegen finetune`.")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder of the merged run; appears whole or not at all."),
    ],
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Add an adapter to its full-precision base, once the merged images are proven equal."""
    from ..workflows.finetune.merge import merge_adapter

    merged = merge_adapter(run, out, overwrite)
    output.result("merge", merged.to_json())
    print(
        f"merged: {out}  images of adapter and merged weights differ by "
        f"{merged.max_abs_difference:.1e} at most ({merged.images} seeds)"
    )
