"""An adapter on disk, in PEFT's own layout, and what it makes of the weights it was trained on.
Needs no peft.

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
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import save as save_tensors
from torch import Size, Tensor

from ...core.files import publish, read_json, to_json
from ...errors import InputError, TrustError
from ..checkpoint import read_weights

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of each name in PEFT's files
# metadata: sha256 of the full-precision weights the adapter belongs to
BASE = "edgegen.base"


@dataclass(frozen=True)
class Lora:
    """What of a LoraConfig edgegen writes and reads; lists of names only, since a pattern from
    outside may never end.

    The update of a layer is B A alpha / r (Hu et al. 2022, section 4.1); of a convolution A has its
    kernel and B one of 1x1.
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


# Fields of a LoraConfig that change nothing about what a trained adapter computes. Any other must
# be empty, as PEFT writes it where it is not used, or have the one value named: edgegen's merge is
# true for plain LoRA alone, whatever PEFT adds to it.
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
PLAIN: Mapping[str, Any] = {
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
    """A trained adapter: tensors by name without PEFT's prefix, `base` the sha256 of the weights it
    was trained on.
    """

    lora: Lora
    tensors: dict[str, Tensor]
    base: str | None

    def write(self, folder: Path) -> None:
        """The folder, whole or not at all; the same adapter gives the same bytes."""
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
        # one key: safetensors writes several in any order
        metadata = {BASE: self.base} if self.base else None
        tensors = {
            PREFIX + name: tensor.detach().cpu().contiguous()
            for name, tensor in sorted(self.tensors.items())
        }
        with publish(folder, CONFIG, overwrite=True) as new:
            (new / TENSORS).write_bytes(save_tensors(tensors, metadata))
            (new / CONFIG).write_bytes(to_json(config))

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """InputError for what is missing, damaged or no plain LoRA, naming the field; TrustError
        for pickle; NaN is refused.
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
        if not file.is_file():
            other = next(iter(sorted(folder.glob("adapter_model.*"))), None)
            if other is not None:
                raise TrustError(
                    "E-PICKLE",
                    "edgegen does not read pickle files",
                    path=other,
                    hint="save it as safetensors",
                )
            raise InputError("E-ADAPTER-WEIGHTS", f"{TENSORS} is missing", path=folder)
        found = read_weights(file)
        if wrong := [name for name in found if not name.startswith(PREFIX)]:
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{len(wrong)} tensors are of no PEFT adapter, such as {wrong[0]}",
                path=file,
            )
        return cls(
            lora,
            {name.removeprefix(PREFIX): tensor for name, tensor in found.items()},
            _metadata(file).get(BASE),
        )

    def merged(self, master: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
        """The full-precision weights with the adapter in them, by the same names. Never of
        dequantized weights.

        InputError names a tensor that has no place, or a layer of the config without its tensors.
        """
        out = dict(master)
        left = set(self.tensors)

        def take(name: str) -> Tensor:
            if name not in self.tensors:
                raise InputError(
                    "E-ADAPTER-KEYS", f"{name} is missing: the adapter is not whole", path=where
                )
            left.discard(name)
            return self.tensors[name]

        layers = sorted(
            name.removesuffix(".lora_A.weight")
            for name in self.tensors
            if name.endswith(".lora_A.weight")
        )
        # peft shortens a long list of names to their endings
        for target in self.lora.target_modules:
            if not any(layer == target or layer.endswith(f".{target}") for layer in layers):
                take(f"{target}.lora_A.weight")
        for layer in layers:
            if not any(
                layer == target or layer.endswith(f".{target}")
                for target in self.lora.target_modules
            ):
                continue  # told below, with all that belongs nowhere
            weight = master.get(f"{layer}.weight")
            if weight is None:
                raise InputError("E-ADAPTER-KEYS", f"the base has no layer {layer}", path=where)
            a, b = take(f"{layer}.lora_A.weight"), take(f"{layer}.lora_B.weight")
            delta = self._delta(layer, a.double(), b.double(), weight.shape, where)
            out[f"{layer}.weight"] = (weight.double() + delta).float()
        for module in self.lora.modules_to_save:
            inside = [name for name in master if name.startswith(module + ".")]
            if not inside:
                raise InputError("E-ADAPTER-KEYS", f"the base has no module {module}", path=where)
            for name in inside:
                tensor = take(name)
                if tensor.shape != master[name].shape:
                    raise InputError(
                        "E-ADAPTER-KEYS",
                        f"{name} is {tuple(tensor.shape)}, wanted {tuple(master[name].shape)}",
                        path=where,
                    )
                out[name] = tensor.to(master[name].dtype)
        if left:
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{len(left)} tensors belong to no layer of the config, such as {min(left)}",
                path=where,
            )
        return out

    def _delta(self, layer: str, a: Tensor, b: Tensor, shape: Size, where: Path) -> Tensor:
        """What the pair adds to a weight of this shape. InputError where it is of another one."""
        rank = self.lora.r
        if a.shape[0] != rank or b.shape[1] != rank or b.shape[0] * a[0].numel() != shape.numel():
            raise InputError(
                "E-ADAPTER-KEYS",
                f"{layer}: a pair {tuple(a.shape)} and {tuple(b.shape)} of rank {rank} is not of a "
                f"weight {tuple(shape)}",
                path=where,
            )
        return (b.flatten(1) @ a.flatten(1)).reshape(shape) * self.lora.scaling


def check_base(adapter: Adapter, digest: str, where: Path) -> None:
    """TrustError for an adapter that was trained on other weights: it would load, and draw
    something else.
    """
    if adapter.base != digest:
        said = f"weights {adapter.base[:12]}..." if adapter.base else "weights it does not name"
        raise TrustError(
            "E-ADAPTER-BASE",
            f"this adapter was trained on {said}, the base has {digest[:12]}...",
            path=where,
            hint="use it with the base it was trained on",
        )


def _metadata(path: Path) -> dict[str, str]:
    """Of a safetensors file that read_weights has accepted."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    found: dict[str, str] = header.get("__metadata__", {})
    return found
