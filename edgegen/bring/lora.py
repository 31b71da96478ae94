"""Merge LoRA files into the weights of a brought generator: W + scale * alpha / rank * B A, in full
precision (Hu et al. 2022, section 4.1).

A tensor that belongs to no layer is an error that names it: nothing of a file is ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import JsonObject, parse_json
from ..errors import InputError, NotFetched
from .components import Component
from .folder_files import FolderFiles
from .lora_names import LayerName, found_in, parsed, pattern_value
from .weight_files import read_tensors

if TYPE_CHECKING:
    import torch

CODE = "E-BRING-LORA"
# metadata in files of diffusers: fields of PEFT's config by network
METADATA = "lora_adapter_metadata"
FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # file names in a folder
CONFIG = "adapter_config.json"
LARGEST_SCALE = 100.0
# fields of PEFT's config that a merge follows, and below those that do not affect it
FOLLOWED = frozenset(
    {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
)
NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)
PLAIN: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", None),
}


@dataclass(frozen=True)
class LoraFile:
    """Name a file, or a folder that PEFT or diffusers wrote, and the factor with which it
    is added.
    """

    path: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> LoraFile:
        """Parse FILE or FILE:SCALE, such as shoes.safetensors:0.8. Raises InputError for a scale
        that is too large.
        """
        name, colon, number = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(Path(text))
        try:
            scale = float(number)
        except ValueError:
            return cls(Path(text))
        if not abs(scale) <= LARGEST_SCALE:
            raise InputError(CODE, f"the scale {number} is beyond {LARGEST_SCALE:g}", path=name)
        return cls(Path(name), scale)


@dataclass
class _Update:
    """Hold what a file has for one layer."""

    name: LayerName
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: torch.Tensor | None = None


def merged(networks: Mapping[str, Component], lora: LoraFile) -> tuple[dict[str, Component], str]:
    """Return the networks with the file's updates merged into their weights, and the
    file's sha256.

    Raises InputError, which names the layer, for a tensor that fits none of them.
    """
    files, name = _file(lora.path)
    try:
        tensors, metadata = read_tensors(files, name)
        configs = _configs(files, metadata)
    except NotFetched:
        raise
    except InputError as error:
        error.code = CODE
        raise
    path = files.path(name)
    changed = {graph: dict(network.tensors) for graph, network in networks.items()}
    for update in _updates(tensors, path).values():
        place = found_in(update.name, {g: n.tensors for g, n in networks.items()})
        if place is None:
            raise InputError(
                CODE,
                f"no network of this generator has a layer {update.name.prefix}{update.name.layer}",
                path=path,
                hint="it may be a LoRA of another base",
            )
        graph, weight = place
        config = configs.get(update.name.prefix, configs.get("", {}))
        changed[graph][weight] = _added(changed[graph][weight], update, lora.scale, config, path)
    return {
        graph: replace(network, tensors=changed[graph]) for graph, network in networks.items()
    }, files.sha256[name]


def _file(path: Path) -> tuple[FolderFiles, str]:
    if path.is_dir():
        files = FolderFiles(path)
        name = next((name for name in FILES if name in files.names()), None)
        if name is None:
            raise InputError(CODE, f"it holds neither of {', '.join(FILES)}", path=path)
        return files, name
    if path.suffix != ".safetensors":
        raise InputError(
            CODE,
            "a LoRA is a .safetensors file: others may run code when they are read",
            path=path,
            hint="convert it where you trust it",
        )
    return FolderFiles(path.parent), path.name


def _updates(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, _Update]:
    found: dict[str, _Update] = {}
    for key, tensor in tensors.items():
        known = parsed(key)
        if known is None:
            raise InputError(
                CODE,
                f"the tensor {key!r} is none of a plain LoRA, and would be left out",
                path=path,
            )
        name, part = known
        update = found.setdefault(name.prefix + name.layer, _Update(name))
        if getattr(update, part) is not None:
            raise InputError(CODE, f"the tensor {key!r} is there under two names", path=path)
        setattr(update, part, tensor)
    if not found:
        raise InputError(CODE, "the file holds no tensors", path=path)
    return found


def _configs(files: FolderFiles, metadata: Mapping[str, str]) -> dict[str, JsonObject]:
    """Return the fields of PEFT's config by the prefix of the layers that they apply to."""
    found: dict[str, JsonObject] = {}
    if METADATA in metadata:
        try:
            fields = parse_json(metadata[METADATA].encode())
        except ValueError as error:
            raise InputError(CODE, f"its {METADATA}: {error}", path=files.root) from error
        for name, value in fields.items() if isinstance(fields, dict) else ():
            network, _, field = name.partition(".")
            found.setdefault(f"{network}.", {})[field] = value
    elif files.holds(CONFIG):
        found["base_model.model."] = files.json(CONFIG)
    for config in found.values():
        _check_plain(config, files.root)
    return found


