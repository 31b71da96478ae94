"""Wrap networks of a folder as pure graphs (`denoiser`, `decoder` and `text`) with the inputs that
a sampler gives them. It needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..core.graph import Graph
from ..core.spec import TensorSpec
from ..errors import InputError
from .components import Component
from .folder_files import CODE

if TYPE_CHECKING:
    from .tokenizer_files import TokenizerFiles

GUIDANCE_SCALE = 1000.0  # factor in the embedding of a guidance (Meng et al. 2023)
LONGEST_WAVE = 10_000.0


class PlainUnet(nn.Module):
    """Wrap an unconditional U-Net: x (b, c, h, w), t (b,) -> its prediction, shaped like x."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.unet(x, t, return_dict=False)[0]
        return found


class LabelledUnet(PlainUnet):
    """Wrap a U-Net that knows classes: label (b, classes) one-hot."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        classes = label.argmax(dim=1)
        found: Tensor = self.unet(x, t, class_labels=classes, return_dict=False)[0]
        return found


class PromptedUnet(PlainUnet):
    """Wrap a U-Net that attends to an encoded prompt: context (b, tokens, width)."""

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = self.unet(x, t, context, return_dict=False)[0]
        return found


class GuidedUnet(PlainUnet):
    """Wrap a prompted U-Net that was distilled with guidance and takes its strength as input:
    guidance (b,).
    """

    def __init__(self, unet: nn.Module, width: int) -> None:
        super().__init__(unet)
        half = width // 2
        waves = torch.exp(torch.arange(half) * (-math.log(LONGEST_WAVE) / max(half - 1, 1)))
        self.waves: Tensor
        self.register_buffer("waves", waves, persistent=False)
        self.padded = width % 2

    def forward(  # type: ignore[override]
        self, x: Tensor, t: Tensor, context: Tensor, guidance: Tensor
    ) -> Tensor:
        angles = GUIDANCE_SCALE * guidance[:, None] * self.waves[None, :]
        embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
        if self.padded:
            embedded = nn.functional.pad(embedded, (0, 1))
        found: Tensor = self.unet(x, t, context, timestep_cond=embedded, return_dict=False)[0]
        return found


class ScaledDecoder(nn.Module):
    """Decode latents as the sampler leaves them (b, z, h, w) to images (b, c, H, W) in [-1, 1]."""

    def __init__(self, autoencoder: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.decoder = autoencoder.get_submodule("decoder")
        self.post_quant_conv = dict(autoencoder.named_children()).get("post_quant_conv")
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        latents = x / self.scale + self.shift
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        images: Tensor = self.decoder(latents)
        return images.clamp(-1, 1)


class TokenEncoder(nn.Module):
    """Encode token numbers (b, tokens) as the prompt's context (b, tokens, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        found: Tensor = self.encoder(tokens, position_ids=places, return_dict=False)[0]
        return found


