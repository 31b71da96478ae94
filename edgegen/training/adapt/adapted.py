"""A trained generator with low-rank adapters in its networks, which is trained by the same loop and
the family's own objectives.

Training uses the base, quantized or not, with the adapters beside its layers; the full-precision
master with the adapters added to its weights is what always ships. PEFT inserts the adapters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.graph import Batch, Embedded, FamilyConfig, Generator, Graph, Objective
from ...core.latent import Latent
from ...core.samplers import Sampler
from ...families import Adapting, Family, Judged, Tuning
from . import Kind
from .bases import quantize
from .files import Adapter, Lora
from .library import importing
from .merged_conv import join
from .recompute import recompute
from .trainable_part import OF_BASE, Part

NAME = "default"  # PEFT's name for the only adapter
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def targets(networks: nn.ModuleDict, tuning: Tuning) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the convolutions and linear layers that get a pair, and of the modules
    that are trained in full.

    In full are trained the modules that the tuning names, and every norm of a network with pairs,
    because norms are small and new photos have other statistics.
    """
    whole = [name for name, _ in networks.named_modules() if _any(name, tuning.whole)]
    inside = tuple(name + "." for name in whole)
    pairs = [
        name
        for name, module in networks.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and _any(name, tuning.targets)
        and not f"{name}.".startswith(inside)
    ]
    adapted = {name.partition(".")[0] for name in pairs}
    norms = [
        name
        for name, module in networks.named_modules()
        if isinstance(module, NORMS)
        and name.partition(".")[0] in adapted
        and not f"{name}.".startswith(inside)
    ]
    return tuple(pairs), tuple([*whole, *norms])


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Adapted:
    """A Generator whose networks are the trainable parts; graphs() are those of the master with the
    adapter added.

    master: full-precision tensors of all its networks. kind: format of the frozen linear layers
    during training; twice: whether blocks are recomputed in the backward pass to save memory.
    RuntimeMissing without PEFT, or without bitsandbytes for a rounded base.
    """

    def __init__(
        self,
        family: Family,
        config: FamilyConfig,
        master: Mapping[str, Tensor],
        lora: Lora,
        kind: Kind = "fp32",
        twice: bool = False,
    ) -> None:
        with importing("peft"):
            from peft import LoraConfig, get_peft_model

        self.family, self.config, self.lora = family, config, lora
        self._master = {name: tensor.clone() for name, tensor in master.items()}
        self.base: Generator = family.build(config)
        self.base.networks.load_state_dict(self._master)
        self.quantized = quantize(self.base.networks, kind, lora.target_modules)
        if twice:
            recompute(self.base.networks)
        for parameter in self.base.networks.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        wanted = LoraConfig(
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            target_modules=list(lora.target_modules),
            modules_to_save=list(lora.modules_to_save) or None,
        )
        with warnings.catch_warnings():
            # PEFT warns about norms, which LoRA cannot target; they are trained in full on purpose
            warnings.filterwarnings("ignore", message=".*modules_to_save.*")
            get_peft_model(self.base.networks, wanted)
        _level(self.base.networks, self._master, lora.target_modules)
        join(self.base.networks)
        self.networks = nn.ModuleDict(
            {name: _part(net) for name, net in self.base.networks.items()}
        )

    @property
    def shipped(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: self.networks[name] for name in self.base.shipped})

    @property
    def embeds_training_data(self) -> Embedded:
        return self.base.embeds_training_data

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.base.image_shape

    @property
    def latent(self) -> Latent:
        return self.base.latent

    @property
    def sampler(self) -> Sampler:
        return self.base.sampler

    @property
    def judge(self) -> nn.Module | None:
        return self.base.judge if isinstance(self.base, Judged) else None

    def teach(self, batches: Iterable[Batch]) -> None:
        """Teach the base's judge, if it has one."""
        if isinstance(self.base, Judged):
            self.base.teach(batches)

    def objectives(self) -> Iterable[Objective]:
        """Return the family's objectives for adapting, with only the parameters that train;
        objectives without any are left out.
        """
        objectives = (
            self.base.adapting() if isinstance(self.base, Adapting) else self.base.objectives()
        )
        moved = (
            replace(o, params=tuple(p for p in o.params if p.requires_grad)) for o in objectives
        )
        return tuple(o for o in moved if o.params)

    def graphs(self) -> Mapping[str, Graph]:
        return self.plain().graphs()

    def plain(self) -> Generator:
        """Return a plain generator with the present adapters merged into the master, and with the
        base's present buffers.
        """
        generator = self.family.build(self.config)
        generator.networks.load_state_dict(self.merged())
        generator.networks.eval()
        return generator

    def merged(self) -> dict[str, Tensor]:
        """Return the full-precision tensors of all networks with the adapters added."""
        return self.adapter().merged({**self._master, **self.measured()}, None)

    def trained_view(self) -> dict[str, Tensor]:
        """Return the tensors of all networks as training sees them, with rounded bases.

        The weight of each adapted layer is measured from its outputs for unit inputs, which works
        because rounded layers multiply by their dequantized weights and do not round activations.
        """
        out = {**self.merged()}
        for name, module in self.base.networks.named_modules():
            if name in self.lora.target_modules:
                out[f"{name}.weight"] = _answers(module).to(torch.float32)
        return out

    def adapter(self, base: str | None = None) -> Adapter:
        """Return the trained tensors of the networks that ship, copied, by the names that PEFT uses
        in files; base: sha256 of the base's weights.
        """
        ships = tuple(name + "." for name in self.base.shipped)
        lora = replace(
            self.lora,
            target_modules=tuple(n for n in self.lora.target_modules if n.startswith(ships)),
            modules_to_save=tuple(n for n in self.lora.modules_to_save if n.startswith(ships)),
        )
        tensors = {}
        for name, tensor in self.base.shipped.state_dict().items():
            if f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name:
                tensors[name.replace(f".{NAME}.", ".")] = tensor.detach().clone()
            elif f".modules_to_save.{NAME}." in name:
                tensors[name.replace(f".modules_to_save.{NAME}.", ".")] = tensor.detach().clone()
        return Adapter(lora, tensors, base)

    def measured(self) -> dict[str, Tensor]:
        """Return the buffers that training fills or measures, such as a bank or a scale, and extra
        state; the adapter does not hold these.
        """
        state = self.base.networks.state_dict()
        trained = (".lora_A.", ".lora_B.", ".modules_to_save.", *OF_BASE)
        buffers = dict(self.base.networks.named_buffers())
        return {
            name: tensor.detach().clone()
            for name, tensor in state.items()
            if name in self._master
            and (name in buffers or name.endswith("_extra_state"))
            and not any(mark in f".{name}" for mark in trained)
        }

    def load(self, adapter: Adapter, where: Path | None) -> None:
        """Load a trained adapter. InputError if it does not fit; where: for messages."""
        adapter.merged(self._master, where)  # raises InputError if it does not fit
        own = self.base.networks.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in own.items():
                short = name.replace(f".modules_to_save.{NAME}.", ".").replace(f".{NAME}.", ".")
                if short != name and short in adapter.tensors:
                    tensor.copy_(adapter.tensors[short])


