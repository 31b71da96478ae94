"""Run DINOv2 and CLIP's vision half from their weight files with `transformers`. It needs torch,
and transformers once a network is asked for.

Sizes are read from the tensors; the rest is as published: attention heads are 64 wide, and CLIP's
activation is OpenAI's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RuntimeMissing
from .networks import Forward

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEAD = 64  # width of an attention head
# mean and standard deviation of each colour in [0, 1]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def dinov2(state: Mapping[str, Tensor]) -> Forward:
    """Return a function that gives the class token after the last norm (Oquab et al. 2023)."""
    need_transformers("dinov2")
    from transformers import Dinov2Config, Dinov2Model

    state = {name.removeprefix("dinov2."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    patches = state["embeddings.patch_embeddings.projection.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=_layers(state, "encoder.layer."),
        num_attention_heads=width // HEAD,
        patch_size=patch,
        image_size=patch * _side(state["embeddings.position_embeddings"].shape[1] - 1),
        use_swiglu_ffn="encoder.layer.0.mlp.weights_in.weight" in state,
        use_mask_token="embeddings.mask_token" in state,
    )
    model = _loaded(Dinov2Model, config, state)

    def forward(x: Tensor) -> Tensor:
        found: Tensor = model(normal(x, *IMAGENET)).pooler_output
        return found

    return forward


def clip_size(state: Mapping[str, Tensor]) -> int:
    """Return the side in pixels that a CLIP file was trained on."""
    positions = state["vision_model.embeddings.position_embedding.weight"]
    patch = state["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    return patch * _side(positions.shape[0] - 1)


def clip(state: Mapping[str, Tensor]) -> Forward:
    """Return a function that gives the image's embedding, or its input if the file has no
    projection (Radford et al. 2021).
    """
    need_transformers("clip")
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    own = {
        name: tensor
        for name, tensor in state.items()
        if name.startswith(("vision_model.", "visual_projection."))
        and not name.endswith("position_ids")
    }
    patches = own["vision_model.embeddings.patch_embedding.weight"]
    projection = own.get("visual_projection.weight")
    config = CLIPVisionConfig(
        hidden_size=patches.shape[0],
        intermediate_size=own["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(own, "vision_model.encoder.layers."),
        num_attention_heads=patches.shape[0] // HEAD,
        patch_size=patches.shape[-1],
        image_size=clip_size(own),
        projection_dim=0 if projection is None else projection.shape[0],
    )
    kind = CLIPVisionModel if projection is None else CLIPVisionModelWithProjection
    model = _loaded(kind, config, own)
    answer = "pooler_output" if projection is None else "image_embeds"

    def forward(x: Tensor) -> Tensor:
        found: Tensor = getattr(model(normal(x, *OPENAI)), answer)
        return found

    return forward


def normal(x: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Normalize (n, 3, h, w) in [0, 255]: scale to [0, 1], subtract each colour's mean and divide
    by its deviation.
    """
    middle, spread = (torch.tensor(part)[:, None, None] for part in (mean, deviation))
    return (x / 255 - middle) / spread


def need_transformers(name: str) -> None:
    """Raise RuntimeMissing, with what to do, if the library is not installed."""
    if find_spec("transformers") is None:
        raise RuntimeMissing(
            "E-FEATURES",
            f"{name} is run by transformers, which is not installed",
            hint='pip install "edgegen[adapt]"',
        )


def _loaded(kind: Any, config: PretrainedConfig, state: Mapping[str, Tensor]) -> Any:
    """Load a model with these weights; the library maps the tensor names of older files.

    Raises ValueError for a tensor that is missing, unexpected or of another shape.
    """
    with _quiet():
        model, said = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            ignore_mismatched_sizes=True,  # mismatches are reported below in one sentence
            local_files_only=True,
            output_loading_info=True,
        )
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(said[fault], key=str):
            name = found[0] if isinstance(found[0], str) else found[0][0]
            raise ValueError(f"{fault.replace('_', ' ')} {name}")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from printing bars and tables, and restore its settings after the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _layers(state: Mapping[str, Tensor], before: str) -> int:
    numbers = {name[len(before) :].split(".")[0] for name in state if name.startswith(before)}
    return len(numbers)


def _side(patches: int) -> int:
    """Return the side of a square of so many patches. Raises ValueError if they form no square."""
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{patches} positions are no square of patches")
    return side
