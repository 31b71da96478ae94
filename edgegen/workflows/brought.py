"""Load generators that another program made: a diffusers folder with its prompts and adapters
becomes a source that is calibrated, exported, judged and explained like edgegen's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..core.conditions import labels
from ..core.files import to_json
from ..core.latent import Latent
from ..core.progress import Listener, silent
from ..errors import RuntimeMissing, UsageError
from .prompts import TextGraphs, bank_of, read_prompts, torch_encoders
from .source_choices import SourceChoices

if TYPE_CHECKING:
    from ..bring.brought import BringChoices, Brought
    from ..core.graph import Embedded, Graph
    from ..core.samplers import Sampler

UNNAMED = "not named in its folder"


@dataclass(frozen=True)
class BroughtGenerator:
    """Combine a brought folder with the latent that its images start from."""

    brought: Brought
    latent: Latent

    @property
    def embeds_training_data(self) -> Embedded:
        return self.brought.embeds_training_data

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.brought.image_shape

    @property
    def sampler(self) -> Sampler:
        return self.brought.sampler

    def graphs(self) -> Mapping[str, Graph]:
        return self.brought.graphs()

    def with_steps(self, steps: int) -> BroughtGenerator:
        """Return the generator with a sampler of `steps` steps. Raises InputError if its scheduler
        cannot give them.
        """
        return replace(self, brought=self.brought.with_steps(steps))


@dataclass(frozen=True)
class BroughtSource:
    """Hold a brought generator with what a manifest says of it (`about`) and the graphs that encode
    its prompts (`text`).
    """

    generator: BroughtGenerator
    about: dict[str, Any]
    text: TextGraphs | None


def load_brought(folder: Path, choices: SourceChoices, listen: Listener = silent) -> BroughtSource:
    """Load a diffusers folder, check it and encode its prompts.

    Raises InputError if the folder cannot be taken as it is, UsageError for a choice that it has no
    use for, and RuntimeMissing without diffusers or transformers.
    """
    need_libraries()
    from ..bring.brought import bring

    brought = bring(folder, bring_choices(choices))
    text = _text(brought)
    latent = _latent(brought, text, choices, listen)
    return BroughtSource(BroughtGenerator(brought, latent), _about(brought), text)


def need_libraries() -> None:
    """Raise RuntimeMissing, with the command that installs them, if diffusers or transformers is
    missing.
    """
    from ..export.packages import absent

    for module in ("diffusers", "transformers"):
        if why := absent(module, "bring"):
            raise RuntimeMissing("E-BACKEND", f"a folder of diffusers is read by it: {why}")


def bring_choices(choices: SourceChoices) -> BringChoices:
    """Return the choices in the classes of edgegen.bring, which reads folders."""
    from ..bring.brought import BringChoices
    from ..bring.folder import FolderChoices
    from ..bring.lora import LoraFile

    return BringChoices(
        FolderChoices(choices.variant, choices.scheduler, choices.drop_safety_checker),
        guidance=choices.guidance,
        loras=[LoraFile.parse(text) for text in choices.loras],
    )


def _text(brought: Brought) -> TextGraphs | None:
    """Return the graphs and tokenizer files that encode prompts, or None if the generator takes no
    prompts.
    """
    graph, tokenizer = brought.text(), brought.folder.tokenizer
    if graph is None or tokenizer is None:
        return None
    files = {PurePosixPath(name).name: brought.folder.files.read(name) for name in tokenizer.names}
    return TextGraphs({graph.output.name: graph}, files)


def _latent(
    brought: Brought, text: TextGraphs | None, choices: SourceChoices, listen: Listener
) -> Latent:
    encoders = torch_encoders(text)
    if encoders is None:
        if choices.prompts is not None or choices.negative is not None:
            raise UsageError(
                "E-PROMPT",
                "this generator takes no prompts",
                path=brought.root,
                hint="leave out --prompts and --negative",
            )
        return Latent(brought.noise, labels(brought.classes))
    if choices.prompts is None:
        raise UsageError(
            "E-PROMPT",
            "this generator takes prompts, and it must be judged on the prompts that you will use",
            path=brought.root,
            hint="add --prompts FILE with one prompt on each line; `edgegen generate` also takes "
            "--prompt TEXT",
        )
    is_guided = bool(brought.sampler.nulls)
    if choices.negative is not None and not is_guided:
        raise UsageError(
            "E-PROMPT",
            "this generator runs without guidance and cannot use --negative",
            path=brought.root,
        )
    negative = (choices.negative or "") if is_guided else None
    texts = choices.prompts
    if isinstance(texts, Path):
        texts = read_prompts(texts)
    bank = bank_of(texts, negative, encoders(), listen)
    return Latent(brought.noise, (bank,))


def _about(brought: Brought) -> dict[str, Any]:
    """Describe the generator for a manifest: no paths, and of its files only their hashes."""
    hashes = {name: brought.sha256[name] for name in sorted(brought.sha256)}
    return {
        "name": brought.networks["denoiser"].kind.name,
        "weights_sha256": hashlib.sha256(to_json(hashes)).hexdigest(),
        "data": {"name": "data of whoever made it"},
        "licence": brought.licence or UNNAMED,
    }
