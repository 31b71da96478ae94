"""A generator of nothing much that takes prompts: its bundle in milliseconds, of ONNX written by
hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgegen.core.bundle import write_manifest
from edgegen.core.conditions import Prompts
from edgegen.core.latent import Latent
from edgegen.core.samplers import Call, LatentDdimSampler, sampler_to_json
from edgegen.core.spec import TensorSpec
from edgegen.core.start import write_start
from edgegen.evidence import golden_images

TOKENS, WIDTH, SIDE = 8, 4, 8
TEXTS = ("a red shoe", "a blue shirt", "a green bag", "a grey coat", "two socks", "one hat")
SAMPLER = LatentDdimSampler((50, 10), (0.4, 0.9), "epsilon", guidance=2.0)


def letters() -> list[str]:
    """How CLIP writes the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + k) for k in range(len(others))]


MERGES = ("t h", "r e", "e d</w>", "re d</w>", "s h", "o e</w>", "sh oe</w>", "b l", "th e</w>")


def vocabulary() -> dict[str, int]:
    words = [*letters(), *(f"{letter}</w>" for letter in letters())]
    words += [merge.replace(" ", "") for merge in MERGES]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}


def tokenizer_files() -> dict[str, bytes]:
    """vocab.json and merges.txt, and what diffusers folders say beside them."""
    return {
        "vocab.json": json.dumps(vocabulary()).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *MERGES, ""]).encode(),
        "tokenizer_config.json": b'{"model_max_length": 8, "tokenizer_class": "CLIPTokenizer"}',
    }


def table() -> np.ndarray:
    """A row a token: what the text encoder looks up."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((len(vocabulary()), WIDTH)).astype(np.float32)


def onnx_file(nodes: list[Any], inputs: dict[str, Any], output: Any, **constants: Any) -> bytes:
    """inputs: by name, shape, or type and shape; output: name and shape."""

    def value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [value(n, s[1], s[0]) if isinstance(s, tuple) else value(n, s) for n, s in inputs.items()],
        [value(*output)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return made


def denoiser(width: int = WIDTH) -> bytes:
    """Less of x, and the mean of the context as a level."""
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["context", "axes"], ["mean"], keepdims=1),
        node("Reshape", ["mean", "shape"], ["level"]),
        node("Mul", ["x", "some"], ["less"]),
        node("Reshape", ["t", "shape"], ["time"]),
        node("Mul", ["time", "none"], ["still"]),
        node("Add", ["less", "level"], ["sum"]),
        node("Add", ["sum", "still"], ["y"]),
    ]
    inputs = {
        "x": ["batch", 1, SIDE, SIDE],
        "t": ["batch"],
        "context": ["batch", TOKENS, width],
    }
    return onnx_file(
        nodes,
        inputs,
        ("y", ["batch", 1, SIDE, SIDE]),
        axes=np.array([1, 2]),
        shape=np.array([-1, 1, 1, 1]),
        some=np.float32(0.5),
        none=np.float32(0),
    )


def decoder() -> bytes:
    shape = ["batch", 1, SIDE, SIDE]
    return onnx_file([helper.make_node("Tanh", ["x"], ["y"])], {"x": shape}, ("y", shape))


def text_graph(tokens: int = TOKENS) -> bytes:
    return onnx_file(
        [helper.make_node("Gather", ["table", "tokens"], ["y"])],
        {"tokens": (TensorProto.INT64, ["batch", tokens])},
        ("y", ["batch", tokens, WIDTH]),
        table=table(),
    )


def encoded(*words: str) -> np.ndarray:
    """(TOKENS, WIDTH) of a text of these words of the vocabulary."""
    known = vocabulary()
    end = "<|endoftext|>"
    tokens = ["<|startoftext|>", *words, end, *[end] * TOKENS][:TOKENS]
    rows: np.ndarray = table()[[known[token] for token in tokens]]
    return rows


def images(seeds: Sequence[int], context: np.ndarray, null: np.ndarray) -> np.ndarray:
    """What the bundle should make of these contexts, (n, TOKENS, WIDTH), by numpy alone."""

    def denoised(x: np.ndarray, t: np.ndarray, context: np.ndarray) -> np.ndarray:
        return x * np.float32(0.5) + context.mean((1, 2))[:, None, None, None]

    call: Call[np.ndarray] = {"denoiser": denoised, "decoder": lambda x: np.tanh(x)}
    start = latent().start(seeds)
    made: np.ndarray = SAMPLER(
        call, start, {"context": context, "null_context": null}, lambda stream: start
    )
    return made


def prompts(texts: tuple[str, ...] = TEXTS, negative: str | None = "") -> Prompts:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((len(texts), TOKENS, WIDTH)).astype(np.float32)
    arrays = {"context": rows}
    if negative is not None:
        arrays["null_context"] = np.zeros((TOKENS, WIDTH), np.float32)
    return Prompts(texts, arrays, negative)


def latent(own: Prompts | None = None) -> Latent:
    return Latent(TensorSpec("x", ("batch", 1, SIDE, SIDE)), (own or prompts(),))


def bundle(
    root: Path, own: Prompts | None = None, text: bool = True, kept: bytes | None = None
) -> Path:
    """With prompts, and with what encodes others; kept: images that it should make."""
    (root / "graphs").mkdir(parents=True)
    start = write_start(latent(own), root)
    (root / "graphs" / "denoiser.onnx").write_bytes(denoiser())
    (root / "graphs" / "decoder.onnx").write_bytes(decoder())
    files = {name: f"graphs/{name}.onnx" for name in ("denoiser", "decoder")}
    if kept is not None:
        (root / golden_images.FILE).parent.mkdir()
        (root / golden_images.FILE).write_bytes(kept)
    if text:
        (root / "text").mkdir()
        (root / "text" / "context.onnx").write_bytes(text_graph())
        for name, data in tokenizer_files().items():
            (root / "text" / name).write_bytes(data)
        start["text"] = {
            "graphs": {"context": "text/context.onnx"},
            "tokenizer": [f"text/{name}" for name in sorted(tokenizer_files())],
        }
    built = {"version": "1", "device": "CPU", "load": files, "onnx": files, "code": False}
    write_manifest(
        root,
        {
            "family": "brought",
            "source": {"name": "toy", "data": {}, "licence": "MIT"},
            "embeds_training_data": "none",
            "start": start,
            "sampler": sampler_to_json(SAMPLER),
            "graphs": files,
            "scheme": "none",
            "calibration": {},
            "runtimes": {"onnxruntime": {**built, "until": {}}},
            "evidence": {},
        },
    )
    return root
