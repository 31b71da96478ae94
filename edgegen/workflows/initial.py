"""Open the generator whose weights a training starts from: a zoo entry, or a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ..families import Family


@dataclass(frozen=True)
class InitialGenerator:
    """Hold what a training starts from: a description as in run.json, the weights with their
    sha256, and their path.
    """

    about: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str
    path: Path

    def config(self, wanted: Family) -> Any:
        """Return the generator's config. Raises UsageError if it belongs to another family."""
        from ..training.checkpoint import parse

        if (own := self.about.get("family")) != wanted.name:
            raise UsageError(
                "E-SOURCE",
                f"--init is a generator of the family {own}, not of {wanted.name}",
                path=self.path,
            )
        return parse(wanted.config, self.about["config"], self.path)


def open_initial(name: str) -> InitialGenerator:
    """Open a zoo entry or a run, an adapted one with its adapter merged. Raises UsageError
    otherwise.
    """
    from ..core.bundle import sha256
    from ..training import checkpoint
    from ..training.adapt import site
    from ..training.digests import description
    from ..zoo import entries

    zoo = {entry.name: entry for entry in entries()}
    if name in zoo:
        path = zoo[name].weights
        tensors = checkpoint.read_weights(path)
        return InitialGenerator(zoo[name].card, tensors, sha256(path), path)
    folder = Path(name)
    if not os.path.lexists(folder / "run.json"):
        raise UsageError(
            "E-SOURCE",
            f"--init {name!r} is neither a zoo name nor a run of `edgegen train`",
            hint=f"the zoo has: {', '.join(zoo)}",
        )
    about = description(folder)
    if site.ADAPTS in about:
        tensors = site.merged(folder, about)
        return InitialGenerator(about, tensors, site.digest(tensors), folder)
    return InitialGenerator(about, *checkpoint.weights_of(folder), folder)
