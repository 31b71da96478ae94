"""Prompts on a device: a bundle's own and new ones, without torch; and bundles and texts that are
none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prompted
import pytest
from house import python
from listeners import Heard

import edgegen
from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.conditions import Prompts
from edgegen.core.images import to_uint8
from edgegen.core.prompt_encoder import encoder_of
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import CALIBRATION, EVIDENCE
from edgegen.core.start import ARRAYS, write_start
from edgegen.errors import EdgegenError, InputError, UsageError
from edgegen.evidence import golden_images
from edgegen.export import runtime
from edgegen.workflows.bundles import OpenedBundle, images_of
from edgegen.workflows.prompts import encoders_of, read_prompts
from edgegen.workflows.prompts import prompted as choosing

pytest.importorskip("onnxruntime", reason="bundles need a runtime")
pytest.importorskip("tokenizers", reason="new prompts need the extra prompts")
Captured = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parent / "golden" / "bundle-2-prompts"
CLASSES = GOLDEN.with_name("bundle-1-toy")
OWN = prompted.prompts()
SEEDS = range(5, 10)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prompted.bundle(tmp_path_factory.mktemp("prompts") / "b")


@pytest.fixture(scope="module")
def without_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It takes no negative prompt either."""
    own = prompted.prompts(tuple(f"prompt {k}" for k in range(15)), None)
    return prompted.bundle(tmp_path_factory.mktemp("prompts") / "b", own, text=False)


def opened(root: Path, notes: Heard | None = None) -> OpenedBundle:
    return OpenedBundle(Bundle.open(root, made_here=True), notes or Heard())


def wanted(contexts: np.ndarray, null: np.ndarray | None = None) -> np.ndarray:
    """uint8 images of SEEDS."""
    none = np.zeros((prompted.TOKENS, prompted.WIDTH), np.float32) if null is None else null
    shape = (len(SEEDS), *none.shape)
    made = prompted.images(SEEDS, np.broadcast_to(contexts, shape), np.broadcast_to(none, shape))
    return to_uint8(made)


def alike(made: np.ndarray, other: np.ndarray) -> bool:
    """To the rounding of a pixel."""
    return bool(np.abs(made.astype(int) - other.astype(int)).max() <= 1)


def test_a_bundle_s_prompts_go_round_with_a_user_s_seeds(root: Path) -> None:
    one = opened(root)
    assert one.prompts == prompted.TEXTS and one.manifest.schema_version == 2
    rows = OWN.embeddings["context"]
    made = one.generate(SEEDS)
    assert alike(made, wanted(rows[[seed % 6 for seed in SEEDS]]))
    np.testing.assert_array_equal(one.generate([8, 5]), made[[3, 0]])
    assert not alike(made[0], made[1]), "prompts that look alike prove nothing"


