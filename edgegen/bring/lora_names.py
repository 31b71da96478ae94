"""How three programs name the tensors of a LoRA: PEFT, diffusers and kohya's scripts.

base_model.model.LAYER.lora_A.weight                  PEFT, of one network
unet.LAYER.lora_A.weight                              diffusers
unet.LAYER.processor.to_q_lora.down.weight            diffusers, before
lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight     kohya
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["down", "up", "alpha"]
SUFFIXES: tuple[tuple[str, Part], ...] = (
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".alpha", "alpha"),
)
ANY = ("denoiser", "text")
# prefix, networks that it may stand for, and whether underscores replace the dots of layers after
# it
PREFIXES: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("base_model.model.", ANY, False),
    ("unet.", ("denoiser",), False),
    ("text_encoder.", ("text",), False),
    ("lora_unet_", ("denoiser",), True),
    ("lora_te1_", ("text",), True),
    ("lora_te_", ("text",), True),
    ("", ANY, False),
)


@dataclass(frozen=True)
class LayerName:
    """Hold one layer as a file names it; `prefix` is that of its network, as the file writes it."""

    prefix: str
    layer: str
    networks: tuple[str, ...]
    flat: bool


def parsed(key: str) -> tuple[LayerName, Part] | None:
    """Return the layer that a tensor belongs to, and which part of its update it is; None for a
    name that no program writes.
    """
    for suffix, part in SUFFIXES:
        if key.endswith(suffix):
            prefix, networks, flat = next(p for p in PREFIXES if key.startswith(p[0]))
            layer = key.removesuffix(suffix).removeprefix(prefix).replace(".processor.", ".")
            return LayerName(prefix, layer, networks, flat), part
    return None


def found_in(name: LayerName, weights: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
    """Return the network and the weight of a layer, or None; `weights` has the names of weights by
    network.
    """
    for network in name.networks:
        held = {key.removesuffix(".weight") for key in weights.get(network, ())}
        own = {key.replace(".", "_"): key for key in held} if name.flat else {k: k for k in held}
        for candidate in _candidates(name):
            if candidate in own:
                return network, f"{own[candidate]}.weight"
    return None


def _candidates(name: LayerName) -> Iterable[str]:
    dot = "_" if name.flat else "."
    yield name.layer
    yield f"{name.layer}{dot}0"  # to_out is a list with one entry
    yield name.layer.removeprefix(f"text_model{dot}")
    yield f"text_model{dot}{name.layer}"


def pattern_value(patterns: Mapping[str, object], layer: str) -> object:
    """Return the value of the first pattern that is the layer's name or an end of it; None without
    one.

    Raises ValueError for a pattern that is more than a name.
    """
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")
        if not re.fullmatch(r"[\w.]+", name):
            raise ValueError(f"the pattern {pattern!r:.80} is no layer's name")
        if layer == name or (not pattern.startswith("^") and layer.endswith(f".{name}")):
            return value
    return None
