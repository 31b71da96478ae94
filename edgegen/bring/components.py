"""List the classes of diffusers and transformers that are accepted, one line each.

A module is built from its config by its own class, never by code or weights from elsewhere, and its
tensors must be exactly those that the config makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..core import weights
from ..core.files import JsonObject
from ..errors import InputError
from .folder_files import CODE, FolderFiles
from .weight_files import COUNTED, component_tensors, fitted

if TYPE_CHECKING:
    import torch
    from torch import nn

Role = Literal["denoiser", "decoder", "text"]
MOST_LAYERS = 100  # in a block, or in an encoder
LARGEST_SIZE = 1 << 20  # largest value of anything else that a config counts
LAYERS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block")
# Fields of a transformers config that do not affect what is computed.
OF_TRANSFORMERS = frozenset(
    {
        "architectures",
        "chunk_size_feed_forward",
        "dropout",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
    }
)


@dataclass(frozen=True)
class ComponentClass:
    """Describe a class of diffusers.

    `only` has the accepted values of some fields whose other values need inputs or parts that no
    sampler provides; `copies` are fields that its class writes as copies of others.
    """

    name: str
    role: Role
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()

    @property
    def stem(self) -> str:
        """Return the name of the file with its weights, without suffix."""
        return "diffusion_pytorch_model"

    def check(self, config: JsonObject, path: object) -> None:
        """Raise InputError, which names the field, for an unknown field or a value that is not
        accepted.
        """
        if (said := config.get("_class_name", self.name)) != self.name:
            raise InputError(
                CODE, f"it is a {said!r:.80}, and the folder takes it for a {self.name}", path=path
            )
        known = self.fields() | self.copies
        for name, value in config.items():
            if name.startswith("_"):
                continue
            if name not in known:
                raise InputError(CODE, f"{self.name} has the unknown field {name!r}", path=path)
            if name in self.only and value not in self.only[name]:
                raise InputError(
                    CODE, f"{name} of {self.name} is {value!r:.80}, which is not taken", path=path
                )
            _check_size(name, value, path)

    def fields(self) -> set[str]:
        """Return the names of the fields that it is built from."""
        import diffusers

        return set(inspect.signature(getattr(diffusers, self.name)).parameters)

    def build(self, config: JsonObject) -> Any:
        """Build the module without weights, on the current default device."""
        import diffusers

        return getattr(diffusers, self.name)(**self.given(config))

    def given(self, config: JsonObject) -> JsonObject:
        """Return the fields that it is built from, with tuples in place of JSON's lists."""
        own = self.fields()
        return {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in own}


@dataclass(frozen=True)
class TextEncoderClass(ComponentClass):
    """Describe a class of transformers, which is built from a config of its own class
    (`settings`).
    """

    settings: str = ""

    @property
    def stem(self) -> str:
        return "model"

    def fields(self) -> set[str]:
        import transformers

        own = inspect.signature(getattr(transformers, self.settings)).parameters
        return set(own) - self.copies

    def build(self, config: JsonObject) -> Any:
        import transformers

        settings = getattr(transformers, self.settings)(**self.given(config))
        return getattr(transformers, self.name)(settings)


def _check_size(name: str, value: object, path: object) -> None:
    most = MOST_LAYERS if name in LAYERS else LARGEST_SIZE
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, list):
            _check_size(name, one, path)
        elif isinstance(one, int | float) and not abs(one) <= most:
            raise InputError(CODE, f"{name} is {one}, and {most} is the most", path=path)
    if isinstance(value, list) and len(value) > MOST_LAYERS:
        raise InputError(CODE, f"{name} has {len(value)} entries", path=path)


NONE = (None,)
COMPONENTS: Mapping[str, ComponentClass] = {
    component.name: component
    for component in (
        ComponentClass("UNet2DModel", "denoiser", only={"class_embed_type": NONE}),
        ComponentClass(
            "UNet2DConditionModel",
            "denoiser",
            only={
                "addition_embed_type": NONE,
                "attention_type": ("default",),
                "class_embed_type": NONE,
                "encoder_hid_dim": NONE,
                "encoder_hid_dim_type": NONE,
                "num_class_embeds": NONE,
            },
        ),
        ComponentClass(
            "AutoencoderKL", "decoder", only={"latents_mean": NONE, "latents_std": NONE}
        ),
        ComponentClass("AutoencoderTiny", "decoder", copies=frozenset({"block_out_channels"})),
        TextEncoderClass(
            "CLIPTextModel", "text", copies=OF_TRANSFORMERS, settings="CLIPTextConfig"
        ),
    )
}


@dataclass(frozen=True)
class Component:
    """Hold one network of a folder.

    `config` is what the file says, and `defaults` adds the class's own values; `tensors` are by the
    module's own names, as they lie in the files, or merged with an adapter.
    """

    kind: ComponentClass
    config: JsonObject
    defaults: Mapping[str, Any] = field(repr=False)
    tensors: dict[str, torch.Tensor] = field(repr=False)
    where: str

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def is_large(self) -> bool:
        """Return whether the weights are too large to be held in memory by code that does not
        compute with them.
        """
        sizes = (tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
        return sum(sizes) > weights.APART_BYTES

    def module(self) -> nn.Module:
        """Return the network in full precision and eval mode, with its own copy of the weights, or
        without them if it is large.
        """
        import torch

        module = skeleton(self.kind, self.config, self.where)
        if not self.is_large:
            own = {name: t.to(torch.float32, copy=True) for name, t in self.tensors.items()}
            module.load_state_dict(own, strict=True, assign=True)
        for name, buffer in list(module.named_buffers()):
            if buffer.is_meta and name.endswith(COUNTED):
                owner = module.get_submodule(name.rpartition(".")[0])
                owner.register_buffer(COUNTED, torch.arange(buffer.shape[-1])[None], False)
        return module.requires_grad_(False).eval()


def skeleton(kind: ComponentClass, config: JsonObject, where: object) -> Any:
    """Return the module that a config describes, without memory for weights.

    Raises InputError if its class does not accept the config.
    """
    import torch

    try:
        with torch.device("meta"):
            return kind.build(config)
    except Exception as error:  # the class may raise any error for a config that makes no sense
        raise InputError(
            CODE, f"{kind.name} cannot be built from its config: {error!s:.200}", path=where
        ) from error


def component(
    files: FolderFiles, folder: str, kind: ComponentClass, variant: str | None = None
) -> Component:
    """Read a network from its folder. Raises InputError, which names what does not fit."""
    name = f"{folder}/config.json" if folder else "config.json"
    config = files.json(name)
    kind.check(config, files.path(name))
    module = skeleton(kind, config, files.path(name))
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    read = component_tensors(files, folder, kind.stem, variant)
    own = module.config
    return Component(
        kind=kind,
        config=config,
        defaults=dict(own) if isinstance(own, Mapping) else own.to_dict(),
        tensors=fitted(read, wanted, files.path(folder)),
        where=str(files.path(name)),
    )
