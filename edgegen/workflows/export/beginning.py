"""The files of a bundle that its generator starts from: its conditions, and the text encoder for
new prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.clip_tokenizer import ClipTokenizer
from ...core.files import put
from ...core.progress import Listener, silent
from ...core.seeds import USES
from ...core.start import write_start
from ...evidence.parity import signal_to_error_db
from ...export import STAND_IN, runtime
from ...export import onnx as onnx_files
from ...export.weight_only import with_coded_weights

if TYPE_CHECKING:
    from ...core.latent import Latent
    from ..generators import LoadedGenerator
    from ..prompts import TextGraphs

TEXT = "text"  # the folder of the text encoder
CODED, FLOAT = "int8", "float"  # the two ways in which its weights are stored
# A text encoder ships with 8-bit weights if the SQNR of every prompt of the bundle is at least
# this: the prompts' images then differ by less than INT8 changes them (figures: decision 20).
LEAST_SQNR_DB = 30.0


@dataclass(frozen=True)
class Beginning:
    """The entry `start` of a manifest, and for each graph of the text encoder how its weights are
    stored and how near its prompts are to full precision (`text`).
    """

    start: dict[str, Any]
    text: dict[str, Any]


def write_beginning(
    source: LoadedGenerator, folder: Path, threads: int, listen: Listener = silent
) -> Beginning:
    """Write the files that an exported generator starts from into the folder of its bundle."""
    start = write_start(source.generator.latent, folder)
    if source.text is None:
        return Beginning(start, {})
    (folder / TEXT).mkdir()
    graphs, found = {}, {}
    for name in source.text.graphs:
        file = folder / TEXT / f"{name}.onnx"
        found[name] = _write_text_graph(source, source.text, name, file, threads, listen)
        graphs[name] = file.relative_to(folder).as_posix()
    for name, data in source.text.tokenizer.items():
        put(folder / TEXT / name, data)
    tokenizer = [f"{TEXT}/{name}" for name in sorted(source.text.tokenizer)]
    return Beginning({**start, "text": {"graphs": graphs, "tokenizer": tokenizer}}, found)


def _write_text_graph(
    source: LoadedGenerator,
    text: TextGraphs,
    name: str,
    file: Path,
    threads: int,
    listen: Listener,
) -> dict[str, Any]:
    """Write the graph of the text encoder that makes the condition `name`, and return how its
    weights are stored.

    Its weights have 8 bits if every prompt of the generator stays near enough to full precision.
    Otherwise they are stored as the source stores them.
    """
    model = onnx_files.to_onnx(text.graphs[name], name)
    found: dict[str, Any] = {"weights": FLOAT}
    if (coded := with_coded_weights(model)) is not None:
        onnx_files.write(coded, file)
        worst = _worst_prompt_db(source.generator.latent, text, name, file, threads)
        found = {"weights": CODED if worst >= LEAST_SQNR_DB else FLOAT, "worst_sqnr_db": worst}
        listen.note(_said(found))
    if found["weights"] == FLOAT:
        onnx_files.write(model, file)
    return found


def _worst_prompt_db(
    latent: Latent, text: TextGraphs, name: str, file: Path, threads: int
) -> float:
    """Return the SQNR in dB of the generator's prompt at which the text encoder in the file is
    farthest from full precision.
    """
    bank, tokens = latent.prompts, text.graphs[name].inputs[0]
    assert bank is not None  # a generator with a text encoder takes prompts
    tokenizer = ClipTokenizer(text.tokenizer, int(tokens.shape[1]), file.parent)
    call = runtime(STAND_IN).load(file, threads)
    return min(
        signal_to_error_db(exact, call(**{tokens.name: tokenizer(words).ids[None]})[0])
        for words, exact in zip(bank.texts, bank.embeddings[name], strict=True)
    )


def _said(found: Mapping[str, Any]) -> str:
    """Say in a sentence how the text encoder ships."""
    measured = (
        f"with 8-bit weights, the text encoder is {found['worst_sqnr_db']:.1f} dB from full "
        "precision at the worst of its prompts"
    )
    if found["weights"] == CODED:
        return f"{measured}, and ships so"
    return f"{measured}, less than {LEAST_SQNR_DB:g} dB: it ships as the source stores it"


def prompts_by_use(latent: Latent) -> dict[str, Any]:
    """Return for a manifest how many prompts each use of seeds sees; nothing without prompts."""
    bank = latent.prompts
    return {} if bank is None else {"prompts": {use: len(bank.of_use(use)) for use in USES}}
