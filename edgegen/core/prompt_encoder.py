"""Encoding of new prompts on a device, with the tokenizer and the text graphs of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ..errors import InputError, TrustError
from .bundle import MANIFEST, Bundle
from .clip_tokenizer import BYTES, FILES, ClipTokenizer
from .conditions import Prompts
from .declared import Declared, declared
from .graph_file import GraphFile
from .held_session import HeldSession, loaded_by
from .manifest import ConditionedStart
from .rehearsal import rehearse_text
from .runtime import Runtime
from .spec import Array


@dataclass(frozen=True)
class EncodedPrompt:
    """One encoded prompt.

    embeddings: arrays by input, without the batch axis; tokens: number in the whole text; limit:
    number that the text encoder takes; cut: the end of the text that did not fit.
    """

    embeddings: Mapping[str, Array] = field(repr=False)
    tokens: int
    limit: int
    cut: str


@dataclass(frozen=True)
class PromptEncoder:
    """Turns a text into the inputs that a sampler's graphs take.

    graphs: functions of tokens (1, limit) int64, by the input that each computes.
    """

    tokenizer: ClipTokenizer
    graphs: Mapping[str, Callable[[np.ndarray], Array]]

    def __call__(self, text: str) -> EncodedPrompt:
        """Encode a text. InputError if a graph gives NaN or infinite values."""
        tokens = self.tokenizer(text)
        made = {name: graph(tokens.ids[None])[0] for name, graph in self.graphs.items()}
        for name, values in made.items():
            if not np.isfinite(values).all():
                raise InputError(
                    "E-NONFINITE", f"the text encoder makes NaN or infinite values of it ({name})"
                )
        return EncodedPrompt(made, tokens.count, self.tokenizer.limit, tokens.cut)


def holds_encoder(bundle: Bundle) -> bool:
    """Return whether the bundle can encode prompts that it does not hold."""
    start = bundle.manifest.start
    return isinstance(start, ConditionedStart) and start.text is not None


def encoder_of(bundle: Bundle, prompts: Prompts, runtime: Runtime, threads: int) -> PromptEncoder:
    """Return the prompt encoder of a bundle that holds one (`holds_encoder`).

    TrustError if it does not fit the bundle's own prompts, InputError for unusable files.
    """
    start = bundle.manifest.start
    assert isinstance(start, ConditionedStart) and start.text is not None
    files = {name: bundle.graph_file(path) for name, path in start.text.graphs.items()}
    graphs = {name: _declared(file) for name, file in files.items()}
    try:
        limit = rehearse_text(prompts, graphs)
    except ValueError as error:
        raise TrustError(
            "E-MANIFEST", f"start.text: {error}", path=bundle.root / MANIFEST
        ) from error
    if not bundle.is_vouched_for:
        runtime.admit(files, graphs)
    return PromptEncoder(
        _tokenizer(bundle, start.text.tokenizer, limit),
        {name: _session(runtime, files[name], graphs[name], threads) for name in files},
    )


def _declared(file: GraphFile) -> Declared:
    if file.path.suffix != ".onnx":
        raise TrustError("E-MANIFEST", "a text graph must be .onnx", path=file.path)
    try:
        return declared(file.data(), tokens=True)
    except ValueError as error:
        what = f"not a usable ONNX file: {error}"
        raise InputError("E-ONNX-PARSE", what, path=file.path) from error


def _session(
    runtime: Runtime, file: GraphFile, graph: Declared, threads: int
) -> Callable[[np.ndarray], Array]:
    loaded = loaded_by(partial(runtime.session, file, threads), file.path)
    held, (tokens,) = HeldSession(loaded, graph.output, file.path), graph.integers
    return lambda ids: held(**{tokens: ids})


def _tokenizer(bundle: Bundle, names: list[str], limit: int) -> ClipTokenizer:
    files = {}
    for name in names:
        path = bundle.path(name)
        if path.name not in FILES or bundle.manifest.files[name].bytes > BYTES:
            what = f"no file of a CLIP tokenizer, or larger than {BYTES} bytes"
            raise InputError("E-TOKENIZER", what, path=path)
        files[path.name] = bundle.read(name)
    folder = bundle.root / (PurePosixPath(names[0]).parent if names else "")
    return ClipTokenizer(files, limit, folder)
