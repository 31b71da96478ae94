"""lcd as a family: its stages in order, its recipes, what it refuses, and what `generate` can ask
of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from latents import TINY, batches, fit, lcd, shaken
from PIL import Image
from runs import same
from safetensors.torch import load_file
from torch import Tensor
from toys import shapes

from edgegen.cli.main import run
from edgegen.core.files import to_json
from edgegen.core.graph import Batch
from edgegen.core.images import read
from edgegen.core.samplers import ConsistencySampler
from edgegen.export.onnx import to_onnx
from edgegen.families import Steered, family
from edgegen.families.lcd.config import DISTIL, CoderConfig, Distil, LcdConfig
from edgegen.families.lcd.family import LatentConsistency
from edgegen.families.lcd.recipes import FAMILY
from edgegen.training import checkpoint
from edgegen.training import run as training
from edgegen.training.loop import Trainer
from edgegen.training.run import RunSettings
from edgegen.workflows.generators import torch_pipeline

STAGES = ["autoencoder", "teacher", "student", "control"]


@pytest.mark.slow
@pytest.mark.parametrize("distil", DISTIL)
def test_the_stages_train_in_order_and_each_moves_its_own_network(distil: Distil) -> None:
    """Two steps a stage, bf16 as on a GPU: losses finite, and only what is the stage's changes."""
    model = lcd(perceptual=1.0, distil=distil)
    model.teach(batches(2))
    model.networks.train()
    assert [o.name for o in model.objectives()] == STAGES
    spans = [o.span for o in model.objectives()]
    assert spans[0][0] == 0 and spans[-1][1] == 1 and all(a[1] == b[0] for a, b in pairwise(spans))
    for objective in model.objectives():
        if objective.begin is not None:
            with torch.no_grad():
                objective.begin(batches(3, seed=8))
        before = {k: v.clone() for k, v in model.networks.state_dict().items()}

        def loss(batch: Any, of: Callable[[Any], Tensor] = objective.loss) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                found = of(batch)
            assert found.dtype == torch.float32 and found.isfinite()
            return found

        fit(loss, list(objective.params), batches(2), 1e-3)
        changed = {
            k.partition(".")[0]
            for k, v in model.networks.state_dict().items()
            if not torch.equal(v, before[k])
        }
        assert changed == {
            objective.name,
            *(["target"] if objective.loss == model.student_loss else []),
        }
        model.networks.zero_grad()
    assert model.teacher.scale != 1 and all(
        net.scale == model.teacher.scale for net in (model.student, model.target)
    )
    assert set(model.shipped) == {*STAGES} and "target" in model.networks


def go(out: Path, distil: Distil, fail_at: int = 0, resume: bool = False) -> None:
    config = replace(TINY, distil=distil)
    recipe = replace(
        FAMILY.recipes["tiny"](), config=config, images=8 * 48, batch=8, precision="bf16", warmup=2
    )

    def progress(trainer: Trainer, _: dict[str, float]) -> None:
        if trainer.step == fail_at:
            raise RuntimeError("stopped")

    training.train(RunSettings("lcd", "toy", recipe, 0), shapes(40, 16), out, resume, 4, progress)


@pytest.mark.slow
@pytest.mark.parametrize("distil", DISTIL)
def test_one_command_trains_all_stages_and_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, distil: Distil
) -> None:
    """Cut off within the student's stage: its target, the scale and who has begun go on where they
    were, to the bit.
    """
    go(tmp_path / "whole", distil)
    with pytest.raises(RuntimeError, match="stopped"):
        go(tmp_path / "cut", distil, fail_at=41)
    go(tmp_path / "cut", distil, resume=True)
    same(tmp_path / "whole", tmp_path / "cut")
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [next(name for name in STAGES if name in line) for line in lines] == sorted(
        (name for line in lines for name in STAGES if name in line), key=STAGES.index
    )
    weights = load_file(tmp_path / "whole" / checkpoint.WEIGHTS)
    assert {k.partition(".")[0] for k in weights} == set(STAGES)
    assert weights["student.scale"] == weights["teacher.scale"] != 1
    _, made = training.load(tmp_path / "whole")
    assert torch_pipeline(made)(range(3)).shape == (3, 3, 16, 16)


def test_a_loss_is_a_function_of_its_batch() -> None:
    model = shaken()
    model.networks.train()
    for objective in model.objectives():
        state = {k: v.clone() for k, v in model.networks.state_dict().items()}
        losses = []
        for _ in range(2):
            model.networks.load_state_dict(state)
            losses.append(float(objective.loss(next(batches(1))).detach()))
        assert losses[0] == losses[1], objective.name


