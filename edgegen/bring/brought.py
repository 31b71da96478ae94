"""A generator of another program, ready for whatever comes after training: graphs, a sampler, and
where all of it came from.
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
    """What a user says beside the folder. steps, guidance: None for what its pipeline takes; eta:
    share of fresh noise of DDIM; loras: adapters that are merged in, in this order.
    """

    folder: FolderChoices = field(default_factory=FolderChoices)
    steps: int | None = None
    eta: float = 0.0
    guidance: float | None = None
    loras: Sequence[LoraFile] = ()


@dataclass(frozen=True)
class Brought:
    """sha256: of each file that was read, by its path in the folder, and of each adapter by its
    place among them and its name; networks: by graph; tokenizer: files by their paths in the
    folder.
    """

    root: Path
    sampler: MultistepSampler
    noise: TensorSpec
    inputs: tuple[TensorSpec, ...]  # of the denoiser
    tokens: int  # of a prompt, 0 without
    image_shape: tuple[int, int, int]  # channels, height, width
    networks: Mapping[str, Component] = field(repr=False)
    folder: BroughtFolder = field(repr=False)
    sha256: Mapping[str, str] = field(repr=False)
    eta: float = 0.0  # of its scheduler
    embeds_training_data: Literal["none"] = "none"

    def with_steps(self, steps: int) -> Brought:
        """The same with a sampler of so many steps. InputError where its scheduler has none."""
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
        """Of one-hot labels; 0 for a generator without."""
        found = next((spec.shape[1] for spec in self.inputs if spec.name == "label"), 0)
        return int(found)

    @property
    def context(self) -> TensorSpec | None:
        """What an encoded prompt is; None for a generator without prompts."""
        return next((spec for spec in self.inputs if spec.name == "context"), None)

    @property
    def parameters(self) -> dict[str, int]:
        """Numbers that were trained, by graph."""
        return {name: network.parameters for name, network in self.networks.items()}

    @property
    def licence(self) -> str | None:
        """As the folder's README.md names it."""
        return self.folder.licence

    @property
    def tokenizer(self) -> tuple[str, ...]:
        return () if self.folder.tokenizer is None else self.folder.tokenizer.names

    def graphs(self) -> Mapping[str, Graph]:
        """The graphs that the sampler runs, in full precision; made once."""
        return {name: graph for name, graph in self._graphs.items() if name != "text"}

    def text(self) -> Graph | None:
        """The graph that encodes prompts, of a generator that takes them."""
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
    """A diffusers folder as a generator. InputError in one sentence for whatever of it cannot be
    taken as it is; nothing of it is executed, and nothing is fetched.
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
    """Its networks. InputError where one is missing that another needs."""
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
    """The sampler with the guidance that is asked for, or the pipeline's own."""
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
