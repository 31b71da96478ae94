"""Load trained generators by a zoo name, a run folder, a diffusers folder or an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..errors import InputError, RuntimeMissing, UsageError
from .bundles import images_of, is_bundle
from .photo_sets import REFERENCE
from .prompts import TextGraphs, prompted, torch_encoders
from .source_choices import AS_IT_IS, OF_FOLDER, SourceChoices, is_brought, is_onnx

if TYPE_CHECKING:
    import numpy as np

    from ..core.graph import Exportable
    from ..core.runtime import Pipeline
    from ..core.spec import Array
    from ..zoo import Entry


@dataclass(frozen=True)
class LoadedGenerator:
    """Hold a trained generator with its origin: `about` goes into the manifest, so it holds no path
    and no file name.
    """

    name: str
    family: str
    generator: Exportable
    about: dict[str, Any]
    reference: Path
    # generator whose activations set the INT8 scales, if they are not its own
    scales: Exportable | None = None
    # graphs that ship with the bundle, so that a device encodes new prompts
    text: TextGraphs | None = None
    executed_by: str = "torch"  # what executes the generator's own graphs
    origin: str = "torch"  # what an export's numbers are compared with, in words for people

    def generate(
        self,
        seeds: Sequence[int],
        label: int | None = None,
        prompt: str | None = None,
        negative: str | None = None,
        listen: Listener = silent,
    ) -> np.ndarray:
        """Make images (n, h, w, 3) uint8 in full precision; image k depends on seeds[k], the label
        and the prompts alone.
        """
        pipeline, encoders = torch_pipeline(self.generator), torch_encoders(self.text)
        latent = prompted(pipeline.latent, prompt, negative, encoders, listen)
        return images_of(replace(pipeline, latent=latent), seeds, label, listen)


def zoo_models() -> list[Entry]:
    """Return the pretrained generators that ship with edgegen, with what was measured of each."""
    from ..zoo import entries

    return entries()


def load_generator(
    generator: str | Path,
    listen: Listener = silent,
    choices: SourceChoices = AS_IT_IS,
) -> LoadedGenerator:
    """Load a generator with its weights: a zoo name, a run folder, a diffusers folder or an ONNX
    file; `choices` apply to the last two.

    Raises UsageError for a name that is none of them and for choices that it has no use for,
    InputError for what cannot be loaded, and RuntimeMissing without torch.
    """
    need_torch()
    name, folder = str(generator), Path(generator)
    found = {entry.name: entry for entry in zoo_models()}
    is_run = os.path.lexists(folder / "run.json")
    if name not in found and not is_run and is_brought(folder):
        return _brought(folder, choices, listen)
    if name not in found and is_onnx(folder):
        return _onnx(folder, choices)
    if choices:
        raise UsageError(
            "E-USAGE", f"{choices.first_flag} only works with generators from another program"
        )
    if name in found:
        return _zoo(found[name])
    if is_run:
        note_unnoticed(folder, listen)
        return _run(folder)
    if is_bundle(folder):
        raise UsageError(
            "E-SOURCE",
            "this is a bundle, but a zoo name or a run of `edgegen train` is needed",
            path=folder,
        )
    if folder.is_file():
        raise UsageError(
            "E-SOURCE",
            "this file is not a generator: the only files accepted are ONNX models whose names "
            "end in .onnx",
            path=folder,
            hint="give a run of `edgegen train`, a folder of diffusers or a name of the zoo",
        )
    if folder.exists():
        raise UsageError(
            "E-SOURCE",
            "this folder is neither a run of `edgegen train` nor a diffusers folder: it contains "
            "no run.json and no model_index.json",
            path=folder,
        )
    close = get_close_matches(name, found, 1)
    hint = f"did you mean {close[0]}?" if close else f"the zoo has: {', '.join(found)}"
    raise UsageError("E-SOURCE", f"{name!r} is neither a zoo name nor a folder", hint=hint)


def loaded(
    generator: LoadedGenerator | str | Path, listen: Listener, choices: SourceChoices
) -> LoadedGenerator:
    """Load a generator by name or folder; return one that is loaded already as it is."""
    if isinstance(generator, str | Path):
        return load_generator(generator, listen, choices)
    if choices:
        raise UsageError(
            "E-USAGE", "choices of a source are for load_generator where that was called already"
        )
    return generator


def need_torch() -> None:
    """Raise RuntimeMissing, with the command that installs it, if torch is not here."""
    from ..export.packages import absent

    if why := absent("torch", "train"):
        raise RuntimeMissing(
            "E-BACKEND", f"trained generators run on torch: {why}", hint="on a device, use a bundle"
        )


def _brought(folder: Path, choices: SourceChoices, listen: Listener) -> LoadedGenerator:
    from .brought import load_brought

    choices.check_only(OF_FOLDER, "a folder of diffusers")
    found = load_brought(folder, choices, listen)
    return LoadedGenerator(
        folder.resolve().name,
        "diffusers",
        found.generator,
        found.about,
        folder / REFERENCE,
        text=found.text,
    )


def _onnx(path: Path, choices: SourceChoices) -> LoadedGenerator:
    from .brought_onnx import EXECUTED_BY, load_onnx

    found = load_onnx(path, choices)
    return LoadedGenerator(
        path.stem,
        "onnx",
        found.generator,
        found.about,
        path.with_name(f"{path.stem}.{REFERENCE}"),
        executed_by=EXECUTED_BY,
        origin="the file it came in",
    )


def _zoo(entry: Entry) -> LoadedGenerator:
    from ..core.bundle import sha256
    from ..training import checkpoint

    generator = checkpoint.build(entry.card, entry.folder / "card.json")
    checkpoint.load_into(generator, checkpoint.read_weights(entry.weights), entry.weights)
    card = entry.card
    about = {
        "name": entry.name,
        "weights_sha256": sha256(entry.weights),
        "data": card["data"],
        "licence": card["licence"],
    }
    return LoadedGenerator(entry.name, entry.card["family"], generator, about, entry.reference)


def _run(folder: Path) -> LoadedGenerator:
    from ..core.bundle import sha256
    from ..families import family
    from ..training import checkpoint, run
    from ..training.adapt import files, site
    from ..training.digests import hold

    description, generator = run.load(folder)
    hold(folder, REFERENCE)
    try:  # class names stay with the owner of the photos
        data = {name: description["data"][name] for name in ("sha256", "images")}
    except (LookupError, TypeError) as error:
        raise InputError(
            "E-RUN",
            "not a run's description: the entry about its data is missing",
            path=folder,
        ) from error
    about = {"name": "run", "data": data, "licence": "the owner's"}
    if site.ADAPTS in description:
        adapt = description[site.ADAPTS]
        about |= {
            "base": adapt["base"],
            "base_sha256": adapt["base_sha256"],
            "adapter_sha256": sha256(folder / site.ADAPTER / files.TENSORS),
        }
    else:
        about["weights_sha256"] = sha256(folder / checkpoint.WEIGHTS)
    scales = (
        site.plain(
            family(description["family"]), generator.config, site.recovered(folder, description)
        )
        if site.RECOVERS in description
        else None
    )
    return LoadedGenerator(
        folder.name,
        description["family"],
        generator,
        about,
        folder / REFERENCE,
        scales,
    )


def note_unnoticed(folder: Path, listen: Listener) -> None:
    """Note that damage to the files of a run from an older version would not be noticed."""
    from ..training.digests import unnoticed

    if said := unnoticed(folder):
        listen.note(said)


def torch_pipeline(generator: Exportable, given: Mapping[str, Array] | None = None) -> Pipeline:
    """Return the generator's own pipeline, executed by torch, or by ONNX Runtime for an
    ONNX file.

    `given` holds further inputs without the batch axis, the same for all images.
    """
    from ..core.graph import executed
    from ..core.runtime import Pipeline

    latent = generator.latent.given(given or {})
    return Pipeline(latent, generator.sampler, executed(generator.graphs()))