def side(size: object, what: str, where: str) -> tuple[int, int]:
    """Return height and width of a config's sample_size. Raises InputError if it is no size."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(s, int) for s in size):
        return int(size[0]), int(size[1])
    raise InputError(CODE, f"sample_size of the {what} is {size!r:.40}: no size", path=where)


def denoiser_inputs(network: Component, tokens: int) -> tuple[TensorSpec, ...]:
    """Return the inputs of a U-Net's denoiser graph; `tokens` is the length of a prompt.

    Raises InputError for a U-Net that returns another number of channels than it takes.
    """
    config = network.defaults
    channels = config["in_channels"]
    if channels != config["out_channels"]:
        raise InputError(
            CODE,
            f"the U-Net takes {channels} channels and returns {config['out_channels']}: it needs "
            "an image or a mask beside the noise, or predicts its variance, too",
            path=network.where,
        )
    inputs = [
        TensorSpec("x", ("batch", channels, *side(config["sample_size"], "U-Net", network.where))),
        TensorSpec("t", ("batch",)),
    ]
    if (width := config.get("cross_attention_dim")) is not None:
        if not isinstance(width, int):
            raise InputError(
                CODE, f"cross_attention_dim is {width!r:.60}, not one number", path=network.where
            )
        inputs.append(TensorSpec("context", ("batch", tokens, width)))
    if config.get("time_cond_proj_dim") is not None:
        inputs.append(TensorSpec("guidance", ("batch",)))
    if classes := config.get("num_class_embeds"):
        inputs.append(TensorSpec("label", ("batch", classes)))
    return tuple(inputs)


def denoiser(network: Component, tokens: int) -> Graph:
    """Return the graph that a sampler calls at every step."""
    inputs = denoiser_inputs(network, tokens)
    unet, names = network.module(), {spec.name for spec in inputs}
    module: nn.Module
    if "guidance" in names:
        module = GuidedUnet(unet, network.defaults["time_cond_proj_dim"])
    elif "context" in names:
        module = PromptedUnet(unet)
    elif "label" in names:
        module = LabelledUnet(unet)
    else:
        module = PlainUnet(unet)
    output = TensorSpec("predicted", inputs[0].shape)
    return Graph(module.eval(), inputs, output, _weights(network, "unet."))


def _weights(network: Component, prefix: str) -> dict[str, Tensor]:
    """Return the weights by the names of a module that holds the network under `prefix`; none if
    the module has them itself.
    """
    tensors = network.tensors if network.is_large else {}
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _scaled(network: Component, module: nn.Module) -> ScaledDecoder:
    config = network.defaults
    return ScaledDecoder(module, config["scaling_factor"], config.get("shift_factor") or 0.0)


def image_shape(network: Component, latents: TensorSpec) -> tuple[int, int, int]:
    """Return channels, height and width of the decoded image, without weights or computation.

    Raises InputError if the autoencoder decodes other latents.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if network.defaults["latent_channels"] != latents.shape[1]:
        raise InputError(
            CODE,
            f"the autoencoder decodes {network.defaults['latent_channels']} channels, and the "
            f"U-Net draws {latents.shape[1]}",
            path=network.where,
        )
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module = _scaled(network, network.kind.build(network.config)).eval()
        channels, height, width = module(torch.zeros(latents.sized(batch=1))).shape[1:]
    return int(channels), int(height), int(width)


def decoder(network: Component, latents: TensorSpec) -> Graph:
    """Return the graph from latents to images, with the autoencoder's own scale and shift."""
    output = TensorSpec("image", ("batch", *image_shape(network, latents)))
    module = _scaled(network, network.module()).eval()
    own = module.state_dict()
    weights = {name: t for name, t in _weights(network, "").items() if name in own}
    return Graph(module, (latents,), output, weights)


def prompt_tokens(network: Component, tokenizer: TokenizerFiles) -> int:
    """Return the number of tokens of every prompt.

    Raises InputError if the tokenizer has more tokens, or longer prompts, than the encoder knows.
    """
    config = network.defaults
    positions, vocabulary = config["max_position_embeddings"], config["vocab_size"]
    if tokenizer.tokens > vocabulary:
        raise InputError(
            CODE,
            f"the tokenizer has {tokenizer.tokens} tokens and its text encoder {vocabulary}",
            path=network.where,
        )
    if tokenizer.limit is not None and tokenizer.limit > positions:
        raise InputError(
            CODE,
            f"the tokenizer makes prompts of {tokenizer.limit} tokens, and its text encoder takes "
            f"{positions}",
            path=network.where,
        )
    return tokenizer.limit or positions


def text(network: Component, tokens: int) -> Graph:
    """Return the graph from a prompt's tokens to the context that the denoiser reads."""
    width = network.defaults["hidden_size"]
    module = TokenEncoder(network.module()).eval()
    return Graph(
        module,
        (TensorSpec("tokens", ("batch", tokens), "int64"),),
        TensorSpec("context", ("batch", tokens, width)),
        _weights(network, "encoder."),
    )


def check_widths(networks: Mapping[str, Component]) -> None:
    """Raise InputError if the text encoder's width is not the one that the U-Net reads, or one of
    both is missing.
    """
    wanted = networks["denoiser"].defaults.get("cross_attention_dim")
    encoder = networks.get("text")
    if (wanted is None) != (encoder is None):
        what = "no text encoder" if encoder is None else "a text encoder that its U-Net never asks"
        raise InputError(CODE, f"it has {what}", path=networks["denoiser"].where)
    if encoder is not None and encoder.defaults["hidden_size"] != wanted:
        raise InputError(
            CODE,
            f"the text encoder gives {encoder.defaults['hidden_size']} numbers a token, and the "
            f"U-Net looks at {wanted}",
            path=encoder.where,
        )
