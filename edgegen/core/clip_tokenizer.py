"""CLIP's tokenizer, built without transformers from the files of a diffusers folder.

Only the vocabulary, the merges and the special tokens come from files. The rule that cuts a text
into words is CLIP's own and is written here, so a file's regular expressions are never run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, escaped
from .files import parse_json

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

VOCABULARY, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
FILES = (VOCABULARY, MERGES, WHOLE, SETTINGS, SPECIAL)
BYTES = 16 << 20  # largest size of one of these files
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
END_OF_WORD = "</w>"
NAMES = {  # CLIP's special tokens, used unless a file names others
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text for a text encoder, and the end of the text that did not fit."""

    ids: np.ndarray  # (limit,) int64
    count: int  # tokens of the whole text, with its begin and end tokens
    cut: str  # the end of the text that did not fit


class ClipTokenizer:
    """Turns a text into exactly `limit` tokens: begin, words, end, and padding."""

    def __init__(self, files: Mapping[str, bytes], limit: int, folder: Path) -> None:
        """Build the tokenizer from the content of `files`, by name.

        folder: named in messages. InputError if it is not a tokenizer of CLIP's kind.
        """
        self.limit, self._files, self._folder = limit, files, folder
        try:
            self._tokenizer = self._built()
            self._ids = {key: self._id(self._names[key]) for key in NAMES}
        except InputError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise self._refused(f"it cannot be built: {str(error)[:200]}", WHOLE) from error

    def __call__(self, text: str) -> Tokens:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        room, found = self.limit - 2, encoded.ids
        kept = [self._ids["bos_token"], *found[:room], self._ids["eos_token"]]
        ids = np.full(self.limit, self._ids["pad_token"], np.int64)
        ids[: len(kept)] = kept
        cut = text[encoded.offsets[room][0] :].strip() if len(found) > room else ""
        return Tokens(ids, len(found) + 2, cut)

    def _built(self) -> Tokenizer:
        from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
        from tokenizers.models import BPE

        vocabulary, merges = self._model
        built = Tokenizer(
            BPE(
                vocab=vocabulary,
                merges=merges,
                continuing_subword_prefix="",
                end_of_word_suffix=END_OF_WORD,
                fuse_unk=False,
                unk_token=self._names["unk_token"],
            )
        )
        built.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        built.add_tokens(list(self._added()))
        return built

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        return self._json(SETTINGS) if SETTINGS in self._files else {}

    @cached_property
    def _numbered(self) -> Mapping[int, Mapping[str, Any]]:
        """The added tokens, by number; they are found before a text is cut into words."""
        if "added_tokens_decoder" in self._settings:
            rows = self._settings["added_tokens_decoder"]
            return {int(number): row for number, row in rows.items()}
        if WHOLE in self._files:
            return {int(row["id"]): row for row in self._json(WHOLE).get("added_tokens", ())}
        return {}

    @cached_property
    def _special(self) -> Mapping[str, Mapping[str, Any]]:
        """The rows of the begin, end, unknown and padding tokens, by the keys of NAMES."""
        said = dict(self._settings)
        if "added_tokens_decoder" not in self._settings and SPECIAL in self._files:
            said |= self._json(SPECIAL)
        known = {row["content"]: row for row in self._numbered.values()}
        rows = {key: _row(said.get(key) or name) for key, name in NAMES.items()}
        return {key: known.get(row["content"], row) for key, row in rows.items()}

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {key: str(row["content"]) for key, row in self._special.items()}

    def _added(self) -> Iterator[AddedToken]:
        """Yield the added tokens in the order of their numbers.

        InputError for a token whose number in the vocabulary differs or is missing, because the
        text encoder has no row for it.
        """
        from tokenizers import AddedToken

        vocabulary, _ = self._model
        numbered = sorted(self._numbered.items())
        for number, row in numbered:
            if vocabulary.get(row["content"]) != number:
                what = f"the token {escaped(str(row['content'])[:64])!r} is not number {number}"
                raise self._refused(f"{what} of the vocabulary", SETTINGS)
        rows = (*(row for _, row in numbered), *self._special.values())
        # If several rows have the same text, the flags of the last one apply.
        for content, row in {row["content"]: row for row in rows}.items():
            flags = {
                flag: bool(row[flag])
                for flag in ("single_word", "lstrip", "rstrip", "normalized")
                if flag in row
            }
            special = content in self._names.values() or bool(row.get("special"))
            yield AddedToken(content, special=special, **flags)

    @cached_property
    def _model(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """Vocabulary and merges."""
        if WHOLE in self._files:
            model = self._json(WHOLE).get("model", {})
            if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != END_OF_WORD:
                raise self._refused("its model is not CLIP's byte-pair encoding", WHOLE)
            pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
            vocabulary = model["vocab"]
        else:
            vocabulary = self._json(VOCABULARY)
            lines = self._text(MERGES).split("\n")
            pairs = [line.split(" ") for line in lines[1:] if line]
        if not all(type(number) is int and number >= 0 for number in vocabulary.values()):
            raise self._refused("its vocabulary does not number words", VOCABULARY)
        return vocabulary, [(first, second) for first, second in pairs]

    def _id(self, token: str) -> int:
        found = self._model[0].get(token)
        if found is None:
            raise self._refused(f"its vocabulary has no {escaped(token[:64])!r}", VOCABULARY)
        return found

    def _json(self, name: str) -> Any:
        try:
            found = parse_json(self._file(name))
        except ValueError as error:
            raise self._refused(f"not usable JSON: {error}", name) from error
        if not isinstance(found, dict):
            raise self._refused("not a JSON object", name)
        return found

    def _text(self, name: str) -> str:
        try:
            return self._file(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._refused(f"not UTF-8: {error}", name) from error

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            raise self._refused("the tokenizer has no such file", name)
        return self._files[name]

    def _refused(self, what: str, name: str) -> InputError:
        return InputError("E-TOKENIZER", what, path=self._folder / name)


def _row(token: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"content": token} if isinstance(token, str) else token