@torch.no_grad()
def _answers(layer: Any) -> Tensor:
    """Return the effective weight of an adapted convolution or linear layer: its outputs for unit
    inputs, minus that for zeros.
    """
    weight: Tensor = layer.base_layer.weight
    if not isinstance(layer.base_layer, nn.Conv2d):
        probe = torch.eye(layer.in_features, device=weight.device)
        answers: Tensor = layer(probe) - layer(torch.zeros_like(probe))
        return answers.T
    _, cin, kernel, _ = weight.shape
    # the input position at which the window of output (1, 1) begins
    first = layer.base_layer.stride[0] - int(layer.base_layer.padding[0])
    patches = torch.eye(cin * kernel**2, device=weight.device).reshape(-1, cin, kernel, kernel)
    probe = F.pad(patches, (first, kernel, first, kernel))
    answers = (layer(probe) - layer(torch.zeros_like(probe)))[:, :, 1, 1]
    return answers.T.reshape(weight.shape)


@torch.no_grad()
def _level(networks: nn.ModuleDict, master: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Scale the first factor of each pair up to the size of the layer's weights.

    PEFT draws it for weights that are small because a layer has many inputs. A layer with equalized
    learning rate (docs/methods/isc-gan.md, A.2.1) holds weights of size 1 and scales them down, and
    PEFT's initial pairs would hardly change them.
    """
    for name in names:
        first: Any = networks.get_submodule(name)
        first = first.lora_A[NAME].weight
        first.mul_(
            max(
                1.0,
                float(
                    master[f"{name}.weight"].square().mean().sqrt() / first.square().mean().sqrt()
                ),
            )
        )


def _part(network: nn.Module) -> nn.Module:
    """Return the trainable part of a network, or the network itself if nothing of it is frozen."""
    return network if all(p.requires_grad for p in network.parameters()) else Part(network)
