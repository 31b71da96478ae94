"""Every parser of ours that reads what others wrote, given damage at random: an error of ours or an
answer, and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import prompted
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.numpy import save
from toys import CONFIG

from attacks.attack import TOY
from edgegen.core.clip_tokenizer import ClipTokenizer
from edgegen.core.conditions import conditions_from_json
from edgegen.core.declared import declared
from edgegen.core.files import parse_json, to_json
from edgegen.core.keys import SiteKeys
from edgegen.core.latent import Latent
from edgegen.core.manifest import ConditionedStart, Manifest
from edgegen.core.plan import Plan
from edgegen.core.rehearsal import bounded_sampler
from edgegen.core.samplers import SAMPLERS, sampler_from_json
from edgegen.core.signature import check
from edgegen.core.start import read_start
from edgegen.errors import EdgegenError
from edgegen.evidence import golden_images, reference
from edgegen.evidence.stopping import Watch
from edgegen.export import ir_structure, onnx_structure
from edgegen.families.cas_dm import CasDmConfig
from edgegen.machine.probe import TINY
from edgegen.training import checkpoint, digests
from edgegen.training.adapt import files
from edgegen.training.colour import ADOBE_PRIMARIES
from edgegen.training.layout.understand import understand
from edgegen.training.record import rewind
from edgegen.training.recorded import Recorded
from edgegen.workflows.finetune import periodic_eval as looks

pytest.importorskip("cryptography", reason="signatures need the extra sign")
HERE = Path("file")
NOBODY = SiteKeys({})
IR = b"""<?xml version="1.0"?><net name="g" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1">
<data shape="1,1,2,2" element_type="f32"/></layer>
<layer id="1" name="c" type="Const" version="opset1">
<data element_type="f32" shape="2" offset="0" size="8"/></layer></layers></net>"""


WHOLE_TOKENIZER = to_json(
    {
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4},
            "merges": ["a b</w>"],
            "end_of_word_suffix": "</w>",
        },
        "added_tokens": [{"id": 4, "content": "<|endoftext|>", "special": True}],
    }
)


def read_manifest(data: bytes) -> None:
    manifest = Manifest.model_validate(parse_json(data))
    to_json(manifest.model_dump())
    read_start(manifest.start, lambda name: name.encode())
    bounded_sampler(manifest.sampler)
    sampler_from_json(manifest.sampler)


def read_sampler(data: bytes) -> None:
    sampler = parse_json(data)
    if isinstance(sampler, dict):
        bounded_sampler(sampler)
    sampler_from_json(sampler)


Parser = Callable[[bytes], Any]


def read_conditions(data: bytes) -> None:
    prompts = prompted.prompts()
    given = conditions_from_json(parse_json(data), prompts.embeddings)
    Latent(prompted.latent().noise, given).condition([1, 2])


def read_arrays(data: bytes) -> None:
    conditions = [prompted.prompts().to_json()]
    start = ConditionedStart(shape=[1, 8, 8], conditions=conditions, arrays="a")
    read_start(start, lambda name: data).condition([1, 2])


def read_tokenizer(name: str) -> Parser:
    def read(data: bytes) -> None:
        pytest.importorskip("tokenizers")
        built = ClipTokenizer({**prompted.tokenizer_files(), name: data}, 8, HERE)
        built("the red <|endoftext|> shoe!")

    return read


PARSERS: dict[str, tuple[bytes, Parser]] = {
    "what ONNX declares": ((TOY / "graphs/theta.onnx").read_bytes()[-900:], declared),
    "a tiny ONNX": (TINY, declared),
    "the structure of ONNX": (
        (TOY / "int8/onnxruntime/phi.onnx").read_bytes()[:6000],
        lambda data: onnx_structure.check(data, HERE),
    ),
    "the structure of a tiny ONNX": (TINY, lambda data: onnx_structure.check(data, HERE)),
    "the structure of IR": (IR, lambda data: ir_structure.check(data, bytes(8), HERE)),
    "a manifest": ((TOY / "manifest.json").read_bytes(), read_manifest),
    "a sampler": (
        b'{"kind": "cascade", "timesteps": [9, 4], "signal": [0.1, 0.5], "window": [1, 9]}',
        read_sampler,
    ),
    "conditions": (to_json([prompted.prompts().to_json()]), read_conditions),
    "arrays of conditions": (
        save({n: np.array(v) for n, v in prompted.prompts().embeddings.items()}),
        read_arrays,
    ),
    "a vocabulary": (prompted.tokenizer_files()["vocab.json"], read_tokenizer("vocab.json")),
    "merges": (prompted.tokenizer_files()["merges.txt"], read_tokenizer("merges.txt")),
    "a whole tokenizer": (WHOLE_TOKENIZER, read_tokenizer("tokenizer.json")),
    "special tokens": (
        b'{"pad_token": "!", "eos_token": {"content": "<|endoftext|>", "rstrip": true}}',
        read_tokenizer("special_tokens_map.json"),
    ),
    "a signature": (
        (TOY / "model.sig").read_bytes(),
        lambda data: check(data, HERE, {}, NOBODY),
    ),
    "a plan": (
        (TOY / "int8/onnxruntime/plan.json").read_bytes(),
        lambda data: Plan.parsed(data, HERE),
    ),
    "kept images": (
        (TOY / "evidence/images.safetensors").read_bytes()[:4000],
        lambda data: golden_images.parsed(data, HERE),
    ),
    "statistics": (
        (TOY / "evidence/reference.safetensors").read_bytes()[:4000],
        lambda data: reference.parsed(data, HERE),
    ),
}


def of_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """The file of that name with these bytes, in a folder without digests, which would find any
    damage.
    """

    def parse(data: bytes, folder: Path) -> object:
        (path := folder / name).parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return read(folder)

    return parse


def of_config(folder: Path) -> object:
    about = digests.description(folder)
    Recorded.of(folder)
    return checkpoint.parse(CasDmConfig, about.get("config"), folder)


def of_adapter(folder: Path) -> object:
    """A config beside sound tensors."""
    (folder / files.TENSORS).write_bytes(ADAPTER.to_bytes()[files.TENSORS])
    return files.Adapter.read(folder)


def of_set(name: str) -> Callable[[bytes, Path], object]:
    """A table or an archive with these bytes, as a set of photos is understood."""

    def read(folder: Path) -> object:
        (folder / "0.png").write_bytes(photo())
        return understand(folder / name if name.endswith(".zip") else folder)

    return of_file(name, read)


def photo() -> bytes:
    """A PNG that says its primaries and gamma."""
    out, colours = io.BytesIO(), PngImagePlugin.PngInfo()
    colours.add(b"gAMA", (45455).to_bytes(4, "big"))
    colours.add(b"cHRM", b"".join(round(v * 1e5).to_bytes(4, "big") for v in ADOBE_PRIMARIES))
    Image.new("RGB", (2, 2)).save(out, "PNG", pnginfo=colours)
    return out.getvalue()


def archived() -> bytes:
    """Two photos and a table."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", photo())
        archive.writestr("b/1.png", photo())
        archive.writestr("metadata.csv", "file_name,label\na/0.png,x\nb/1.png,y\n")
    return out.getvalue()


