"""edgegen layers: list where a generator's features can be decomposed."""

from __future__ import annotations

from ..workflows import generators
from ..workflows.source_choices import refuse_onnx
from . import output
from .brought_options import DropSafetyChecker, Lora, Prompts, source_choices
from .options import LayeredSource


def layers(
    source: LayeredSource,
    prompts: Prompts = None,
    lora: Lora = None,
    drop_safety_checker: DropSafetyChecker = False,
    json: output.Json = False,
) -> None:
    """List the layers of a generator that `edgegen explain` can examine."""
    from ..workflows.explain import list_layers

    refuse_onnx(source)
    choices = source_choices(prompts, lora, drop_safety_checker)
    generator = generators.load_generator(source, output.terminal, choices)
    document = list_layers(generator).to_json()
    output.table(
        ["layer", "numbers", "feature maps (channels x height x width)"],
        [
            [row["layer"], row["numbers"], " + ".join("x".join(map(str, m)) for m in row["maps"])]
            for row in document["layers"]
        ],
    )
    output.result("layers", document)
