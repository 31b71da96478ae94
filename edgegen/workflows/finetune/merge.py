"""An adapted run to a plain one, whose weights hold the adapter; and the proof that its images are
the adapted ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import GateFailed, UsageError
from ..generators import need_torch
from ..photo_sets import REFERENCE
from .base import numbered

if TYPE_CHECKING:
    from ...core.graph import Exportable, Generator
    from ...core.spec import Array
    from ...training.adapt import Kind

# Of images in [-1, 1]: an eightieth of a grey level. Weights in float32 that are added in another
# order give up to 1.1e-5 (isc-gan), an adapter that is not in the weights more than this.
PARITY = 1e-4
IMAGES = 16  # seeds that adapter-on and merged are compared on


@dataclass(frozen=True)
class MergeResult:
    """A merged run. max_abs_difference: of images in [-1, 1], adapted and merged, of the same
    seeds.
    """

    out: Path
    max_abs_difference: float
    images: int
    base_sha256: str
    adapter_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen merge --json`, but for its frame."""
        return {**vars(self), "out": str(self.out)}


def merge_adapter(run: str | Path, out: str | Path, overwrite: bool = False) -> MergeResult:
    """Add the adapter of `run` to its full-precision base and publish the plain run in `out`.

    Raises UsageError for a run without an adapter, GateFailed where the merged images are not the
    adapted ones.
    """
    need_torch()
    from ...core.bundle import sha256
    from ...core.files import publish_alone, put, to_json
    from ...training import checkpoint, digests
    from ...training import run as runs
    from ...training.adapt import files, site
    from ...zoo import COMPANIONS

    run, out = Path(run), Path(out)
    about = _description(run)
    if about is None:
        raise UsageError(
            "E-SOURCE", "this is not a run of `edgegen finetune` with an adapter", path=run
        )
    _, generator = runs.load(run)
    difference = parity(run, about, generator)
    origin = {
        "base_sha256": about[site.ADAPTS]["base_sha256"],
        "adapter_sha256": sha256(run / site.ADAPTER / files.TENSORS),
    }
    plain = {key: value for key, value in about.items() if key != site.ADAPTS}
    plain["data"] = {**about["data"], "classes": numbered(len(about["data"].get("classes", ())))}
    digests.hold(run, REFERENCE, site.BASE)
    with publish_alone(out, "run.json", overwrite) as new:
        ships = dict(generator.shipped.state_dict())
        put(new / checkpoint.WEIGHTS, checkpoint.to_bytes(ships))
        rest = {
            name: tensor for name, tensor in site.master(run, about).items() if name not in ships
        }
        if rest:  # whoever fine-tunes the merged run goes on with them
            put(new / COMPANIONS, checkpoint.to_bytes(rest))
        shutil.copyfile(run / REFERENCE, new / REFERENCE)
        if site.RECOVERS in about:
            shutil.copyfile(run / site.BASE, new / site.BASE)  # export measures scales on it
        put(new / "run.json", to_json({**plain, "merged": origin}))
        digests.seal(new)
    return MergeResult(out, difference, IMAGES, **origin)


def _description(run: Path) -> dict[str, Any] | None:
    """run.json of an adapted run; None for anything else."""
    from ...training.adapt import site
    from ...training.digests import RUN, description

    about = description(run) if (run / RUN).is_file() else {}
    return about if site.ADAPTS in about else None


def proven(run: Path, merged: Exportable) -> dict[str, float]:
    """Evidence that the merged generator is the adapted one, for a manifest; empty where there is
    no adapter.
    """
    from ...core.graph import Generator

    about = _description(run)
    if about is None or not isinstance(merged, Generator):
        return {}
    return {"adapter_max_abs": parity(run, about, merged)}


def parity(run: Path, about: Mapping[str, Any], merged: Generator) -> float:
    """Largest difference between images of base and adapter as PEFT runs them, and of merged
    weights; GateFailed above PARITY.
    """
    import numpy as np

    adapted_images, merged_images = views(run, about, merged, "fp32", IMAGES)
    difference = float(np.abs(adapted_images - merged_images).max())
    if not difference <= PARITY:
        raise GateFailed(
            "E-PARITY",
            "images from the merged weights differ from those with the adapter by "
            f"{difference:.2e}, allowed is {PARITY:.0e}",
            path=run,
            hint="report this error; the run itself is unchanged",
        )
    return difference


def views(
    run: Path, about: Mapping[str, Any], merged: Generator, precision: Kind, count: int
) -> tuple[Array, Array]:
    """Images (count, c, h, w) of seeds 0, 1, ... as the adapter was trained, on a base rounded to
    `precision`, and as it ships.
    """
    from ...families import family as find_family
    from ...training.adapt import site
    from ...training.adapt.adapted import Adapted
    from ..generators import torch_pipeline

    family, adapter = find_family(about["family"]), site.read_adapter(run, about)
    base = site.master(run, about)
    adapted = Adapted(family, merged.config, base, adapter.lora, precision)
    adapted.load(adapter, run / site.ADAPTER)
    trained = site.plain(family, merged.config, adapted.trained_view())
    adapted_images, merged_images = (
        torch_pipeline(generator)(range(count)) for generator in (trained, merged)
    )
    return adapted_images, merged_images