WEIGHTS = checkpoint.to_bytes({"theta.a": torch.ones(2, 3), "phi.b": torch.ones(4)})
ADAPTER = files.Adapter(
    files.Lora(1, 2.0, ("theta.a",)),
    {f"theta.a.lora_{part}.weight": torch.ones(1, 1) for part in "AB"},
    "0" * 64,
)
STATE = {"step": 4, "skipped": 0, "averaged": {"theta": 4}, "sha256": {"theta": "0"}}
IN_RUNS: dict[str, tuple[bytes, Callable[[bytes, Path], object]]] = {
    "a run": (
        to_json(checkpoint.describe("cas-dm", CONFIG)),
        of_file(digests.RUN, of_config),
    ),
    "digests": (
        digests.Digests({"run.json": ("0" * 64,)}, True).to_bytes(),
        of_file(digests.FILE, digests.Digests.of),
    ),
    "a checkpoint": (
        to_json(STATE),
        of_file(checkpoint.STATE, lambda at: checkpoint._state(at / checkpoint.STATE, {"theta"})),
    ),
    "the newest": (b"step-00000004", of_file("latest", checkpoint.newest)),
    "weights": (WEIGHTS, of_file("a", lambda at: checkpoint.read_weights(at / "a"))),
    "losses": (
        b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}\n',
        of_file(checkpoint.METRICS, lambda at: rewind(at / checkpoint.METRICS, 1)),
    ),
    "looks": (to_json({"watch": Watch().to_json(), "last": {}}), of_file(looks.FILE, looks._kept)),
    "pictures": (
        save({"base": np.zeros((1, 2, 2, 3), np.uint8)}),
        of_file(looks.PICTURES, looks.pictures),
    ),
    "an adapter": (ADAPTER.to_bytes()[files.CONFIG], of_file(files.CONFIG, of_adapter)),
    "an archive of photos": (archived(), of_set("a.zip")),
    "a table of photos": (b"file_name,label,text\n0.png,x,y\n", of_set("metadata.csv")),
    "rows of photos": (b'{"file_name": "0.png", "label": 1}\n', of_set("metadata.jsonl")),
    "labels of photos": (b'{"labels": [["0.png", 1]]}', of_set("dataset.json")),
}
Damage = tuple[int, int, bytes]  # where, how many bytes go, what comes
DAMAGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(0, 8), st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damages: list[Damage]) -> bytes:
    for place, gone, new in damages:
        place %= len(data) + 1
        data = data[:place] + new + data[place + gone :]
    return data


