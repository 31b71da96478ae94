"""edgegen layers: where a generator's features can be taken apart."""

from __future__ import annotations

from typing import Annotated

import typer

from ..workflows import generators
from . import output


def layers(
    what: Annotated[str, typer.Argument(help="Zoo name or run folder.", metavar="SOURCE")],
    json: output.Json = False,
) -> None:
    """List the layers at which edgegen explain can cut a generator."""
    from ..workflows.explain import list_layers

    document = list_layers(generators.load_generator(what)).to_json()
    output.table(
        ["layer", "numbers", "feature maps (channels x height x width)"],
        [
            [row["layer"], row["numbers"], " + ".join("x".join(map(str, m)) for m in row["maps"])]
            for row in document["layers"]
        ],
    )
    output.result("layers", document)
