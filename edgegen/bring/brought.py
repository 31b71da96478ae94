"""Prepare a generator from another program for everything that follows training: graphs, a sampler,
and the origin of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.samplers import MultistepSampler
from ..core.spec import TensorSpec
from ..errors import InputError
from .folder import BroughtFolder, FolderChoices, open_folder
from .folder_files import CODE
from .lora import LoraFile, merged
from .schedule import schedule

if TYPE_CHECKING:
    from ..core.graph import Graph
    from .components import Component

IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class BringChoices:
    """Hold what a user says beside the folder.

    `steps` and `guidance` are None for what its pipeline takes; `eta` is the share of fresh noise
    of DDIM; `loras` are adapters that are merged in this order.
    """

    folder: FolderChoices = field(default_factory=FolderChoices)
    steps: int | None = None
    eta: float = 0.0
    guidance: float | None = None
    loras: Sequence[LoraFile] = ()


@dataclass(frozen=True)
class Brought:
    """Hold a brought diffusers generator.

    `sha256` has the hash of each file that was read, by its path in the folder, and of each adapter
    by its place and its name. `networks` are by graph.
    """

    root: Path
    sampler: MultistepSampler
    noise: TensorSpec
    inputs: tuple[TensorSpec, ...]  # inputs of the denoiser
    tokens: int  # tokens of a prompt, 0 without prompts
    image_shape: tuple[int, int, int]  # channels, height, width
    networks: Mapping[str, Component] = field(repr=False)
    folder: BroughtFolder = field(repr=False)
    sha256: Mapping[str, str] = field(repr=False)
    eta: float = 0.0  # of its scheduler
    embeds_training_data: Literal["none"] = "none"

    def with_steps(self, steps: int) -> Brought:
        """Return the generator with a sampler of `steps` steps. Raises InputError if its scheduler
        has none.
        """
        own, folder = self.sampler, self.folder
        found = replace(
            schedule(folder.scheduler, folder.scheduler_path, steps, self.eta),
            decoder=own.decoder,
            guidance=own.guidance,
            nulls=own.nulls,
            embedded_guidance=own.embedded_guidance,
        )
        return replace(self, sampler=found)

    @property
    def classes(self) -> int:
        """Return the number of classes of one-hot labels; 0 without labels."""
        found = next((spec.shape[1] for spec in self.inputs if spec.name == "label"), 0)
        return int(found)

    @property
    def context(self) -> TensorSpec | None:
        """Return the spec of an encoded prompt; None for a generator without prompts."""
        return next((spec for spec in self.inputs if spec.name == "context"), None)

    @property
    def parameters(self) -> dict[str, int]:
        """Return the number of parameters of each graph."""
        return {name: network.parameters for name, network in self.networks.items()}

    @property
    def licence(self) -> str | None:
        """Return the licence that the folder's README.md names."""
        return self.folder.licence

    @property
    def tokenizer(self) -> tuple[str, ...]:
        return () if self.folder.tokenizer is None else self.folder.tokenizer.names

    def graphs(self) -> Mapping[str, Graph]:
        """Return the graphs that the sampler runs, in full precision; they are made once."""
        return {name: graph for name, graph in self._graphs.items() if name != "text"}

    def text(self) -> Graph | None:
        """Return the graph that encodes prompts, or None if the generator takes none."""
        return self._graphs.get("text")

    @cached_property
    def _graphs(self) -> Mapping[str, Graph]:
        from . import wrap

        made = {"denoiser": wrap.denoiser(self.networks["denoiser"], self.tokens)}
        if "decoder" in self.networks:
            made["decoder"] = wrap.decoder(self.networks["decoder"], self.noise)
        if "text" in self.networks:
            made["text"] = wrap.text(self.networks["text"], self.tokens)
        self.folder.files.check_unchanged()
        return made


def bring(root: Path, choices: BringChoices = BringChoices()) -> Brought:
    """Load a diffusers folder as a generator; nothing of it is executed, and nothing is
    downloaded.

    Raises InputError, in one sentence, for anything that cannot be taken as it is.
    """
    from . import wrap

    folder = open_folder(root, choices.folder)
    networks = _complete(folder)
    wrap.check_widths(networks)
    tokens = 0
    if "text" in networks and folder.tokenizer is not None:
        tokens = wrap.prompt_tokens(networks["text"], folder.tokenizer)
    hashes = dict(folder.files.sha256)
    for number, lora in enumerate(choices.loras, 1):
        networks, digest = merged(networks, lora)
        hashes[f"lora/{number}/{lora.path.name}"] = digest
    inputs = wrap.denoiser_inputs(networks["denoiser"], tokens)
    sampler = schedule(folder.scheduler, folder.scheduler_path, choices.steps, choices.eta)
    folder.files.check_unchanged()
    return Brought(
        root=root,
        sampler=_guided(sampler, folder, choices.guidance, {spec.name for spec in inputs}),
        noise=inputs[0],
        inputs=inputs,
        tokens=tokens,
        image_shape=_image_shape(networks, inputs[0]),
        networks=networks,
        folder=folder,
        sha256=hashes,
        eta=choices.eta,
    )


def _complete(folder: BroughtFolder) -> dict[str, Component]:
    """Return the folder's networks. Raises InputError if one is missing that another needs."""
    networks = dict(folder.networks)
    path = folder.files.root
    if "denoiser" not in networks:
        raise InputError(CODE, "it has no U-Net", path=path)
    if "text" in networks and folder.tokenizer is None:
        raise InputError(CODE, "its text encoder has no tokenizer", path=path)
    channels = networks["denoiser"].defaults["in_channels"]
    if "decoder" not in networks and channels not in IMAGE_CHANNELS:
        raise InputError(
            CODE, f"its U-Net draws {channels} channels, and there is no autoencoder", path=path
        )
    return networks


def _image_shape(networks: Mapping[str, Component], noise: TensorSpec) -> tuple[int, int, int]:
    from . import wrap

    if "decoder" in networks:
        return wrap.image_shape(networks["decoder"], noise)
    channels, height, width = (int(axis) for axis in noise.shape[1:])
    return channels, height, width


def _guided(
    sampler: MultistepSampler, folder: BroughtFolder, asked: float | None, inputs: set[str]
) -> MultistepSampler:
    """Return the sampler with the requested guidance, or with the pipeline's own."""
    guidance = folder.pipeline.guidance if asked is None else asked
    decoder = "decoder" in folder.networks
    if "context" not in inputs:
        if asked not in (None, 1):
            raise InputError(
                CODE, "guidance needs a generator that takes prompts", path=folder.files.root
            )
        return replace(sampler, decoder=decoder)
    if "guidance" in inputs:  # diffusers counts from 1, the network from 0
        return replace(sampler, decoder=decoder, embedded_guidance=guidance - 1)
    if guidance <= 1:
        return replace(sampler, decoder=decoder)
    return replace(sampler, decoder=decoder, guidance=guidance, nulls=("context",))
