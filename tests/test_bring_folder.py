"""Folders of diffusers: what is taken computes what diffusers computes, and what is not is refused
in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import bring_toys
import numpy as np
import pytest
import torch
from bring_toys import UNET, changed, numbers
from bring_toys import plain_folder as plain_folder
from bring_toys import prompted_folder as prompted_folder
from safetensors.torch import load_file, save_file

from edgegen.bring.brought import BringChoices, Brought, bring
from edgegen.bring.folder import FolderChoices
from edgegen.core.files import read_json
from edgegen.core.graph import executed
from edgegen.errors import EdgegenError


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "copy")


@pytest.fixture
def text_copy(prompted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prompted, tmp_path / "copy")


def test_an_unconditional_folder_is_a_denoiser_and_a_sampler(plain: Path) -> None:
    import diffusers

    brought = bring(plain)
    assert brought.image_shape == (3, 8, 8) and brought.noise.shape == ("batch", 3, 8, 8)
    assert (brought.context, brought.classes, brought.text()) == (None, 0, None)
    assert len(brought.sampler.timesteps) == 50 and not brought.sampler.decoder
    assert brought.sha256 == {
        name: hashlib.sha256((plain / name).read_bytes()).hexdigest()
        for name in (
            "model_index.json",
            "unet/config.json",
            UNET,
            "scheduler/scheduler_config.json",
        )
    }
    unet = diffusers.UNet2DModel.from_pretrained(plain / "unet").eval()
    assert brought.parameters == {"denoiser": sum(p.numel() for p in unet.parameters())}
    x, t = numbers(2, 3, 8, 8), np.array([980, 1.5], np.float32)
    with torch.no_grad():
        wanted = unet(torch.from_numpy(x), torch.from_numpy(t)).sample.numpy()
    found = executed(brought.graphs())["denoiser"](x=x, t=t)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert brought.graphs()["denoiser"] is brought.graphs()["denoiser"]


def test_labels_go_in_as_the_house_s_one_hot_rows(tmp_path: Path) -> None:
    import diffusers

    brought = bring(bring_toys.unconditional(tmp_path / "labelled", num_class_embeds=5))
    assert brought.classes == 5
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "labelled" / "unet").eval()
    x, t = numbers(2, 3, 8, 8), np.array([10, 10], np.float32)
    label = np.eye(5, dtype=np.float32)[[4, 1]]
    with torch.no_grad():
        wanted = unet(torch.from_numpy(x), torch.from_numpy(t), torch.tensor([4, 1])).sample
    found = executed(brought.graphs())["denoiser"](x=x, t=t, label=label)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def images_of(brought: Brought, tokens: np.ndarray, null: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The whole way from tokens to images."""
    text = brought.text()
    assert text is not None
    call = executed({**brought.graphs(), "text": text})
    condition = {"context": call["text"](tokens=tokens)}
    if brought.sampler.nulls:
        condition["null_context"] = call["text"](tokens=null)
    found: np.ndarray = brought.sampler(call, x, condition, lambda stream: numbers(*x.shape))
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("scheduler", "unet", "steps"),
    [
        (bring_toys.DDIM, {}, 3),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, {}, 3),
        ({"_class_name": "LCMScheduler"}, {"time_cond_proj_dim": 6}, 2),
        ({"_class_name": "DDIMScheduler"}, {}, 3),  # the pipeline sets its offset and its clipping
    ],
)
def test_images_are_those_of_diffusers_own_pipeline(
    scheduler: dict[str, Any],
    unet: dict[str, Any],
    steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts encoded, guided, decoded; noise replayed."""
    import sys

    torch.manual_seed(1)
    folder = bring_toys.prompted(tmp_path / "folder", scheduler, **unet)
    pipeline = bring_toys.pipeline_of(folder)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(
        sys.modules[type(pipeline.scheduler).__module__],
        "randn_tensor",
        lambda shape, **_: torch.from_numpy(numbers(*shape)),
    )
    x = numbers(2, 4, 8, 8)
    wanted = pipeline(
        ["a red shoe", "blue"],
        negative_prompt=["bad", "worse"],
        latents=torch.from_numpy(x),
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="pt",
    ).images.numpy()

    def tokens(*prompts: str) -> np.ndarray:
        found: np.ndarray = pipeline.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=bring_toys.TOKENS,
            truncation=True,
            return_tensors="np",
        ).input_ids.astype(np.int64)
        return found

    brought = bring(folder, BringChoices(steps=steps, guidance=3.0))
    assert brought.image_shape == (3, 16, 16) and brought.tokens == bring_toys.TOKENS
    found = images_of(brought, tokens("a red shoe", "blue"), tokens("bad", "worse"), x)
    np.testing.assert_allclose(found / 2 + 0.5, wanted, atol=1e-5)
    assert wanted.std() > 0.01


def test_a_prompted_folder_says_what_it_is(prompted: Path) -> None:
    brought = bring(prompted)
    assert brought.context is not None and brought.context.shape == ("batch", 9, 12)
    assert (brought.sampler.guidance, brought.sampler.nulls) == (7.5, ("context",))
    assert brought.sampler.decoder and sorted(brought.parameters) == ["decoder", "denoiser", "text"]
    assert brought.tokenizer == tuple(
        f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")
    )
    assert set(brought.tokenizer) <= set(brought.sha256)
    for asked in (1.0, 0.0):
        few = bring(prompted, BringChoices(steps=2, guidance=asked)).sampler
        assert (few.guidance, few.nulls, len(few.timesteps)) == (1, (), 2)


def test_guidance_is_embedded_as_the_pipeline_embeds_it(tmp_path: Path) -> None:
    """sin and cos of 1000 (g - 1) times falling frequencies; an odd width ends with a 0."""
    import diffusers

    folder = bring_toys.prompted(tmp_path / "folder", time_cond_proj_dim=7)
    brought = bring(folder, BringChoices(guidance=4.0))
    assert (brought.sampler.embedded_guidance, brought.sampler.guidance) == (3.0, 1.0)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    x, t, context = numbers(2, 4, 8, 8), np.array([5, 5], np.float32), numbers(2, 9, 12)
    angles = 1000 * 3.0 * np.exp(-np.log(10000) / 2 * np.arange(3))
    embedded = np.concatenate([np.sin(angles), np.cos(angles), [0]])[None].repeat(2, 0)
    with torch.no_grad():
        wanted = unet(
            torch.from_numpy(x),
            torch.from_numpy(t),
            torch.from_numpy(context),
            timestep_cond=torch.from_numpy(embedded).float(),
        ).sample.numpy()
    guidance = np.full(2, 3, np.float32)
    found = executed(brought.graphs())["denoiser"](x=x, t=t, context=context, guidance=guidance)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_the_decoder_holds_scale_and_range(kind: str, text_copy: Path) -> None:
    import diffusers

    if kind == "AutoencoderTiny":
        shutil.rmtree(text_copy / "vae")
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            scaling_factor=0.25,
            shift_factor=0.125,
        ).save_pretrained(text_copy / "vae")
        changed(text_copy / "model_index.json", vae=["diffusers", kind])
    autoencoder = getattr(diffusers, kind).from_pretrained(text_copy / "vae").eval()
    brought, x = bring(text_copy), 3 * numbers(2, 4, 8, 8)
    assert brought.image_shape == (3, 16, 16)
    scale, shift = autoencoder.config.scaling_factor, autoencoder.config.shift_factor or 0
    with torch.no_grad():
        wanted = autoencoder.decode(torch.from_numpy(x) / scale + shift).sample.clamp(-1, 1).numpy()
    found = executed(brought.graphs())["decoder"](x=x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_half_weights_variants_and_shards_give_the_same(copy: Path) -> None:
    """What lies in FP16 is computed with in full precision."""
    tensors = {name: t.half() for name, t in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(tensors, copy / "unet/diffusion_pytorch_model.fp16.safetensors")
    x, t = numbers(2, 3, 8, 8), np.array([9, 9], np.float32)
    wanted = executed(bring(copy).graphs())["denoiser"](x=x, t=t)
    (copy / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    bring_toys.sharded(copy, tensors)
    found = bring(copy)
    np.testing.assert_array_equal(executed(found.graphs())["denoiser"](x=x, t=t), wanted)
    assert found.graphs()["denoiser"].module.get_parameter("unet.conv_in.weight").dtype is (
        torch.float32
    )
    assert "unet/diffusion_pytorch_model-00002-of-00002.safetensors" in found.sha256


def test_names_of_before_are_understood(copy: Path) -> None:
    tensors = load_file(copy / UNET)
    old = {
        name.replace(".to_q.", ".query.").replace(".to_out.0.", ".proj_attn."): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    wanted = bring(copy).networks["denoiser"].tensors
    save_file(old, copy / UNET)
    found = bring(copy).networks["denoiser"].tensors
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_network_by_itself_takes_a_scheduler_from_elsewhere(copy: Path, tmp_path: Path) -> None:
    choices = FolderChoices(scheduler=copy / "scheduler" / "scheduler_config.json")
    found = bring(copy / "unet", BringChoices(choices, steps=5))
    assert found.image_shape == (3, 8, 8) and len(found.sampler.timesteps) == 5
    assert "given/scheduler_config.json" in found.sha256
    shutil.copy(copy / "scheduler" / "scheduler_config.json", copy / "unet")
    assert bring(copy / "unet", BringChoices(steps=5)).sampler == found.sampler


def test_a_scheduler_in_place_of_the_folder_s(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"_class_name": "DPMSolverMultistepScheduler"}))
    found = bring(copy, BringChoices(FolderChoices(scheduler=other)))
    assert len(found.sampler.timesteps) == 25


def test_a_pipeline_may_make_its_own_scheduler(copy: Path) -> None:
    """DDIMPipeline makes a DDIM of whatever it is given."""
    changed(copy / "model_index.json", _class_name="DDIMPipeline")
    assert not bring(copy).sampler.noise


def test_the_licence_is_the_one_that_the_folder_names(copy: Path) -> None:
    assert bring(copy).licence is None
    (copy / "README.md").write_text("---\ntags: [a]\nlicense: creativeml-openrail-m\n---\n# x\n")
    (copy / "LICENSE.md").write_text("words")
    found = bring(copy)
    assert (found.licence, found.folder.licence_file) == ("creativeml-openrail-m", "LICENSE.md")


def test_minus_infinity_is_read_as_diffusers_writes_it(copy: Path) -> None:
    path = copy / "scheduler" / "scheduler_config.json"
    changed(copy / "model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    path.write_text(
        '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}'
    )
    assert len(bring(copy).sampler.timesteps) == 25
    with pytest.raises(EdgegenError, match="-Infinity is not a number"):
        read_json(path)


@pytest.mark.export
def test_the_graphs_are_onnx_that_computes_what_torch_computes(prompted: Path) -> None:
    import onnxruntime

    from edgegen.export import onnx as onnx_files

    brought = bring(prompted)
    text = brought.text()
    assert text is not None
    graphs = {**brought.graphs(), "text": text}
    inputs: dict[str, dict[str, np.ndarray]] = {
        "denoiser": {
            "x": numbers(3, 4, 8, 8),
            "t": np.array([961, 500.25, 1], np.float32),
            "context": numbers(3, bring_toys.TOKENS, 12),
        },
        "decoder": {"x": numbers(3, 4, 8, 8)},
        "text": {"tokens": np.arange(3 * bring_toys.TOKENS).reshape(3, -1)},
    }
    torch_calls = executed(graphs)
    for name, graph in graphs.items():
        model = onnx_files.to_onnx(graph, name)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        wanted = torch_calls[name](**inputs[name])
        found = session.run(None, inputs[name])[0]
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
