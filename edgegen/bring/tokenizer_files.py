"""Find a tokenizer's files, and how many tokens they know."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .folder_files import CODE, FolderFiles

TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
NAMES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
LARGEST_LENGTH = 1 << 20  # a larger limit of a tokenizer means that it has none


@dataclass(frozen=True)
class TokenizerFiles:
    """Describe a tokenizer.

    `names` are its files by their paths in the folder, `tokens` is one more than the largest token
    number, and `limit` the most tokens of a prompt, if the files say so.
    """

    names: tuple[str, ...]
    tokens: int
    limit: int | None


def tokenizer_files(files: FolderFiles, folder: str) -> TokenizerFiles:
    """Read a tokenizer's files. Raises InputError without a vocabulary."""
    held = files.names(folder)
    names = tuple(f"{folder}/{name}" for name in NAMES if name in held)
    if not ({"vocab.json", "merges.txt"} <= set(held) or "tokenizer.json" in held):
        raise InputError(
            CODE,
            "a tokenizer has vocab.json and merges.txt, or tokenizer.json",
            path=files.path(folder),
        )
    vocabulary = _vocabulary(files, folder, "vocab.json" in held)
    if not vocabulary or not all(type(number) is int for number in vocabulary.values()):
        raise InputError(CODE, "the vocabulary numbers no tokens", path=files.path(folder))
    limit = None
    for name in names:
        files.read(name)  # reading notes its hash
    if f"{folder}/tokenizer_config.json" in names:
        said = files.json(f"{folder}/tokenizer_config.json").get("model_max_length")
        limit = said if isinstance(said, int) and 0 < said < LARGEST_LENGTH else None
    return TokenizerFiles(names, max(vocabulary.values()) + 1, limit)


def _vocabulary(files: FolderFiles, folder: str, plain: bool) -> dict[str, int]:
    if plain:
        return files.json(f"{folder}/vocab.json")
    model = files.json(f"{folder}/tokenizer.json").get("model")
    found = model.get("vocab") if isinstance(model, dict) else None
    return found if isinstance(found, dict) else {}
