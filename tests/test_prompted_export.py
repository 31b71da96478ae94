"""A generator that nobody here can train, and that takes prompts, through the whole export: graphs,
latent and sampler are all that is asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import prompted
import pytest
import torch
from listeners import Heard
from onnx import TensorProto
from torch import Tensor, nn

from edgegen.core.bundle import Bundle
from edgegen.core.conditions import Prompts
from edgegen.core.declared import declared
from edgegen.core.graph import Embedded, Exportable, Generator, Graph
from edgegen.core.latent import Latent
from edgegen.core.samplers import LatentDdimSampler, Sampler
from edgegen.core.seeds import USES
from edgegen.core.spec import TensorSpec
from edgegen.errors import InputError, UsageError
from edgegen.evidence.classes import class_names
from edgegen.workflows.bundles import open_bundle
from edgegen.workflows.export.beginning import prompts_by_use, write_beginning
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.run import ExportSettings, export_bundle
from edgegen.workflows.generators import LoadedGenerator, torch_pipeline
from edgegen.workflows.prompts import TextGraphs, bank_of, torch_encoders
from edgegen.workflows.sampling_choices import SamplingChoices, chosen

TEXTS = tuple(f"{colour} {thing}" for colour in ("red", "blue") for thing in ("hat", "bag", "coat"))
SIDE = 16
NOISE = TensorSpec("x", ("batch", 4, SIDE, SIDE))
SAMPLER = LatentDdimSampler((600, 200), (0.2, 0.7), "epsilon", guidance=3.0)
CONTEXT = TensorSpec("context", ("batch", prompted.TOKENS, prompted.WIDTH))
IMAGE = TensorSpec("image", ("batch", 3, SIDE, SIDE))


class Denoiser(nn.Module):
    """The text moves channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
        self.told = nn.Linear(prompted.WIDTH, 16)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        told = self.told(context.mean(1)) + t[:, None] / 1000
        out: Tensor = self.leave(torch.relu(self.enter(x) + told[:, :, None, None]))
        return out


