"""Folders of diffusers: what is taken computes what diffusers computes, and what is not is refused
in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bring_toys
import numpy as np
import pytest
import torch
from bring_toys import REMOVED, changed
from safetensors.torch import load_file, save_file

from edgegen.bring.brought import BringChoices, Brought, bring
from edgegen.bring.folder import FolderChoices
from edgegen.core.files import read_json
from edgegen.core.graph import executed
from edgegen.errors import EdgegenError

UNET = "unet/diffusion_pytorch_model.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional folder; read it only."""
    torch.manual_seed(0)
    return bring_toys.unconditional(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image folder; read it only."""
    torch.manual_seed(0)
    return bring_toys.prompted(tmp_path_factory.mktemp("prompted"))


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "copy")


@pytest.fixture
def text_copy(prompted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prompted, tmp_path / "copy")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


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


def pipeline_of(folder: Path) -> Any:
    """diffusers' own, read by it."""
    import diffusers
    import transformers

    kind = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    return diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=getattr(diffusers, kind).from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


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
    pipeline = pipeline_of(folder)
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


def test_half_weights_variants_and_shards_give_the_same(copy: Path) -> None:
    """What lies in FP16 is computed with in full precision."""
    tensors = {name: t.half() for name, t in load_file(copy / UNET).items()}
    (copy / UNET).unlink()
    save_file(tensors, copy / "unet/diffusion_pytorch_model.fp16.safetensors")
    x, t = numbers(2, 3, 8, 8), np.array([9, 9], np.float32)
    wanted = executed(bring(copy).graphs())["denoiser"](x=x, t=t)
    (copy / "unet/diffusion_pytorch_model.fp16.safetensors").unlink()
    sharded(copy, tensors)
    found = bring(copy)
    np.testing.assert_array_equal(executed(found.graphs())["denoiser"](x=x, t=t), wanted)
    assert found.graphs()["denoiser"].module.get_parameter("unet.conv_in.weight").dtype is (
        torch.float32
    )
    assert "unet/diffusion_pytorch_model-00002-of-00002.safetensors" in found.sha256


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for k, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        shard = f"diffusion_pytorch_model-{k + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / "unet" / shard)
        placed |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


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


def test_the_licence_is_the_one_that_the_folder_names(copy: Path) -> None:
    assert bring(copy).licence is None
    (copy / "README.md").write_text("---\ntags: [a]\nlicense: creativeml-openrail-m\n---\n# x\n")
    (copy / "LICENSE.md").write_text("words")
    found = bring(copy)
    assert (found.licence, found.folder.licence_file) == ("creativeml-openrail-m", "LICENSE.md")


def test_a_safety_checker_is_never_left_out_silently(text_copy: Path) -> None:
    changed(
        text_copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    refused(text_copy, "it has a safety checker, which no bundle can hold")
    choices = BringChoices(FolderChoices(drop_safety_checker=True))
    assert bring(text_copy, choices).folder.dropped == ("safety_checker", "feature_extractor")


def test_minus_infinity_is_read_as_diffusers_writes_it(copy: Path) -> None:
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(
        '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}'
    )
    assert len(bring(copy).sampler.timesteps) == 25
    with pytest.raises(EdgegenError, match="-Infinity is not a number"):
        read_json(path)


def refused(
    folder: Path, text: str, exit_code: int = 4, choices: BringChoices | None = None
) -> None:
    with pytest.raises(EdgegenError) as caught:
        bring(folder, choices or BringChoices())
    assert text in caught.value.message and "\n" not in str(caught.value)
    assert (caught.value.code, caught.value.exit_code) == ("E-BRING", exit_code)
    assert caught.value.path is not None


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: changed(folder / name, **fields)


def put(name: str, data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


def gone(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tensors = load_file(folder / UNET)
        change(tensors)
        save_file(tensors, folder / UNET)

    return make


def linked(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).rename(folder / "elsewhere")
        (folder / name).symlink_to(folder / "elsewhere")

    return make


def in_shards(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        sharded(folder, load_file(folder / UNET))
        (folder / UNET).unlink()
        change(folder)

    return make


def pickled(folder: Path) -> None:
    (folder / UNET).rename((folder / UNET).with_suffix(".bin"))


def twice(folder: Path) -> None:
    names = sorted((folder / "unet").glob("*-0000*.safetensors"))
    first, second = map(load_file, names)
    name = next(iter(first))
    save_file({**second, name: first[name]}, names[1])


def place_shard(shard: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][next(iter(index["weight_map"]))] = shard
        (folder / INDEX).write_text(json.dumps(index))

    return make


BAD: list[tuple[Callable[[Path], None], str]] = [
    (gone("model_index.json"), "it holds neither model_index.json nor config.json"),
    (put("model_index.json", b"{"), "not usable JSON"),
    (put("model_index.json", b"[1]"), "it holds no JSON object"),
    (put("model_index.json", b'{"a": 1, "a": 2}'), "a key appears twice"),
    (put("model_index.json", b" " * ((16 << 20) + 1)), "the file is larger than"),
    (edit("model_index.json", _class_name="FluxPipeline"), "the pipeline is 'FluxPipeline', which"),
    (edit("model_index.json", _class_name=["mine", "X"]), "the pipeline is ['mine', 'X'], which"),
    (
        edit("model_index.json", unet=["mine", "UNet2DModel"]),
        "its unet is code of its own ('mine')",
    ),
    (edit("model_index.json", unet=["diffusers", "FluxTransformer2DModel"]), "its unet is a 'Flux"),
    (edit("model_index.json", unet=["diffusers"]), "'unet' is no component"),
    (edit("model_index.json", **{"../x": ["diffusers", "UNet2DModel"]}), "'../x' is no component"),
    (edit("model_index.json", other=["diffusers", "UNet2DModel"]), "its other is a 'UNet2DModel'"),
    (edit("model_index.json", unet=REMOVED), "it has no U-Net"),
    (edit("model_index.json", scheduler=REMOVED), "it has no scheduler"),
    (gone("scheduler/scheduler_config.json"), "there is no such file"),
    (edit("scheduler/scheduler_config.json", wobble=1), "has the unknown field 'wobble'"),
    (gone("unet/config.json"), "there is no such file"),
    (edit("unet/config.json", wobble=1), "UNet2DModel has the unknown field 'wobble'"),
    (edit("unet/config.json", class_embed_type="timestep"), "class_embed_type of UNet2DModel is"),
    (edit("unet/config.json", act_fn="wobble"), "UNet2DModel cannot be built from its config"),
    (edit("unet/config.json", layers_per_block=10**6), "layers_per_block is 1000000, and 100 is"),
    (edit("unet/config.json", sample_size=1 << 40), "sample_size is 1099511627776"),
    (edit("unet/config.json", sample_size=None), "sample_size of the U-Net is None: no size"),
    (edit("unet/config.json", out_channels=6), "is (3,) in the weights and (6,) by the config"),
    (gone(UNET), "diffusion_pytorch_model.safetensors is missing"),
    (pickled, "diffusion_pytorch_model.bin is not read: only safetensors"),
    (put(UNET, b"version https://git-lfs.github.com/spec/v1\n"), "it is a Git LFS pointer"),
    (put(UNET, b"PK\x03\x04" + bytes(100)), "not a safetensors file"),
    (put(UNET, struct.pack("<Q", 1 << 40)), "not a safetensors file"),
    (weights(lambda t: t["conv_in.weight"].fill_(float("nan"))), "'conv_in.weight' holds NaN or"),
    (weights(lambda t: t["conv_in.bias"].fill_(float("inf"))), "'conv_in.bias' holds NaN or infi"),
    (weights(lambda t: t.pop("conv_in.bias")), "the weights lack 'conv_in.bias'"),
    (weights(lambda t: t.update(wobble=torch.zeros(1))), "the weights hold 'wobble', which the"),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.zeros(3)})),
        "'conv_in.bias' is (3,) in the",
    ),
    (
        weights(lambda t: t.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)})),
        "the tensor 'conv_in.bias' is int64, not float",
    ),
    (linked("unet"), "it is a symbolic link"),
    (linked(UNET), "it is a symbolic link"),
    (linked("model_index.json"), "it is a symbolic link"),
    (
        in_shards(gone("unet/diffusion_pytorch_model-00002-of-00002.safetensors")),
        "the shard 'diffusion_pytorch_model-00002-of-00002.safetensors' is missing",
    ),
    (in_shards(twice), "is in two shards"),
    (in_shards(edit(INDEX, weight_map=3)), "the index has no weight_map"),
    (
        in_shards(place_shard("diffusion_pytorch_model-00002-of-00002.safetensors")),
        "the index and this shard disagree about the tensor",
    ),
]


