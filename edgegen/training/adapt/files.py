"""An adapter on disk in PEFT's layout, and its merging into the weights it was trained on. This
does not need peft.

    adapter/  adapter_config.json          PEFT's LoraConfig: rank, alpha, the layers
              adapter_model.safetensors    lora_A and lora_B of each layer, and the modules that
                                           were trained whole; its metadata names the base by sha256
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...core.files import JsonObject, publish, put, read_json, to_json
from ...core.reader import opened
from ...errors import InputError, TrustError
from ..checkpoint import read_weights

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # prefix of each name in PEFT's files
# metadata key: sha256 of the full-precision weights to which the adapter belongs
BASE = "edgegen.base"


@dataclass(frozen=True)
class Lora:
    """The fields of a LoraConfig that edgegen writes and reads.

    Layers are given only as lists of names, because evaluating a pattern from an unknown file may
    not end. The update of a layer is B A alpha / r (Hu et al. 2022, section 4.1); for a convolution
    A has its kernel and B a kernel of 1x1.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    modules_to_save: tuple[str, ...] = ()
    peft_type: str = "LORA"

    def __post_init__(self) -> None:
        if self.r < 1 or not self.lora_alpha > 0 or self.peft_type != "LORA":
            raise ValueError(
                f"wanted a LORA of rank 1 or more and alpha above 0, got {self.peft_type}, "
                f"{self.r} and "
                f"{self.lora_alpha}"
            )

    @property
    def scaling(self) -> float:
        return self.lora_alpha / self.r


# Fields of a LoraConfig that do not change what a trained adapter computes. Any other field must be
# empty, as PEFT writes an unused one, or have its value in PLAIN, because edgegen's merge is
# correct only for plain LoRA.
NEUTRAL = frozenset(
    (
        "task_type",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "exclude_modules",
        "lora_dropout",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
    )
)
PLAIN: JsonObject = {
    "bias": "none",
    "init_lora_weights": True,
    "auto_mapping": {
        "base_model_class": "ModuleDict",
        "parent_library": "torch.nn.modules.container",
    },
}
_READ = frozenset(field.name for field in fields(Lora))