class TextTable(nn.Module):
    """A row a token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(prompted.table()), prompted.WIDTH)
        self.table.weight.data = torch.from_numpy(prompted.table())

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.table(tokens)
        return out


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leave = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(x)
        return out


@dataclass(frozen=True)
class Brought:
    """What an Exportable has, and nothing else."""

    denoiser: nn.Module
    decoder: nn.Module
    latent: Latent
    sampler: Sampler = SAMPLER
    image_shape: tuple[int, int, int] = (3, SIDE, SIDE)
    embeds_training_data: Embedded = "none"

    def graphs(self) -> Mapping[str, Graph]:
        t, y = TensorSpec("t", ("batch",)), replace(NOISE, name="noise")
        return {
            "denoiser": Graph(self.denoiser, (NOISE, t, CONTEXT), y),
            "decoder": Graph(self.decoder, (NOISE,), IMAGE),
        }


def bank(texts: tuple[str, ...]) -> Prompts:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((len(texts), prompted.TOKENS, prompted.WIDTH)) * 2
    null = np.zeros((prompted.TOKENS, prompted.WIDTH), np.float32)
    return Prompts(texts, {"context": rows.astype(np.float32), "null_context": null}, "")


@cache
def text() -> TextGraphs:
    tokens = TensorSpec("tokens", ("batch", prompted.TOKENS), "int64")
    return TextGraphs(
        {"context": Graph(TextTable().eval(), (tokens,), CONTEXT)}, prompted.tokenizer_files()
    )


def source(texts: tuple[str, ...] = TEXTS) -> LoadedGenerator:
    torch.manual_seed(0)
    made = Brought(Denoiser().eval(), Decoder().eval(), Latent(NOISE, (bank(texts),)))
    about = {"name": "toy", "weights_sha256": "0" * 64, "data": {}, "licence": "MIT"}
    return LoadedGenerator("toy", "brought", made, about, Path("none"), text=text())


def test_what_is_exported_is_no_generator_of_a_family() -> None:
    one: Exportable = source().generator
    assert not isinstance(one, Generator)
    assert chosen(source(), SamplingChoices())[0].latent.prompts is not None
    with pytest.raises(UsageError, match="brought has no option --steps"):
        chosen(source(), SamplingChoices(steps=3))


def test_a_calibration_says_that_prompts_are_too_few() -> None:
    notes = Heard()
    Trajectories(source(TEXTS[:2]).generator, 32, listen=notes)
    assert notes.notes == [
        "W-PROMPTS-FEW: of 2 prompts calibration, search and verdict see the same; with 3 or more "
        "each has its own"
    ]
    Trajectories(source().generator, 32, listen=notes)
    assert len(notes.notes) == 1
    assert prompts_by_use(source().generator.latent) == {"prompts": dict.fromkeys(USES, 2)}
    assert prompts_by_use(Latent(NOISE)) == {}


def test_torch_makes_images_of_prompts() -> None:
    """Guidance is away from the negative prompt."""
    pipeline = torch_pipeline(source().generator)
    assert source().generate([3, 4]).shape == (2, SIDE, SIDE, 3)
    new = [source().generate([3], prompt=p, negative=n) for p in ("a", "b") for n in ("", "c")]
    assert len({one.tobytes() for one in new}) == 4
    with pytest.raises(UsageError, match="the bundle has no text encoder"):
        replace(source(), text=None).generate([3], prompt="a")
    own = pipeline.latent.prompts
    assert own is not None
    twin = {**own.embeddings, "null_context": own.embeddings["context"][0]}
    other = replace(pipeline, latent=pipeline.latent.showing(replace(own, embeddings=twin)))
    assert np.abs(pipeline([3]) - other([3])).max() > 0.01


def test_prompts_are_encoded_once_for_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, encoders = Heard(), torch_encoders(text())
    assert encoders is not None
    found = bank_of(("the red shoe", "b" * 50), "a", encoders(), notes)
    expected = prompted.encoded("the</w>", "red</w>", "shoe</w>")
    np.testing.assert_array_equal(found.embeddings["context"][0], expected)
    assert found.negative == "a" and found.embeddings["null_context"].shape == expected.shape
    (said,) = notes.notes
    assert said.startswith("W-PROMPT-CUT: the prompt 'bbbbb") and "has 52 tokens" in said
    assert bank_of(("a",), None, encoders()).inputs == ("context",)
    with pytest.raises(InputError, match="'a' stands twice"):
        bank_of(("a", "a"), None, encoders())
    monkeypatch.setattr("edgegen.core.rehearsal.ARRAYS_BYTES", 200)
    with pytest.raises(InputError, match="2 encoded prompts are more than 200 bytes - use fewer"):
        bank_of(("a", "b"), None, encoders())


@pytest.mark.export
def test_a_text_encoder_ships_beside_the_graphs(tmp_path: Path) -> None:
    start = write_beginning(source(), tmp_path, threads=1).start
    assert start["text"] == {
        "graphs": {"context": "text/context.onnx"},
        "tokenizer": ["text/merges.txt", "text/tokenizer_config.json", "text/vocab.json"],
    }
    found = declared((tmp_path / "text" / "context.onnx").read_bytes(), tokens=True)
    assert found.integers == ("tokens",) and found.output == (None, 8, 4)
    for name in start["text"]["tokenizer"]:
        assert (tmp_path / name).is_file()
    assert write_beginning(replace(source(), text=None), tmp_path, threads=1).start["text"] is None


@pytest.mark.export
@pytest.mark.parametrize(
    ("is_own", "stored", "said"),
    [(True, TensorProto.INT8, "and ships so"), (False, TensorProto.FLOAT, "less than 30 dB")],
)
def test_a_text_encoder_has_8_bit_weights_where_its_prompts_stay_near(
    is_own: bool, stored: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that another encoder made are far from whatever this one makes."""
    monkeypatch.setattr("edgegen.export.weight_only.WORTH_CODING", 8)
    encoders, notes, one = torch_encoders(text()), Heard(), source()
    assert encoders is not None
    if is_own:
        prompts = bank_of(TEXTS, "", encoders())
        own = one.generator
        assert isinstance(own, Brought)
        one = replace(one, generator=replace(own, latent=Latent(NOISE, (prompts,))))
    found = write_beginning(one, tmp_path, 1, notes).text["context"]
    model = onnx.load(tmp_path / "text" / "context.onnx")
    assert {t.data_type for t in model.graph.initializer if len(t.dims) == 2} == {stored}
    (note,) = notes.notes
    assert said in note and f"{found['worst_sqnr_db']:.1f} dB" in note
    assert (found["worst_sqnr_db"] >= 30) == is_own
    assert found["weights"] == ("int8" if is_own else "float")


@pytest.mark.slow
@pytest.mark.export
def test_it_is_exported_judged_by_prompt_and_makes_new_ones(tmp_path: Path) -> None:
    settings = ExportSettings(
        ("onnxruntime",),
        min_psnr_db=0,
        max_ruined=0.5,
        max_moved=0.99,
        max_apart=0.99,
        no_reference=True,
        max_images=512,
        calibration_samples=32,
        threads=1,
    )
    made = source()
    result = export_bundle(made, tmp_path / "b", settings)
    one = Bundle.open(tmp_path / "b", made_here=True)
    latent = made.generator.latent
    assert latent.prompts is not None and one.manifest.schema_version == 2
    gates = result.to_json()["runtimes"]["onnxruntime"]["gates"]
    verdict = latent.prompts.names("verdict")
    assert {found["class"] for found in gates["classes"]} == set(verdict)
    assert all(found["pairs"] > 100 for found in gates["classes"])
    assert one.manifest.calibration["prompts"] == {"calibration": 2, "search": 2, "verdict": 2}
    assert class_names({}, one.latent, 1_000_000) == verdict
    opened = open_bundle(tmp_path / "b")
    assert opened.prompts == TEXTS
    own = opened.generate([3], prompt="the red shoe", negative="a")
    assert np.abs(own.astype(int) - opened.generate([3], prompt="the red shoe")).max() > 2
    card = (tmp_path / "b" / "README.md").read_text("utf-8")
    assert "of 6 prompts that it holds" in card