def _check_plain(config: JsonObject, path: Path) -> None:
    if config.get("peft_type", "LORA") != "LORA":
        raise InputError(CODE, f"it is a {config['peft_type']!r:.40}, not a LoRA", path=path)
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise InputError(CODE, f"its {name} is no object", path=path)
    for name, value in config.items():
        if name in FOLLOWED or name in NEUTRAL or value in PLAIN.get(name, (None, False)):
            continue
        if value in ([], {}, "") and name not in PLAIN:
            continue
        raise InputError(
            CODE, f"its {name} is {json.dumps(value)[:80]}, which is no plain LoRA", path=path
        )


def _added(
    weight: torch.Tensor, update: _Update, scale: float, config: JsonObject, path: Path
) -> torch.Tensor:
    """Return the weight with the update added, as float32. Raises InputError if they do not fit."""
    layer = f"{update.name.prefix}{update.name.layer}"
    if update.down is None or update.up is None:
        raise InputError(CODE, f"{layer} has one of its two matrices alone", path=path)
    down, up = update.down.float(), update.up.float()
    rank = down.shape[0] if down.ndim else 0
    fits = (
        down.ndim in (2, 4)
        and up.ndim in (2, 4)
        and up.shape[1] == rank
        and up[0, 0].numel() == 1
        and up.shape[0] == weight.shape[0]
        and down[0].numel() == weight[0].numel()
        and (down.ndim == 2 or tuple(down.shape[1:]) == (*weight.shape[1:], 1, 1)[:3])
    )
    if not fits:
        raise InputError(
            CODE,
            f"{layer} updates a weight of {(up.shape[0], *down.shape[1:])}, and it is "
            f"{tuple(weight.shape)} here: the LoRA is one of another base",
            path=path,
        )
    try:
        factor = _factor(update, config, rank) * scale
    except (ValueError, TypeError) as error:
        raise InputError(CODE, f"{layer}: {error}", path=path) from error
    delta = (up.flatten(1) @ down.flatten(1)) * factor
    return weight.float() + delta.reshape(weight.shape)


def _factor(update: _Update, config: JsonObject, rank: int) -> float:
    """Return alpha / rank (alpha / sqrt(rank) with use_rslora), or 1 without alpha. Raises
    ValueError for values that do not fit.
    """
    alpha: object = None
    if update.alpha is not None:
        if update.alpha.numel() != 1:
            raise ValueError("its alpha is not one number")
        alpha = update.alpha.item()
    elif config:
        alpha = pattern_value(config.get("alpha_pattern") or {}, update.name.layer)
        alpha = config.get("lora_alpha") if alpha is None else alpha
    if alpha is None:
        return 1.0
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"its alpha is {alpha!r:.40}")
    said = pattern_value(config.get("rank_pattern") or {}, update.name.layer) if config else None
    said = config.get("r") if said is None else said
    if said is not None and said != rank:
        raise ValueError(f"its config says rank {said!r:.40}, and its matrices have {rank}")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
