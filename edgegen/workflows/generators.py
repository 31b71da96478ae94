"""What a verb is pointed at: a zoo name, a finished run or a bundle, told apart by what is
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, UsageError

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..core.graph import Generator
    from ..core.runtime import Pipeline
    from ..core.spec import Array
    from ..zoo import Entry


@dataclass(frozen=True)
class LoadedGenerator:
    """A trained generator with where it came from: `about` goes into the manifest, so it holds no
    path and no file name.
    """

    name: str
    family: str
    generator: Generator
    about: dict[str, Any]
    reference: Path
    # whose activations set the scales of INT8, where these are not its own
    scales: Generator | None = None


def is_bundle(name: str) -> bool:
    return (Path(name) / "manifest.json").is_file()


def open_bundle(name: str, public_key: Path | None = None) -> Bundle:
    """A bundle folder; InputError for anything else, TrustError for one that the key's owner did
    not sign.
    """
    if not Path(name).is_dir():
        raise InputError("E-BUNDLE", "there is no such folder", path=name)
    from ..core.bundle import Bundle

    return Bundle.open(Path(name), public_key)


def load_generator(name: str) -> LoadedGenerator:
    """A zoo name or a run folder with its weights loaded. UsageError lists the zoo's names for a
    name that is neither.
    """
    from ..cli.options import need_torch
    from ..zoo import entries

    need_torch()
    found = {entry.name: entry for entry in entries()}
    if name in found:
        return _zoo(found[name])
    folder = Path(name)
    if (folder / "run.json").is_file():
        return _run(folder)
    if is_bundle(name):
        raise UsageError(
            "E-SOURCE",
            "this is a bundle: a zoo name or a run of `edgegen train` is wanted",
            path=folder,
        )
    if folder.exists():
        raise UsageError(
            "E-SOURCE", "this folder is no run of `edgegen train`: it has no run.json", path=folder
        )
    close = get_close_matches(name, found, 1)
    hint = f"did you mean {close[0]}?" if close else f"the zoo has: {', '.join(found)}"
    raise UsageError("E-SOURCE", f"{name!r} is no zoo name and no folder", hint=hint)


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

    description, generator = run.load(folder)
    # class names stay at the site
    data = {"sha256": description["data"]["sha256"], "images": description["data"]["images"]}
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
        folder / "reference.safetensors",
        scales,
    )


def torch_pipeline(generator: Generator, given: Mapping[str, Array] | None = None) -> Pipeline:
    """The generator's own pipeline, executed by torch; given: further inputs, as Pipeline has
    them.
    """
    from ..core.graph import executed
    from ..core.runtime import Pipeline

    return Pipeline(
        generator.latent, generator.sampler, executed(generator.graphs()), given=given or {}
    )