def test_a_prompt_of_the_bundle_needs_no_tokenizer(
    root: Path, without_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegen.core.prompt_encoder.encoder_of", None)
    made = opened(root).generate(SEEDS, prompt="a grey coat")
    assert alike(made, wanted(OWN.embeddings["context"][3]))
    turned = opened(root).generate(SEEDS, prompt="a grey coat", negative="one hat")
    assert alike(turned, wanted(OWN.embeddings["context"][3], OWN.embeddings["context"][5]))
    np.testing.assert_array_equal(
        opened(root).generate(SEEDS, prompt="a grey coat", negative=""), made
    )
    assert len(opened(without_text).prompts) == 15


def test_a_new_prompt_goes_through_tokenizer_and_text_graph(root: Path) -> None:
    one, notes = opened(root), Heard()
    made = one.generate(SEEDS, prompt="the red Shoe", negative="blshoe")
    new, null = (
        prompted.encoded("the</w>", "red</w>", "shoe</w>"),
        prompted.encoded("bl", "shoe</w>"),
    )
    assert alike(made, wanted(new, null)) and not alike(made, wanted(new))
    steered = one.generate(SEEDS, negative="blshoe")
    rows = OWN.embeddings["context"][[seed % 6 for seed in SEEDS]]
    assert alike(steered, wanted(rows, null)), "the bundle's own, away from that"
    assert notes.notes == []


def test_what_a_prompt_loses_is_said(root: Path) -> None:
    notes = Heard()
    text = "the red shoe the red shoe, and \u2764 more"
    made = opened(root, notes).generate(SEEDS, prompt=text)
    kept = prompted.encoded(*("the</w>", "red</w>", "shoe</w>") * 2)
    assert alike(made, wanted(kept))
    (said,) = notes.notes
    assert "--prompt has 19 tokens, but the text encoder takes only 8" in said
    assert said.endswith("it ignores ', and \u2764 more'")


def test_the_encoder_is_made_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def counted(*arguments: Any) -> Any:
        made.append(encoder_of(*arguments))
        return made[-1]

    monkeypatch.setattr("edgegen.core.prompt_encoder.encoder_of", counted)
    one = opened(root)
    for text in ("a", "b"):
        one.generate([1], prompt=text, negative=text)
    assert len(made) == 1


REFUSED: dict[str, tuple[str, Callable[[OpenedBundle], object], str]] = {
    "no text encoder": (
        "without_text",
        lambda b: b.generate([1], prompt="a hat\u202e"[:-1]),
        "--prompt 'a hat': the bundle has no text encoder and can only use its own prompts: "
        "'prompt 0', 'prompt 1', 'prompt 2', 'prompt 3', 'prompt 4', 'prompt 5', 'prompt 6', "
        "'prompt 7', 'prompt 8', 'prompt 9', 'prompt 10', 'prompt 11' and 3 more",
    ),
    "no negative prompts": (
        "without_text",
        lambda b: b.generate([1], negative="prompt 0"),
        "this generator takes no negative prompt",
    ),
    "a label": (
        "root",
        lambda b: b.generate([1], label=0),
        "--label 0: this generator takes prompts and no label: --prompt",
    ),
    "a book": (
        "root",
        lambda b: b.generate([1], prompt="x" * 4_000_000),
        "--prompt: a prompt has at most 2000 characters, and this one has 4000000",
    ),
    "control characters": (
        "root",
        lambda b: b.generate([1], negative="a\x1b[2Jb"),
        "--negative: the prompt 'a\\x1b[2Jb' holds control characters",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_prompt_that_cannot_be_is_refused_in_a_sentence(
    case: str, request: pytest.FixtureRequest
) -> None:
    fixture, ask, said = REFUSED[case]
    with pytest.raises(UsageError) as raised:
        ask(opened(request.getfixturevalue(fixture)))
    assert said in str(raised.value) and raised.value.exit_code == 2


def test_generators_of_another_kind_take_no_prompt() -> None:
    latent = Bundle.open(CLASSES).latent
    with pytest.raises(UsageError, match="takes no prompt; it has 2 classes: --label"):
        choosing(latent, "a", None)
    assert choosing(latent, None, None) is latent
    with pytest.raises(UsageError, match=r"E-PROMPT\] this generator takes no prompt$"):
        choosing(replace(latent, conditions=()), None, "a")


def test_a_runtime_or_a_package_that_is_missing_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegen.export.packages.find_spec", lambda name: None)
    encoders = encoders_of(Bundle.open(root), 1)
    assert encoders is not None
    with pytest.raises(EdgegenError, match=r"tokenizers is not installed.*edgegen\[prompts\]"):
        encoders()
    monkeypatch.setattr("edgegen.export.packages.absent", lambda module, extra: None)
    encoders = encoders_of(Bundle.open(root), 1)
    assert encoders is not None
    monkeypatch.setattr("edgegen.export.packages.FileRuntime.cannot_run", lambda self: "gone")
    with pytest.raises(EdgegenError, match="the text encoder works here: onnxruntime: gone"):
        encoders()


@pytest.mark.slow
def test_the_command_line_makes_images_of_a_new_prompt(
    root: Path, tmp_path: Path, capfd: Captured
) -> None:
    """Of a bundle that nobody vouches for: its text graph passes the door as the others do."""
    asked = ["generate", str(root), "--seed", "5", "-n", "5", "-o", str(out := tmp_path / "a")]
    assert run([*asked, "--prompt", "the red shoe", "--negative", "x"]) == 0
    assert sorted(path.name for path in out.iterdir())[0] == "00000005.png"
    assert run([*asked[:-1], str(tmp_path / "b"), "--prompt", "b" * 400]) == 0
    assert "W-PROMPT-CUT" in capfd.readouterr().err
    assert run([*asked[:-1], str(tmp_path / "c"), "--label", "1"]) == 2
    assert "takes prompts and no label" in capfd.readouterr().err
    assert run(["generate", str(CLASSES), "-o", str(tmp_path / "d"), "--prompt", "a"]) == 2
    assert "takes no prompt" in capfd.readouterr().err
    assert not {path.name for path in tmp_path.iterdir()} & {"c", "d"}


@pytest.mark.slow
def test_a_device_needs_no_library_of_training(root: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from edgegen.cli.main import run
flags = ["--prompt", "the red shoe", "--negative", "a", "-n", "2"]
assert run(["generate", {str(root)!r}, "-o", {str(tmp_path / "a.png")!r}, *flags]) == 0
heavy = {{"torch", "diffusers", "transformers", "onnx", "scipy", "huggingface_hub"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_first_bundle_with_prompts_opens_and_makes_its_images() -> None:
    """It stays as it is: every later version must read it."""
    one = Bundle.open(GOLDEN)
    assert one.manifest.schema_version == 2 and one.latent.prompts is not None
    assert one.latent.prompts.texts == prompted.TEXTS
    kept = golden_images.parsed(one.read(golden_images.FILE), GOLDEN)
    call = Bundle.open(GOLDEN, made_here=True).pipeline(runtime("onnxruntime"))
    assert alike(to_uint8(call(kept.seeds)), kept.sets[golden_images.FULL])
    assert kept.seeds == EVIDENCE.take(6)
    made = OpenedBundle(Bundle.open(GOLDEN, made_here=True)).generate(SEEDS, prompt="the red shoe")
    assert alike(made, wanted(prompted.encoded("the</w>", "red</w>", "shoe</w>")))


def test_what_schema_1_can_say_it_says(tmp_path: Path) -> None:
    from edgegen.core.conditions import Constants, labels

    noise = prompted.latent().noise
    for count in (0, 3):
        latent = replace(prompted.latent(), conditions=labels(count))
        assert write_start(latent, tmp_path) == {"shape": [1, 8, 8], "classes": count}
    assert list(tmp_path.iterdir()) == []
    given = replace(latent, conditions=labels(3)).given({"hint": np.ones(2, np.float32)})
    said = write_start(given, tmp_path)
    assert [one["kind"] for one in said["conditions"]] == ["labels", "constants"]
    assert noise.shape[1:] == tuple(said["shape"]) and (tmp_path / ARRAYS).is_file()
    assert isinstance(given.conditions[1], Constants)


def test_golden_images_see_the_prompts_of_verdicts_and_a_user_all(root: Path) -> None:
    pipeline = Bundle.open(root, made_here=True).pipeline(runtime("onnxruntime"))
    seeds = EVIDENCE.take(6)
    verdict = to_uint8(pipeline(seeds))
    assert not alike(verdict, images_of(pipeline, seeds, None))
    fitted = Pipeline(pipeline.latent, pipeline.sampler, pipeline.call, batch=2)
    assert (to_uint8(fitted(seeds)) == verdict).all()
    shown = {pipeline.latent.names(s)[s % 2] for s in CALIBRATION.take(4)}
    assert shown and not shown & set(OWN.names("verdict"))


def test_an_encoder_that_makes_no_numbers_is_refused(root: Path) -> None:
    one = Bundle.open(root, made_here=True)
    encoder = encoder_of(one, OWN, runtime("onnxruntime"), 1)
    broken = replace(encoder, graphs={"context": lambda ids: np.full((1, 2), np.nan, np.float32)})
    with pytest.raises(InputError, match="E-NONFINITE"):
        broken("a")


LINES: dict[str, tuple[bytes, str]] = {
    "nothing": (b" \n\n", "1 to 10000 prompts, one on each line, but this one contains 0"),
    "too many": (b"\n".join(b"%d" % k for k in range(10_001)), "but this one contains 10001"),
    "too large": (b"x" * (4 << 20), "larger than 2097152 bytes"),
    "no text": (b"a\n\xff\n", "the file is not UTF-8 text"),
    "a book": (b"a\n" + b"b" * 2001, "line 2: a prompt has at most 2000 characters"),
    "control characters": (b"a\nb\nc\x07\n", "line 3: the prompt 'c\\x07' holds control"),
    "columns": (b"a\tb", "line 1: the prompt 'a\\tb' holds control"),
}


def test_prompts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red shoe\r\n\n  a bag \na red shoe\n靴".encode())
    assert read_prompts(path) == ("a red shoe", "a bag", "靴")
    with pytest.raises(InputError, match=r"E-PROMPT\] cannot be read"):
        read_prompts(tmp_path / "none")
    with pytest.raises(InputError, match=r"E-PROMPT\] not a file"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("case", LINES)
def test_a_file_that_holds_no_prompts_is_refused(case: str, tmp_path: Path) -> None:
    data, sentence = LINES[case]
    (path := tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(InputError) as raised:
        read_prompts(path)
    assert sentence in str(raised.value) and raised.value.code == "E-PROMPT"


def test_embeddings_may_be_stored_as_halves(tmp_path: Path) -> None:
    half = Prompts(
        OWN.texts, {k: v.astype(np.float16) for k, v in OWN.embeddings.items()}, OWN.negative
    )
    one = Bundle.open(prompted.bundle(tmp_path / "b", half), made_here=True)
    assert one.latent.prompts is not None
    assert one.latent.prompts.embeddings["context"].dtype == np.float16
    assert one.latent.condition([1])["context"].dtype == np.float32
    whole, halves = (prompted.bundle(tmp_path / n, o) for n, o in (("w", OWN), ("h", half)))
    assert (halves / ARRAYS).stat().st_size < 0.6 * (whole / ARRAYS).stat().st_size
    assert hashlib.sha256((whole / ARRAYS).read_bytes()).hexdigest() in (
        whole / MANIFEST
    ).read_text("utf-8")


def test_edgegen_s_public_door_takes_prompts(root: Path) -> None:
    assert edgegen.open_bundle(root).prompts == prompted.TEXTS
