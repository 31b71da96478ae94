"""What 8-bit weights in a text encoder save is measured, and what they cost.

    python -m benchmarks text_encoder tests/data/emoji --prompts tests/data/emoji/prompts.txt
    python -m benchmarks text_encoder FOLDER --prompts FILE --images 0 [--json FILE]

Both ways: bytes of its files, CPU time of a prompt (in turn, medians), peak memory of a process
that loads it and encodes one prompt; how far each prompt of the file is from full precision, and
images of equal seeds whose prompts were encoded both ways, the denoiser in full precision (none
with --images 0). docs/decisions/0020-text-encoders.md has what was measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from _measure import in_turns, median, said_by
from _result import Part, Row, arguments_of, report

from edgegen.core.clip_tokenizer import ClipTokenizer
from edgegen.core.conditions import Prompts
from edgegen.core.prompt_encoder import PromptEncoder
from edgegen.core.spec import Array
from edgegen.evidence.distances import psnr
from edgegen.evidence.parity import signal_to_error_db
from edgegen.export import onnx as onnx_files
from edgegen.export import runtime
from edgegen.export.weight_only import with_coded_weights
from edgegen.workflows.generators import LoadedGenerator, load_generator, torch_pipeline
from edgegen.workflows.prompts import TextGraphs, bank_of
from edgegen.workflows.source_choices import SourceChoices

FLOAT, CODED = "as-it-came", "int8"
HOST, ROUNDS, BATCH, FIRST_SEED = "onnxruntime", 15, 16, 1_000_000
PEAK = """
import sys
from pathlib import Path
import numpy as np
from edgegen.export import runtime
from edgegen.machine.resident import peak_bytes
session = runtime(sys.argv[1]).load(Path(sys.argv[2]), 1)
session(**{sys.argv[3]: np.zeros((1, int(sys.argv[5])), np.int64)})
print(peak_bytes())
"""
Call = Callable[..., Array]


def written(text: TextGraphs, name: str, folder: Path) -> Mapping[str, Path]:
    """The text encoder's files by how their weights are stored."""
    model = onnx_files.to_onnx(text.graphs[name], name)
    coded = with_coded_weights(model)
    if coded is None:
        raise SystemExit("text_encoder: it has no matrix that is worth coding")
    files = {}
    for kind, value in ((FLOAT, model), (CODED, coded)):
        (folder / kind).mkdir()
        files[kind] = onnx_files.write(value, folder / kind / f"{name}.onnx")
    return files


def encoded(call: Call, tokens: Mapping[str, np.ndarray], turn: int) -> None:
    """One prompt, whichever turn it is."""
    call(**tokens)


def bank(source: LoadedGenerator, text: TextGraphs, name: str, call: Call) -> Prompts:
    """The generator's prompts, encoded by that."""
    own, tokens = source.generator.latent.prompts, text.graphs[name].inputs[0]
    assert own is not None
    tokenizer = ClipTokenizer(text.tokenizer, int(tokens.shape[1]), Path())
    encoder = PromptEncoder(tokenizer, {name: lambda ids: call(**{tokens.name: ids})})
    return bank_of(own.texts, own.negative, encoder)


def images(source: LoadedGenerator, prompts: Prompts, count: int) -> Array:
    """In [-1, 1], of equal seeds; the denoiser in full precision."""
    pipeline = torch_pipeline(source.generator)
    pipeline = replace(pipeline, latent=pipeline.latent.showing(prompts))
    last = FIRST_SEED + count
    return np.concatenate(
        [pipeline(range(k, min(k + BATCH, last))) for k in range(FIRST_SEED, last, BATCH)]
    )


def measured(source: LoadedGenerator, count: int) -> Iterator[Row]:
    """A row a way to store the weights."""
    text = source.text
    if text is None:
        raise SystemExit("text_encoder: this generator has no text encoder")
    ((name, graph),) = text.graphs.items()
    tokens = graph.inputs[0]
    empty = {tokens.name: np.zeros((1, int(tokens.shape[1])), np.int64)}
    with tempfile.TemporaryDirectory() as place:
        files = written(text, name, Path(place))
        calls = {kind: runtime(HOST).load(path, 1) for kind, path in files.items()}
        encode = {kind: partial(encoded, call, empty) for kind, call in calls.items()}
        spent = in_turns(encode, ROUNDS)
        banks = {kind: bank(source, text, name, call) for kind, call in calls.items()}
        for kind, path in files.items():
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            shape = map(str, empty[tokens.name].shape)
            peak = said_by("-c", PEAK, HOST, str(path), tokens.name, *shape)
            yield {
                "weights": kind,
                "MB": round(size / 1e6, 2),
                "CPU ms a prompt": round(1e3 * median(spent[kind]).cpu, 2),
                "peak MB": round(int(peak) / 1e6),
                **distances(source, name, banks[FLOAT], banks[kind], count),
            }


def distances(
    source: LoadedGenerator, name: str, exact: Prompts, found: Prompts, count: int
) -> Row:
    """How far prompts, and images of them, are from those of the text encoder as it came."""
    near = [
        signal_to_error_db(a, b)
        for a, b in zip(exact.embeddings[name], found.embeddings[name], strict=True)
    ]
    row: dict[str, float] = {
        "prompts": len(near),
        "worst dB": min(near),
        "median dB": float(np.median(near)),
    }
    if count:
        far = np.minimum(psnr(images(source, exact, count), images(source, found, count)), 200)
        row |= {"images": count, "worst image, dB": far.min(), "median image, dB": np.median(far)}
    return {k: v if isinstance(v, int) else round(float(v), 1) for k, v in row.items()}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--guidance", type=float, help="strength of classifier-free guidance")
    parser.add_argument("--images", type=int, default=64, help="to compare; 0 for none")
    given = parser.parse_args()
    choices = SourceChoices(prompts=given.prompts, guidance=given.guidance)
    found = list(measured(load_generator(given.folder, choices=choices), given.images))
    seeds = f"{given.images} images from {FIRST_SEED:,} on" if given.images else "none"
    report(given.json, "text_encoder", given.folder.name, Part(found, seeds, 1, {"rounds": ROUNDS}))


if __name__ == "__main__":
    main()