@pytest.mark.parametrize("name", sorted(FAMILY.recipes))
def test_recipes_build(name: str) -> None:
    recipe = FAMILY.recipes[name]()
    with torch.device("meta"):
        made = FAMILY.build(recipe.config)
    assert [o.name for o in made.objectives()] == STAGES
    size = recipe.config.size
    assert made.image_shape == (3, size, size) and (FAMILY.recipes[name].__doc__ or "").strip()
    if name == "photos32":
        # the zoo's limit in FP16
        assert 2 * sum(v.numel() for v in made.shipped.state_dict().values()) <= 6_000_000
        assert made.latent.noise.shape == ("batch", 4, 16, 16) and made.latent.classes == 10
        assert isinstance(made.sampler, ConsistencySampler) and made.sampler.timesteps == (
            999,
            759,
            499,
            259,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos64"])
def test_a_gpu_recipe_takes_a_step(name: str) -> None:
    made = FAMILY.build(replace(FAMILY.recipes[name]().config, perceptual=0.0))
    made.networks.train()
    photos = torch.rand(2, 3, made.config.size, made.config.size) * 2 - 1
    for objective in made.objectives():
        if objective.begin is not None:
            objective.begin(iter([Batch(photos, torch.eye(10)[:2], torch.Generator())]))
        loss = objective.loss(Batch(photos, torch.eye(10)[:2], torch.Generator().manual_seed(0)))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite() and any(p.grad is not None for p in objective.params), objective.name


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 18}, "size 18 must divide by 4"),
        ({"size": 4}, "at least 8"),
        ({"prediction": "x0"}, "unknown prediction 'x0'; known: v, epsilon"),
        ({"hint": "depth"}, "known: edges, luminance, boxes"),
        ({"way": "pupil"}, "unknown way 'pupil'; known: student, teacher, control"),
        ({"schedule": "sqrt"}, "unknown schedule 'sqrt'; known: ldm, linear, cosine"),
        ({"head": 24}, "32 channels does not divide into heads of 24"),
        ({"guidance": 4.5}, r"guidance must be in \[1, 1 \+ w_max\]"),
        ({"guidance": float("nan")}, "guidance must be in"),
        ({"steps": 0}, "steps must be between 1 and 20, got 0"),
        ({"steps": 21}, "steps must be between 1 and 20, got 21"),
        ({"steps": 101, "way": "teacher"}, "between 1 and 100, got 101"),
        ({"solver": 10}, "solver must be a multiple of 4"),
        ({"solver": 24}, "up to 20, got 24"),
        ({"distil": "both"}, "unknown distil 'both'; known: ends, steps"),
        ({"renoise": "old"}, "known: fresh, own"),
        ({"grid": 30}, "100 timesteps do not divide into a grid of 30"),
        ({"like": True}, "like needs a palette"),
        ({"palette": 3}, "size 16 must divide by palette 3"),
        ({"null": 1.0}, r"null and decay must be in \[0, 1\)"),
        ({"perceptual": -1.0}, "perceptual and kl must be 0 or more"),
        ({"tokens": 0}, "numbers must be at least 1"),
        ({"unet": replace(TINY.unet, attention=True)}, "unet.attention must be false"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_words(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        replace(TINY, **change)


def test_a_coder_that_cannot_be_built_is_refused() -> None:
    for change in ({"widths": (16,)}, {"widths": (16, 20)}, {"blocks": 0}, {"activation": "tanh"}):
        with pytest.raises(ValueError, match="must be"):
            CoderConfig(**change)


# from a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of random weights, as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    model = shaken(scale=0.3, palette=2)
    photos = shapes(8)
    data = {"sha256": photos.fingerprint, "images": len(photos), "classes": ["disc", "box"]}
    (folder / "run.json").write_bytes(
        to_json({**checkpoint.describe("lcd", model.config), "data": data})
    )
    (folder / checkpoint.WEIGHTS).write_bytes(checkpoint.to_bytes(dict(model.shipped.state_dict())))
    for name, size in (("photo", 16), ("other", 20)):
        Image.fromarray(shapes(1, size, seed=3).pixels[0]).save(folder / f"{name}.png")
    (folder / "words.png").write_text("not a picture")
    return folder


def generate(finished: Path, out: Path, *flags: str) -> np.ndarray:
    assert run(["generate", str(finished), "-n", "4", "--seed", "7", "-o", str(out), *flags]) == 0
    return np.asarray(Image.open(out))


@pytest.mark.slow
def test_generate_by_any_way_and_number_of_steps(finished: Path, tmp_path: Path) -> None:
    ways: list[list[str]] = [
        [],
        ["--steps", "4"],
        ["--steps", "1"],
        ["--way", "teacher", "--steps", "5"],
        ["--label", "1"],
        ["--control", str(finished / "photo.png")],
        ["--control-from", str(finished / "photo.png")],
        ["--like", str(finished / "photo.png")],
    ]
    made = [generate(finished, tmp_path / f"{k}.png", *flags) for k, flags in enumerate(ways)]
    assert np.array_equal(made[0], made[1])  # four is the default
    for k, picture in enumerate(made[2:], start=2):
        assert all(not np.array_equal(picture, other) for other in made[:k]), ways[k]
    assert np.array_equal(made[5], generate(finished, tmp_path / "again.png", *ways[5]))


@pytest.mark.parametrize(
    ("flags", "left", "code", "text"),
    [
        (["--steps", "30"], 2, "E-USAGE", "--steps: steps must be between 1 and 20, got 30"),
        (["--way", "pupil"], 2, "E-USAGE", "unknown way 'pupil'; known: student, teacher, control"),
        (
            ["--label", "2"],
            2,
            "E-LABEL",
            "--label 2: this generator has 2 classes, numbered from 0",
        ),
        (
            ["--control", "{}/other.png"],
            4,
            "E-IMAGE-SIZE",
            "the picture is 20 x 20 pixels, this generator needs 16 x 16",
        ),
        (
            ["--control-from", "{}/other.png"],
            4,
            "E-IMAGE-SIZE",
            "the picture is 20 x 20 pixels, this generator needs 16 x 16",
        ),
        (["--control-from", "{}/words.png"], 4, "E-IMAGE", "no PNG or JPEG that can be read"),
        (["--like", "{}/missing.png"], 4, "E-IMAGE", "cannot be read: No such file or directory"),
        (
            ["--control", "{}/photo.png", "--like", "{}/photo.png"],
            2,
            "E-USAGE",
            "exclude each other",
        ),
        (
            ["--control", "{}/photo.png", "--way", "teacher"],
            2,
            "E-USAGE",
            "--way cannot be combined with",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused_in_words(
    finished: Path,
    tmp_path: Path,
    flags: list[str],
    left: int,
    code: str,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [flag.replace("{}", str(finished)) for flag in flags]
    assert (
        run(["generate", str(finished), "-n", "2", "-o", str(tmp_path / "a.png"), *flags]) == left
    )
    said = capsys.readouterr().err
    assert code in said and text in " ".join(said.split())


def test_a_family_without_steps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = family("isc-gan")
    model = other.build(other.recipes["tiny"]().config)
    assert isinstance(lcd(), Steered) and not isinstance(model, Steered)
    data = {"sha256": "0", "images": 8, "classes": []}
    (tmp_path / "run.json").write_bytes(
        to_json({**checkpoint.describe("isc-gan", model.config), "data": data})
    )
    (tmp_path / checkpoint.WEIGHTS).write_bytes(
        checkpoint.to_bytes(dict(model.shipped.state_dict()))
    )
    for flags in (["--steps", "2"], ["--way", "x"], ["--control", "x.png"], ["--like", "x.png"]):
        assert run(["generate", str(tmp_path), "-o", str(tmp_path / "a.png"), *flags]) == 2
        assert f"isc-gan has no option {flags[0]}" in capsys.readouterr().err


def test_a_hint_with_a_mask_is_read_as_the_boxes_are(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 255, np.uint8)
    pixels[4:8, 4:8, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    planes = read(tmp_path / "a.png", (4, 16, 16))
    assert planes.shape == (4, 16, 16) and planes.dtype == np.float32
    assert (planes[:, 4:8, 4:8] == 0).all() and planes.sum() == 4 * (256 - 16)


def test_config_goes_through_json_and_back() -> None:
    config = replace(TINY, palette=2, hint="boxes", steps=2)
    text = json.loads(to_json(checkpoint.describe("lcd", config)))
    assert checkpoint.parse(LcdConfig, text["config"], Path("x")) == config


@pytest.mark.slow
def test_onnx_gives_the_images_torch_gives() -> None:
    """One file a graph with a free batch, and the sampler's loop over them."""
    model = shaken(scale=0.3, steps=2)
    assert isinstance(model, LatentConsistency)
    model.networks.eval()
    wanted = torch_pipeline(model)

    def call(name: str) -> Callable[..., Any]:
        data = to_onnx(model.graphs()[name], name).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return lambda **inputs: session.run(None, inputs)[0]

    executed = replace(wanted, call={name: call(name) for name in wanted.call}, batch=5)
    np.testing.assert_allclose(executed(range(7)), wanted(range(7)), atol=1e-4)
