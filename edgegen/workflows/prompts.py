"""Take prompts as a user gives them: read from a file, found among those of a generator, or
encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.progress import Listener, silent
from ..core.reader import read_bytes
from ..errors import InputError, RuntimeMissing, UsageError, escaped

if TYPE_CHECKING:
    import numpy as np

    from ..core.bundle import Bundle
    from ..core.conditions import Prompts
    from ..core.graph import Graph
    from ..core.latent import Latent
    from ..core.prompt_encoder import EncodedPrompt, PromptEncoder
    from ..core.runtime import Runtime
    from ..core.spec import Array

LISTED = 12  # prompts that a message names at most
# Makes the encoder of a generator when it is first needed; None: the generator has none.
Encoders = Callable[[], "PromptEncoder"] | None


@dataclass(frozen=True)
class TextGraphs:
    """Hold what encodes prompts: graphs of int64 tokens by the name of the input that they make,
    and the files of the tokenizer by name.
    """

    graphs: Mapping[str, Graph]
    tokenizer: Mapping[str, bytes]


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Read the prompts of a text file, one on each line; empty lines and repetitions are
    left out.

    Raises InputError for a file that is too large, has too few or too many prompts, or has a line
    that is no prompt.
    """
    from ..core.conditions import check_prompt
    from ..core.conditions.prompts import BYTES, MOST

    path = Path(path)
    data = read_bytes(path, BYTES, "E-PROMPT")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("E-PROMPT", f"the file is not UTF-8 text: {error}", path=path) from error
    found: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):
        prompt = line.removesuffix("\r").strip(" ")
        try:
            check_prompt(prompt)
        except ValueError as error:
            raise InputError("E-PROMPT", f"line {number}: {error}", path=path) from error
        if prompt:
            found[prompt] = None
    if not 1 <= len(found) <= MOST:
        raise InputError(
            "E-PROMPT",
            f"a file must contain 1 to {MOST} prompts, one on each line, but this one contains "
            f"{len(found)}",
            path=path,
        )
    return tuple(found)


def prompted(
    latent: Latent,
    prompt: str | None,
    negative: str | None,
    encoders: Encoders = None,
    listen: Listener = silent,
) -> Latent:
    """Return the latent that shows this prompt in every image and steers away from the negative
    one; unchanged if neither is given.

    Raises UsageError if the generator takes none.
    """
    if prompt is None and negative is None:
        return latent
    for flag, text in (("prompt", prompt), ("negative", negative)):
        _check(flag, text)
    bank = latent.prompts
    if bank is None:
        classes = f"; it has {latent.classes} classes: --label" if latent.classes else ""
        raise UsageError("E-PROMPT", f"this generator takes no prompt{classes}")
    if negative is not None and bank.negative is None:
        raise UsageError("E-PROMPT", "this generator takes no negative prompt")
    choice = _Choice(bank, encoders, listen)
    if prompt is not None:
        bank = choice.showing(prompt)
    if negative is not None:
        bank = choice.without(bank, negative)
    return latent.showing(bank)


def _check(flag: str, text: str | None) -> None:
    from ..core.conditions import check_prompt

    try:
        check_prompt(text or "")
    except ValueError as error:
        raise UsageError("E-PROMPT", f"--{flag}: {error}") from error


class _Choice:
    """Choose prompts from a bank, or encode them with an encoder that is made when it is first
    needed.
    """

    def __init__(self, bank: Prompts, encoders: Encoders, listen: Listener) -> None:
        self.bank, self.encoders, self.listen = bank, encoders, listen

    def showing(self, text: str) -> Prompts:
        """Return prompts with this text alone."""
        if text in self.bank.texts:
            return self.bank.only(self.bank.texts.index(text))
        made = {name: rows[None] for name, rows in self._encoded(text, "prompt").items()}
        return replace(self.bank, texts=(text,), embeddings={**self.bank.embeddings, **made})

    def without(self, bank: Prompts, text: str) -> Prompts:
        """Return the prompts of `bank` with this text as their negative one."""
        from ..core.conditions import NULL

        if text == self.bank.negative:
            return bank
        if text in self.bank.texts:
            number = self.bank.texts.index(text)
            rows = {name: values[number] for name, values in self.bank.embeddings.items()}
        else:
            rows = self._encoded(text, "negative")
        twins = {
            name: rows[name.removeprefix(NULL)] for name in bank.embeddings if name.startswith(NULL)
        }
        return replace(bank, negative=text, embeddings={**bank.embeddings, **twins})

    def _encoded(self, text: str, flag: str) -> dict[str, np.ndarray]:
        from ..core.conditions import shown

        if self.encoders is None:
            raise UsageError(
                "E-PROMPT",
                f"--{flag} {shown(text)!r}: the bundle has no text encoder and can only use its "
                f"own prompts: {_listed(self.bank)}",
            )
        found = self.encoders()(text)
        if found.cut:
            self.listen.note(_said(f"--{flag}", found))
        return dict(found.embeddings)