FEW = settings(max_examples=200, suppress_health_check=list(HealthCheck))
TIMES = 10_000


# these are parts of a reader that makes a sentence of their ValueError
PARTS = (
    *("what ONNX declares", "a tiny ONNX", "a manifest", "a sampler"),
    *("conditions", "arrays of conditions"),
)


def an_error_of_ours(parser: str, damages: list[Damage], folder: Path) -> None:
    expected = (EdgegenError, ValueError) if parser in PARTS else (EdgegenError,)
    with contextlib.suppress(*expected):
        if parser in IN_RUNS:
            data, read = IN_RUNS[parser]
            read(damaged(data, damages), folder)
        else:
            data, parse = PARSERS[parser]
            parse(damaged(data, damages))


ALL = [*PARSERS, *IN_RUNS]


@pytest.mark.parametrize("parser", ALL)
@FEW
@given(damages=DAMAGES)
def test_damage_is_an_error_of_ours(parser: str, damages: list[Damage], tmp_path: Path) -> None:
    an_error_of_ours(parser, damages, tmp_path)


SOUND = (
    *("a manifest", "conditions", "arrays of conditions"),
    *("a vocabulary", "merges", "a whole tokenizer", "special tokens"),
)


@pytest.mark.parametrize("parser", SOUND)
def test_what_is_sound_is_read(parser: str) -> None:
    data, read = PARSERS[parser]
    read(data)


@pytest.mark.parametrize("parser", IN_RUNS)
def test_a_sound_file_of_a_run_is_read(parser: str, tmp_path: Path) -> None:
    """Else the damage would be tried on something that is refused anyway."""
    data, read = IN_RUNS[parser]
    read(data, tmp_path)


@pytest.mark.reliability
@pytest.mark.parametrize("parser", ALL)
def test_damage_ten_thousand_times(
    parser: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tried: list[int] = []
    record_property("reliability", ("parser", parser, TIMES, 1))  # where it ends before the last

    @settings(max_examples=TIMES, suppress_health_check=list(HealthCheck))
    @given(damages=DAMAGES)
    def each(damages: list[Damage]) -> None:
        tried.append(1)
        an_error_of_ours(parser, damages, tmp_path)

    each()
    record_property("reliability", ("parser", parser, len(tried) - TIMES, -1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
# of every kind that a manifest may hold: one that is added is tried, too
FIELDS = sorted({one.name for kind in SAMPLERS.values() for one in fields(cast(Any, kind))})
KINDS = st.sampled_from(sorted(SAMPLERS))
OF_TWO_STEPS = {"timesteps": [2, 1], "signal": [0.1, 0.5], "levels": [1.0, 0.5]}


def two_steps(kind: str) -> dict[str, Any]:
    """What a sampler of that kind needs, for two steps."""
    known = {one.name for one in fields(cast(Any, SAMPLERS[kind]))}
    needed = {name: [1.0, 1.0] for name in known if name.startswith(("clean_", "next_"))}
    return {**needed, **{k: v for k, v in OF_TWO_STEPS.items() if k in known}, "kind": kind}


@pytest.mark.parametrize("kind", sorted(SAMPLERS))
def test_a_sound_sampler_is_read(kind: str) -> None:
    """Else the values below would be tried on something that is refused anyway."""
    assert len(sampler_from_json(two_steps(kind)).timesteps) == (1 if kind == "single" else 2)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2), KINDS)
def test_samplers_of_any_values_are_an_error_of_ours(values: dict[str, Any], kind: str) -> None:
    own = {one.name for one in fields(cast(Any, SAMPLERS[kind]))}
    changed = {name: value for name, value in values.items() if name in own and name != "kind"}
    with contextlib.suppress(EdgegenError, ValueError):
        bounded_sampler({**two_steps(kind), **changed})
        sampler_from_json({**two_steps(kind), **changed})
