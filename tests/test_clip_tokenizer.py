"""CLIP's tokenizer without transformers: the same tokens as with it, and files that are none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import prompted
import pytest

from edgegen.core.clip_tokenizer import FILES, ClipTokenizer
from edgegen.errors import InputError

pytest.importorskip("tokenizers", reason="new prompts need the extra prompts")
Files = dict[str, bytes]
BEGIN, END = len(prompted.vocabulary()) - 2, len(prompted.vocabulary()) - 1

PARTS = (
    *"aAbzZ09 ~!?.,;:'\"#&*()[]{}<>|\\/_-+=@$%^`",
    *(" the ", "red shoe", "it's", "THEY'LL", "i'd've", "12345", "...", "'S", "x" * 40),
    *("<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", " <|endoftext|> ", "<|pad|>", "<|"),
    *("é", "e\u0301", "Å", "\u212b", "ß", "İ", "ﬁ", "Ω", "ς", "ñ", "n\u0303", "\u0301"),
    *("赤い靴", "빨간 신발", "красный", "أحمر", "אדום", "लाल", "ไทย", "½", "Ⅷ", "²", "٣"),
    *("👟", "👩\u200d🔬", "🏳️\u200d🌈", "👍🏽", "😀😀", "\ufe0f", "\u200d", "\u200b"),
    *("\t", "\n", "\r\n", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\x1c", "\u2028"),
    *("\u00a0", "\u3000", "\u202e", "\ufeff", "\ufffd", "\U0010ffff", "\ue000", "  ", "—", "“”"),
)


def texts(count: int) -> list[str]:
    rng = random.Random(0)
    drawn = ["".join(rng.choices(PARTS, k=rng.randint(1, 14))) for _ in range(count)]
    return [*PARTS, "", " ", "a photograph of an astronaut riding a horse", *drawn]


def legacy(**changes: Any) -> Files:
    """A folder as transformers of before wrote it."""
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    rows = {
        name: {
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
        for name, content in special.items()
    }
    said = {**rows, "pad_token": "<|endoftext|>", "unk_token": rows["eos_token"], **changes}
    files = prompted.tokenizer_files()
    return {**files, "special_tokens_map.json": json.dumps(said).encode()}


def numbered() -> Files:
    """One whose settings number the special tokens, and strip what is beside one of them."""
    row = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    said = {
        "added_tokens_decoder": {
            str(BEGIN): {**row, "content": "<|startoftext|>", "special": True},
            str(END): {**row, "content": "<|endoftext|>", "special": True, "rstrip": True},
        },
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    ignored = legacy(pad_token="!")["special_tokens_map.json"]
    files = {**prompted.tokenizer_files(), "special_tokens_map.json": ignored}
    return {**files, "tokenizer_config.json": json.dumps(said).encode()}


FOLDERS: dict[str, Callable[[], Files]] = {
    "plain": prompted.tokenizer_files,
    "with special tokens": legacy,
    "padded with a word": lambda: legacy(pad_token="!"),
    "with numbered tokens": numbered,
}


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_are_those_of_transformers(name: str, whole: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    for file, data in FOLDERS[name]().items():
        (tmp_path / file).write_bytes(data)
    theirs = CLIPTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    folder = tmp_path
    if whole:
        theirs.save_pretrained(str(tmp_path / "saved"))
        folder = tmp_path / "saved"
        theirs = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}
    assert ("tokenizer.json" in files) == whole
    ours, every = ClipTokenizer(files, 77, folder), texts(300)
    wanted = theirs(every, padding="max_length", max_length=77, truncation=True)["input_ids"]
    wrong = [t for t, w in zip(every, wanted, strict=True) if ours(t).ids.tolist() != w]
    assert wrong == []
    counted = [len(one) for one in theirs(every)["input_ids"]]
    assert [ours(text).count for text in every] == counted


def test_a_text_begins_ends_and_is_filled_up() -> None:
    words = prompted.vocabulary()
    found = ClipTokenizer(legacy(pad_token="!"), 8, Path())("the RED   shoe")
    shown = [words["the</w>"], words["red</w>"], words["shoe</w>"]]
    assert found.ids.tolist() == [BEGIN, *shown, END, *[words["!"]] * 3]
    assert found.ids.dtype == np.int64 and (found.count, found.cut) == (5, "")


def test_what_is_cut_off_is_said_as_it_was_written() -> None:
    tokenizer = ClipTokenizer(prompted.tokenizer_files(), 5, Path())
    found = tokenizer("The red SHOE on the Ünique e\u0301toile 👟")
    assert found.ids.tolist()[-1] == END and found.cut == "on the Ünique e\u0301toile 👟"
    assert tokenizer("the red shoe").cut == "" and len(tokenizer("").ids) == 5


def changed(name: str, data: bytes | None) -> Files:
    files = prompted.tokenizer_files()
    return {k: v for k, v in {**files, name: data}.items() if v is not None}


def whole(**model: Any) -> Files:
    """A tokenizer.json in place of the vocabulary."""
    said = {"type": "BPE", "vocab": prompted.vocabulary(), "end_of_word_suffix": "</w>"}
    document = {"model": {**said, "merges": ["t h"], **model}, "added_tokens": []}
    return {"tokenizer.json": json.dumps(document).encode()}


def numbering(content: str, number: int) -> Files:
    rows = {str(number): {"content": content, "special": True}}
    return changed("tokenizer_config.json", json.dumps({"added_tokens_decoder": rows}).encode())


WRONG: dict[str, tuple[Files, str]] = {
    "no vocabulary": (changed("vocab.json", None), "no such file (vocab.json)"),
    "no merges": (changed("merges.txt", None), "no such file (merges.txt)"),
    "no JSON": (changed("vocab.json", b"{"), "not usable JSON"),
    "a list": (changed("vocab.json", b"[]"), "not a JSON object (vocab.json)"),
    "no numbers": (changed("vocab.json", b'{"a": "b"}'), "does not number words"),
    "no end": (changed("vocab.json", b'{"a": 1}'), "E-TOKENIZER"),
    "no text": (changed("merges.txt", b"\n\xff \xfe"), "not UTF-8"),
    "merges that are none": (changed("merges.txt", b"\na b c"), "cannot be built"),
    "merges of other words": (changed("merges.txt", "\nq\u0141 z".encode()), "cannot be built"),
    "settings that are a list": (changed("tokenizer_config.json", b"[]"), "not a JSON object"),
    "tokens of no kind": (
        changed("tokenizer_config.json", b'{"added_tokens_decoder": 7}'),
        "cannot be built",
    ),
    "a token without a row": (numbering("<cat>", 9_000), "'<cat>' is not number 9000"),
    "a token of another number": (numbering("a", 3), "'a' is not number 3"),
    "another model": (whole(type="WordPiece"), "not CLIP's byte-pair encoding"),
    "words without ends": (whole(end_of_word_suffix=""), "not CLIP's byte-pair encoding"),
    "no model": ({"tokenizer.json": b"{}"}, "not CLIP's byte-pair encoding"),
    "no merges in the whole": (whole(merges=7), "cannot be built"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_no_tokenizer_are_refused(case: str) -> None:
    files, said = WRONG[case]
    with pytest.raises(InputError) as raised:
        ClipTokenizer(files, 8, Path())
    assert said in str(raised.value) and raised.value.code == "E-TOKENIZER"
