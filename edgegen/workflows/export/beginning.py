"""Write what an exported generator starts from into its bundle: its conditions, and the graphs that
encode new prompts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import put
from ...core.seeds import USES
from ...core.start import write_start
from ...export import onnx as onnx_files

if TYPE_CHECKING:
    from ...core.latent import Latent
    from ..generators import LoadedGenerator

TEXT = "text"  # folder of the text encoder


def write_beginning(source: LoadedGenerator, folder: Path) -> dict[str, Any]:
    """Return a manifest's `start` and write its files into `folder`, the bundle that is
    being made.
    """
    start = write_start(source.generator.latent, folder)
    if source.text is None:
        return start
    (place := folder / TEXT).mkdir()
    graphs = {}
    for name, graph in source.text.graphs.items():
        file = onnx_files.write(onnx_files.to_onnx(graph, name), place / f"{name}.onnx")
        graphs[name] = file.relative_to(folder).as_posix()
    for name, data in source.text.tokenizer.items():
        put(place / name, data)
    tokenizer = [f"{TEXT}/{name}" for name in sorted(source.text.tokenizer)]
    return {**start, "text": {"graphs": graphs, "tokenizer": tokenizer}}


def prompts_by_use(latent: Latent) -> dict[str, Any]:
    """Return how many prompts each use of seeds takes, for a manifest; empty without prompts."""
    bank = latent.prompts
    return {} if bank is None else {"prompts": {use: len(bank.of_use(use)) for use in USES}}