def _said(what: str, found: EncodedPrompt) -> str:
    return (
        f"W-PROMPT-CUT: {what} has {found.tokens} tokens, but the text encoder takes only "
        f"{found.limit}: it ignores {escaped(found.cut)!r}"
    )


def _listed(bank: Prompts) -> str:
    """List the bank's prompts for people, at most LISTED of them."""
    from ..core.conditions import shown

    names = [repr(shown(text)) for text in bank.texts[:LISTED]]
    more = len(bank.texts) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def encoders_of(bundle: Bundle, threads: int) -> Encoders:
    """Return the maker of a bundle's prompt encoder, or None if it holds no text encoder."""
    from ..core.prompt_encoder import encoder_of, holds_encoder

    if not holds_encoder(bundle):
        return None

    @cache
    def made() -> PromptEncoder:
        prompts = bundle.latent.prompts
        # a manifest with an encoder but no prompts is refused when it is read
        assert prompts is not None
        _need_tokenizers()
        return encoder_of(bundle, prompts, _host(bundle), threads)

    return made


def torch_encoders(text: TextGraphs | None) -> Encoders:
    """Return the maker of the prompt encoder of a generator that torch executes."""
    if text is None:
        return None

    @cache
    def made() -> PromptEncoder:
        from ..core.clip_tokenizer import ClipTokenizer
        from ..core.graph import executed
        from ..core.prompt_encoder import PromptEncoder

        _need_tokenizers()
        call = executed(text.graphs)
        tokens = {name: graph.inputs[0] for name, graph in text.graphs.items()}
        limit = int(next(iter(tokens.values())).shape[1])

        def asked(name: str) -> Callable[[np.ndarray], Array]:
            return lambda ids: call[name](**{tokens[name].name: ids})

        tokenizer = ClipTokenizer(text.tokenizer, limit, Path())
        return PromptEncoder(tokenizer, {name: asked(name) for name in text.graphs})

    return made


def _need_tokenizers() -> None:
    from ..export.packages import absent

    if why := absent("tokenizers", "prompts"):
        raise RuntimeMissing("E-BACKEND", f"a new prompt is cut into tokens first: {why}")


def bank_of(
    texts: Sequence[str], negative: str | None, encoder: PromptEncoder, listen: Listener = silent
) -> Prompts:
    """Encode prompts once, for a generator that takes them in turn; `negative` is for one that can
    be steered away from it.

    Raises InputError for texts that are no prompts, or for more than a bundle may hold.
    """
    import numpy as np

    from ..core.conditions import NULL, Prompts, shown
    from ..core.rehearsal import ARRAYS_BYTES

    rows: dict[str, list[Array]] = {}
    total = 0
    with listen.progress("encoding prompts", len(texts)) as advance:
        for text in texts:
            found = encoder(text)
            if found.cut:
                listen.note(_said(f"the prompt {shown(text)!r}", found))
            for name, values in found.embeddings.items():
                rows.setdefault(name, []).append(values)
                total += values.nbytes
            if total > ARRAYS_BYTES:
                what = f"{len(texts)} encoded prompts are more than {ARRAYS_BYTES} bytes"
                raise InputError("E-PROMPT", what, hint="use fewer")
            advance(1)
    arrays = {name: np.stack(found) for name, found in rows.items()}
    if negative is not None:
        null = encoder(negative).embeddings
        arrays |= {NULL + name: values for name, values in null.items()}
    try:
        return Prompts(tuple(texts), arrays, negative)
    except ValueError as error:
        raise InputError("E-PROMPT", str(error)) from error


def _host(bundle: Bundle) -> Runtime:
    """Return the runtime that executes text graphs, which are full-precision ONNX: the first that
    works here, those of the bundle before others.

    Raises RuntimeMissing if none works.
    """
    from ..export import RUNTIMES, runtime

    reasons = {}
    for name in dict.fromkeys([*bundle.manifest.runtimes, *RUNTIMES]):
        found = runtime(name)
        if ".onnx" in found.suffixes and not found.executable:
            why = found.cannot_run()
            if why is None:
                return found
            reasons[name] = why
    raise RuntimeMissing(
        "E-BACKEND",
        "no runtime that can run the text encoder works here: "
        + "; ".join(f"{name}: {why}" for name, why in reasons.items()),
        path=bundle.root,
    )
