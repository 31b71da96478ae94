"""edgegen merge: turn an adapted run into a plain one, whose weights hold the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import output
from .options import Overwrite


def merge(
    run: Annotated[Path, typer.Argument(help="Run folder that `edgegen finetune` wrote.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Folder for the merged run; it appears only when it is complete."
        ),
    ],
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Add an adapter to its full-precision base, after a proof that the merged weights make the
    same images.
    """
    from ..workflows.finetune.merge import merge_adapter

    merged = merge_adapter(run, out, overwrite)
    output.result("merge", merged.to_json())
    print(
        f"merged: {out}  images from the adapter and from the merged weights differ by at most "
        f"{merged.max_abs_difference:.1e} ({merged.images} seeds)"
    )
