"""Bundles whose prompts or text encoder are none, every hash right: refused in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import prompted
import pytest
from safetensors.numpy import save

from attacks.attack import Change, generated, listed, put, removed, resealed
from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.files import read_json
from edgegen.core.start import ARRAYS
from edgegen.errors import InputError, TrustError
from edgegen.workflows.bundles import OpenedBundle

pytest.importorskip("onnxruntime", reason="bundles need a runtime")
pytest.importorskip("tokenizers", reason="new prompts need the extra prompts")
Captured = pytest.CaptureFixture[str]
OWN = prompted.prompts()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompted.bundle(tmp_path_factory.mktemp("prompts") / "b")


def context(values: np.ndarray) -> bytes:
    null = np.zeros(values.shape[1:], np.float32)
    return save({"context": values, "null_context": null})


def prompts_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(root / MANIFEST)["start"]["conditions"][0]
    return found


def written(name: str, data: bytes) -> Callable[[Path], Change]:
    """A listed file with other bytes, whose hash is right."""

    def make(root: Path) -> Change:
        return listed(root, name, data)

    return make


def said(*path: str, value: Any) -> Callable[[Path], Change]:
    return lambda root: put(("start", *path), value)


def in_prompts(**changes: Any) -> Callable[[Path], Change]:
    return lambda root: put(("start", "conditions"), [{**prompts_of(root), **changes}])


ROWS = OWN.embeddings["context"]
DAMAGED: dict[str, tuple[Callable[[Path], Change], str]] = {
    "no numbers": (written(ARRAYS, context(ROWS * np.nan)), "context holds NaN"),
    "a prompt too few": (written(ARRAYS, context(ROWS[:5])), "there are 6 prompts"),
    "another width": (written(ARRAYS, context(ROWS[:, :, :3])), "the sampler gives (2, 8, 3)"),
    "another length": (written(ARRAYS, context(ROWS[:, :7])), "the sampler gives (2, 7, 4)"),
    "no safetensors": (written(ARRAYS, b"PK"), "start.arrays is no usable safetensors file"),
    "half of it": (written(ARRAYS, context(ROWS)[:-9]), "start.arrays is no usable safetensors"),
    "an array too many": (
        written(ARRAYS, save({"context": ROWS, "more": ROWS})),
        "there is no 'null_context'",
    ),
    "a file that is not listed": (said("arrays", value="evidence/x"), "is used but not listed"),
    "no file": (said("arrays", value=None), "there is no 'context'"),
    "a graph as arrays": (said("arrays", value="graphs/decoder.onnx"), "no usable safetensors"),
    "texts twice": (in_prompts(texts=["a"] * 6), "'a' stands twice"),
    "a text of escapes": (in_prompts(texts=[*"abcde", "\x1b"]), "holds control characters"),
    "a text that is none": (in_prompts(texts=[*"abcde", 7]), "a prompt is a text"),
    "another input": (in_prompts(inputs=["context"]), "a text and an embedding, or neither"),
    "an input that no graph has": (
        lambda root: (
            lambda manifest: (
                listed(root, ARRAYS, save({"other": ROWS}))(manifest),
                put(
                    ("start", "conditions"),
                    [{**prompts_of(root), "inputs": ["other"], "negative": None}],
                )(manifest),
            )
        ),
        "takes x, t, context, and the sampler gives x, t, other",
    ),
    "conditions without end": (
        said("conditions", value=[{"kind": "labels", "classes": 1}] * 65),
        "at most 64 items",
    ),
    "two that choose": (
        lambda root: put(
            ("start", "conditions"), [prompts_of(root), {"kind": "labels", "classes": 2}]
        ),
        "labels or prompts, not two",
    ),
    "a billion classes": (
        said("conditions", value=[{"kind": "labels", "classes": 10**9}]),
        "1 to 100000 classes",
    ),
    "noise without end": (said("shape", value=[1 << 30]), "start: cannot begin from"),
    "schema 1 with conditions": (
        lambda root: put(("schema_version",), 1),
        "schema 1 starts from classes, schema 2 from conditions",
    ),
    "schema 2 with classes": (
        lambda root: put(("start",), {"shape": [1, 8, 8], "classes": 0}),
        "schema 1 starts from classes, schema 2 from conditions",
    ),
    "neither": (lambda root: removed(("start", "conditions")), "start"),
    "an array of nothing": (
        lambda root: put(("start", "conditions"), []),
        "no condition has the array",
    ),
    "a text encoder of nothing": (
        lambda root: lambda manifest: manifest["start"].update(conditions=[], arrays=None),
        "start.text encodes prompts, and the sampler is given none",
    ),
    "a tokenizer elsewhere": (said("text", "tokenizer", value=["../x"]), "used but not listed"),
    "a text graph elsewhere": (
        said("text", "graphs", value={"context": "/etc/passwd"}),
        "used but not listed",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_start_that_is_none_is_refused_when_it_is_opened(
    case: str, root: Path, tmp_path: Path
) -> None:
    change, sentence = DAMAGED[case]
    shutil.copytree(root, copy := tmp_path / "b")
    resealed(copy, change(copy))
    with pytest.raises(TrustError) as raised:
        _ = Bundle.open(copy).declared
    assert sentence in str(raised.value)


def test_a_file_of_embeddings_has_a_largest_size(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegen.core.bundle.ARRAYS_BYTES", 100)
    with pytest.raises(TrustError, match=r"conditions\.safetensors is larger than 100 bytes"):
        Bundle.open(root)


TEXT: dict[str, tuple[Callable[[Path], Change], str]] = {
    "tokens of floats": (
        written("text/context.onnx", prompted.decoder()),
        "start.text: the text graph of context takes (n, 1, 8, 8), and not 3 to 4096 tokens",
    ),
    "fewer tokens": (
        written("text/context.onnx", prompted.text_graph(7)),
        "answers (n, 7, 4), and prompts are (8, 4)",
    ),
    "two tokens": (written("text/context.onnx", prompted.text_graph(2)), "not 3 to 4096 tokens"),
    "no ONNX": (written("text/context.onnx", b"PK"), "not a usable ONNX file"),
    "another kind of file": (
        said("text", "graphs", value={"context": "text/vocab.json"}),
        "a text graph must be .onnx",
    ),
    "a graph of another input": (
        said("text", "graphs", value={"other": "text/context.onnx"}),
        "text graphs make other, and prompts are context",
    ),
    "no tokenizer": (said("text", "tokenizer", value=[]), "the tokenizer has no such file"),
    "a tokenizer of another kind": (
        said("text", "tokenizer", value=["graphs/decoder.onnx"]),
        "no file of a CLIP tokenizer",
    ),
    "a vocabulary that is none": (written("text/vocab.json", b"[]"), "not a JSON object"),
}


@pytest.mark.parametrize("case", TEXT)
def test_a_text_encoder_that_is_none_is_refused_where_it_is_needed(
    case: str, root: Path, tmp_path: Path
) -> None:
    change, sentence = TEXT[case]
    shutil.copytree(root, copy := tmp_path / "b")
    resealed(copy, change(copy))
    one = OpenedBundle(Bundle.open(copy, made_here=True))
    with pytest.raises((InputError, TrustError)) as raised:
        one.generate([1], prompt="the red shoe")
    assert sentence in str(raised.value)
    assert one.generate([1], prompt="one hat").shape == (1, 8, 8, 3), "what it holds it makes"


def test_a_sampler_s_graph_takes_no_tokens(root: Path, tmp_path: Path) -> None:
    """Only a text graph, which no sampler runs, has integers for inputs."""
    shutil.copytree(root, copy := tmp_path / "b")
    resealed(copy, listed(copy, "graphs/decoder.onnx", prompted.text_graph()))
    with pytest.raises(InputError, match="'tokens' is no float32 tensor of known rank"):
        _ = Bundle.open(copy).declared


@pytest.mark.slow
def test_a_bundle_whose_prompts_do_not_fit_ends_in_a_sentence(
    root: Path, tmp_path: Path, capfd: Captured
) -> None:
    (tmp_path / "x").mkdir()
    shutil.copytree(root, copy := tmp_path / "x" / "b")
    resealed(copy, listed(copy, ARRAYS, context(ROWS[:, :, :3])))
    assert "the sampler gives" in generated(copy, capfd, codes=(6,))