@dataclass(frozen=True)
class Adapter:
    """A trained adapter.

    tensors: by name without PEFT's prefix; base: sha256 of the weights it was trained on.
    """

    lora: Lora
    tensors: dict[str, Tensor]
    base: str | None

    def to_bytes(self) -> dict[str, bytes]:
        """Return the adapter's files by name; the same adapter always gives the same bytes."""
        config = {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": None,
            "inference_mode": True,
            "r": self.lora.r,
            "lora_alpha": self.lora.lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(self.lora.target_modules),
            "modules_to_save": sorted(self.lora.modules_to_save) or None,
        }
        # only one key, because safetensors writes several in any order
        metadata = {BASE: self.base} if self.base else None
        tensors = {
            PREFIX + name: tensor.detach().cpu().contiguous()
            for name, tensor in sorted(self.tensors.items())
        }
        return {TENSORS: save_tensors(tensors, metadata), CONFIG: to_json(config)}

    def write(self, folder: Path) -> None:
        """Write the adapter's folder, whole or not at all."""
        with publish(folder, CONFIG, overwrite=True) as new:
            for name, data in self.to_bytes().items():
                put(new / name, data)

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read an adapter's folder.

        InputError for a missing or damaged file, and for a field that is not of plain LoRA;
        TrustError for pickle.
        """
        path = folder / CONFIG
        data = read_json(path)
        if not isinstance(data, dict):
            raise InputError("E-ADAPTER-CONFIG", "not an adapter's config", path=path)
        for name, value in data.items():
            if name not in NEUTRAL | _READ and value and value != PLAIN.get(name):
                raise InputError(
                    "E-ADAPTER-CONFIG",
                    f"{name} = {value!r} is not supported",
                    path=path,
                    hint="edgegen reads plain LoRA: a low-rank pair a layer, and whole modules",
                )
        try:
            lora = TypeAdapter(Lora).validate_json(
                to_json({**data, "modules_to_save": data.get("modules_to_save") or []})
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "config"
            raise InputError(
                "E-ADAPTER-CONFIG",
                f"{where}: {first['msg']}",
                path=path,
                hint="target_modules and modules_to_save are lists of layer names",
            ) from error
        file = folder / TENSORS
        if not (file.is_file() or file.is_symlink()):
            other = next(iter(sorted(folder.glob("adapter_model.*"))), None)
            if other is not None:
                raise TrustError(
                    "E-PICKLE",
                    "edgegen does not read pickle files",
                    path=other,
                    hint="save it as safetensors",
                )
            raise InputError("E-ADAPTER-WEIGHTS", f"{TENSORS} is missing", path=folder)
        tensors = read_weights(file)
        if wrong := [name for name in tensors if not name.startswith(PREFIX)]:
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{len(wrong)} tensors are of no PEFT adapter, such as {wrong[0]}",
                path=file,
            )
        return cls(
            lora,
            {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
            _metadata(file).get(BASE),
        )

    def merged(self, master: Mapping[str, Tensor], where: Path | None) -> dict[str, Tensor]:
        """Return the full-precision weights with the adapter merged into them, by the same names.

        master: never dequantized weights; where: for messages. InputError names a tensor that has
        no place, or a layer of the config without tensors.
        """
        tensors = _Tensors(self.tensors, where)
        merged = dict(master)
        for layer in self._layers(tensors):
            merged[f"{layer}.weight"] = self._with_pair(layer, master, tensors)
        for module in self.lora.modules_to_save:
            merged |= _saved(module, master, tensors)
        if tensors.left:
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{len(tensors.left)} tensors belong to no layer of the config, such as "
                f"{min(tensors.left)}",
                path=where,
            )
        return merged

    def _layers(self, tensors: _Tensors) -> list[str]:
        """Return the layers with a pair that the config names, sorted. InputError for a target
        without one.
        """
        layers = sorted(
            name.removesuffix(".lora_A.weight")
            for name in self.tensors
            if name.endswith(".lora_A.weight")
        )
        for target in self.lora.target_modules:
            if not any(_is_of(layer, target) for layer in layers):
                tensors.take(f"{target}.lora_A.weight")
        # merged() reports the others, with all tensors that have no place
        return [
            layer
            for layer in layers
            if any(_is_of(layer, target) for target in self.lora.target_modules)
        ]

    def _with_pair(self, layer: str, master: Mapping[str, Tensor], tensors: _Tensors) -> Tensor:
        """Return the layer's weight with the scaled product of its pair added."""
        weight = master.get(f"{layer}.weight")
        if weight is None:
            raise InputError("E-ADAPTER-KEYS", f"the base has no layer {layer}", path=tensors.where)
        a = tensors.take(f"{layer}.lora_A.weight").double()
        b = tensors.take(f"{layer}.lora_B.weight").double()
        if (
            a.shape[0] != self.lora.r
            or b.shape[1] != self.lora.r
            or b.shape[0] * a[0].numel() != weight.numel()
        ):
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{layer}: a pair {tuple(a.shape)} and {tuple(b.shape)} of rank {self.lora.r} "
                f"is not of a weight {tuple(weight.shape)}",
                path=tensors.where,
            )
        delta = (b.flatten(1) @ a.flatten(1)).reshape(weight.shape) * self.lora.scaling
        return (weight.double() + delta).float()


class _Tensors:
    """An adapter's tensors, with the names of those that were not taken yet."""

    def __init__(self, tensors: Mapping[str, Tensor], where: Path | None) -> None:
        self._tensors, self.left, self.where = tensors, set(tensors), where

    def take(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise InputError(
                "E-ADAPTER-KEYS", f"{name} is missing: the adapter is not whole", path=self.where
            )
        self.left.discard(name)
        return self._tensors[name]


def _is_of(layer: str, target: str) -> bool:
    """Return whether a target names the layer; peft shortens long lists to the names' endings."""
    return layer == target or layer.endswith(f".{target}")


def _saved(module: str, master: Mapping[str, Tensor], tensors: _Tensors) -> dict[str, Tensor]:
    """Return the tensors of a module that the adapter holds in full."""
    names = [name for name in master if name.startswith(module + ".")]
    if not names:
        raise InputError("E-ADAPTER-KEYS", f"the base has no module {module}", path=tensors.where)
    saved = {}
    for name in names:
        tensor = tensors.take(name)
        if tensor.shape != master[name].shape:
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{name} is {tuple(tensor.shape)}, wanted {tuple(master[name].shape)}",
                path=tensors.where,
            )
        saved[name] = tensor.to(master[name].dtype)
    return saved


def check_base(adapter: Adapter, digest: str, where: Path) -> None:
    """Raise TrustError for an adapter that was trained on other weights, because it would load but
    draw wrong images.
    """
    if adapter.base != digest:
        base = f"weights {adapter.base[:12]}..." if adapter.base else "weights it does not name"
        raise TrustError(
            "E-ADAPTER-BASE",
            f"this adapter was trained on {base}, the base has {digest[:12]}...",
            path=where,
            hint="use it with the base it was trained on",
        )


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file that read_weights has accepted."""
    with opened(path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
