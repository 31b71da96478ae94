"""What a fine-tuning stands on: a zoo entry or a finished run, as full-precision tensors of all
networks that are known.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.progress import Listener, silent
from ...errors import UsageError
from ..generators import note_unnoticed

if TYPE_CHECKING:
    from torch import Tensor

    from ...families import Family


@dataclass(frozen=True)
class BaseGenerator:
    """name: as it may leave the site, "run" for a run; sha256 names its weights."""

    name: str
    family: Family
    config: Any
    tensors: dict[str, Tensor]
    sha256: str
    path: Path
    new_modules: tuple[str, ...] = ()  # those that its own size did not have

    def grown_to(self, size: int, seed: int) -> BaseGenerator:
        """The same for images of `size` pixels a side, what is new in it random by the seed.
        UsageError where that cannot be.
        """
        import torch

        from ...training.order import mix

        own = self.config.size
        if size == own:
            return self
        if size < own:
            raise UsageError(
                "E-SIZE",
                f"{self.name} makes images of {own} x {own} pixels: --size must be {own} or more, "
                f"got {size}",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, 0, "grow"))
            try:
                grown = self.family.tuning.grow(self.config, self.tensors, size)
            except ValueError as error:
                raise UsageError(
                    "E-SIZE", f"{self.name} cannot make images of {size} x {size} pixels: {error}"
                ) from error
        return replace(
            self, config=grown.config, tensors=dict(grown.tensors), new_modules=grown.whole
        )


def open_base(name: str, listen: Listener = silent) -> BaseGenerator:
    """A zoo name, or the folder of a finished run. UsageError for anything else, InputError for a
    run that has not ended.
    """
    from ...families import family
    from ...training import checkpoint
    from ...training import run as runs
    from ...training.adapt import site
    from ...training.digests import hold
    from ...zoo import COMPANIONS, entries

    zoo = {entry.name: entry for entry in entries()}
    if name in zoo:
        entry = zoo[name]
        tensors = checkpoint.read_weights(entry.weights)
        if entry.companions.is_file():
            tensors |= checkpoint.read_weights(entry.companions)
        generator = checkpoint.build(entry.card, entry.folder / "card.json")
        return BaseGenerator(
            name,
            family(entry.card["family"]),
            generator.config,
            tensors,
            _digest(tensors),
            entry.weights,
        )
    folder = Path(name)
    if not os.path.lexists(folder / "run.json"):
        raise UsageError(
            "E-SOURCE", f"{name!r} is no zoo name and no run", hint=f"the zoo has: {', '.join(zoo)}"
        )
    about, generator = runs.load(folder)
    note_unnoticed(folder, listen)
    tensors = dict(generator.shipped.state_dict())
    step = checkpoint.newest(folder)
    # networks that never ship, such as a discriminator: as the base has them
    if site.ADAPTS in about:
        tensors = site.master(folder, about) | tensors
    elif (folder / COMPANIONS).is_file():
        hold(folder, COMPANIONS)
        tensors = checkpoint.read_weights(folder / COMPANIONS) | tensors
    elif step is not None:
        tensors = checkpoint.weights_of(folder)[0] | tensors
    return BaseGenerator(
        "run", family(about["family"]), generator.config, tensors, _digest(tensors), folder
    )


def numbered(classes: int) -> list[str]:
    """Names of classes in a run that leaves the site: its folders' names stay there."""
    return [str(k) for k in range(classes)]


def _digest(tensors: dict[str, Tensor]) -> str:
    from ...training import checkpoint

    return hashlib.sha256(checkpoint.to_bytes(tensors)).hexdigest()