@pytest.mark.parametrize(("spoil", "text"), BAD, ids=[text[:40] for _, text in BAD])
def test_a_bad_folder_is_refused_in_one_sentence(
    spoil: Callable[[Path], None], text: str, copy: Path
) -> None:
    spoil(copy)
    refused(copy, text)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/passwd", "..", ".hidden"])
def test_a_shard_outside_the_folder_is_not_trusted(shard: str, copy: Path) -> None:
    in_shards(place_shard(shard))(copy)
    refused(copy, f"the shard {shard!r} would lie outside its folder", 6)


BAD_TEXT: list[tuple[Callable[[Path], None], str]] = [
    (
        edit("tokenizer/vocab.json", more=190),
        "the tokenizer has 191 tokens and its text encoder 190",
    ),
    (edit("tokenizer/tokenizer_config.json", model_max_length=10), "prompts of 10 tokens, and its"),
    (edit("tokenizer/vocab.json", more="x"), "the vocabulary numbers no tokens"),
    (gone("tokenizer/merges.txt"), "a tokenizer has vocab.json and merges.txt, or tokenizer.json"),
    (edit("model_index.json", tokenizer=[None, None]), "its text encoder has no tokenizer"),
    (edit("model_index.json", text_encoder=[None, None]), "it has no text encoder"),
    (
        edit("model_index.json", vae=[None, None]),
        "its U-Net draws 4 channels, and there is no auto",
    ),
    (
        edit("model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]),
        "its image_encoder is a 'CLIPVisionModelWithProjection', which is not taken",
    ),
    (edit("text_encoder/config.json", auto_map={"x": "y"}), "has the unknown field 'auto_map'"),
    (edit("vae/config.json", latents_mean=[1.0]), "latents_mean of AutoencoderKL is [1.0]"),
    (edit("unet/config.json", addition_embed_type="text_time"), "addition_embed_type of UNet2DCon"),
]


@pytest.mark.parametrize(("spoil", "text"), BAD_TEXT, ids=[text[:40] for _, text in BAD_TEXT])
def test_a_bad_text_folder_is_refused_in_one_sentence(
    spoil: Callable[[Path], None], text: str, text_copy: Path
) -> None:
    spoil(text_copy)
    refused(text_copy, text)


def test_networks_that_do_not_fit_each_other(tmp_path: Path) -> None:
    folder = bring_toys.prompted(tmp_path / "a", cross_attention_dim=16)
    refused(folder, "the text encoder gives 12 numbers a token, and the U-Net looks at 16")
    folder = bring_toys.prompted(tmp_path / "b", in_channels=9)
    refused(folder, "the U-Net takes 9 channels and returns 4")
    folder = bring_toys.prompted(tmp_path / "c", in_channels=5, out_channels=5)
    with pytest.raises(EdgegenError, match="the autoencoder decodes 4 channels, and the U-Net dra"):
        bring(folder).graphs()


def test_choices_that_a_folder_cannot_follow(plain: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no such folder")
    refused(plain / "scheduler", "it holds neither")
    refused(plain / "unet", "a UNet2DModel by itself has no scheduler")
    refused(
        plain, "guidance needs a generator that takes prompts", choices=BringChoices(guidance=3)
    )
    refused(plain, "takes 1 to 1000 steps here", choices=BringChoices(steps=0))
    refused(plain, "DDPMScheduler cannot take eta 0.5", choices=BringChoices(eta=0.5))
    other = BringChoices(FolderChoices(variant="bf16"))
    refused(plain, "diffusion_pytorch_model.bf16.safetensors is missing", choices=other)


def test_a_folder_that_changes_while_it_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgegen.bring.schedule import schedule

    def meddling(*given: Any) -> Any:
        os.utime(copy / UNET, (1, 1))
        return schedule(*given)

    monkeypatch.setattr("edgegen.bring.brought.schedule", meddling)
    refused(copy, "it was changed while it was read")
    monkeypatch.undo()
    found = bring(copy)
    (copy / UNET).write_bytes((copy / UNET).read_bytes()[:-1] + b"x")
    with pytest.raises(EdgegenError, match="it was changed while it was read"):
        found.graphs()


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
