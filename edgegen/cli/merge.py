"""edgegen merge: an adapted run to a plain one, whose weights hold the adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import GateFailed, UsageError
from . import output
from .options import Overwrite, need_torch

if TYPE_CHECKING:
    from ..core.spec import Array
    from ..training.adapt import Kind

# of images in [-1, 1]: what float32 sums in another order differ by, with a margin of ten
PARITY = 1e-5
IMAGES = 16  # seeds that adapter-on and merged are compared on


def merge(
    run: Annotated[Path, typer.Argument(help="Run folder of `edgegen finetune`.")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder of the merged run; appears whole or not at all."),
    ],
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Add an adapter to its full-precision base, after proving that the merged images are the
    adapted ones.
    """
    need_torch()
    from ..core.bundle import sha256
    from ..core.files import publish, to_json
    from ..training import checkpoint
    from ..training import run as runs
    from ..training.adapt import files, site
    from ..zoo import COMPANIONS

    about = _adapted(run)
    if about is None:
        raise UsageError(
            "E-SOURCE", "this is no run of `edgegen finetune` with an adapter", path=run
        )
    _, generator = runs.load(run)
    difference = parity(run, about, generator)
    origin = {
        "base_sha256": about[site.ADAPTS]["base_sha256"],
        "adapter_sha256": sha256(run / site.ADAPTER / files.TENSORS),
    }
    plain = {key: value for key, value in about.items() if key != site.ADAPTS}
    with publish(out, "run.json", overwrite) as new:
        ships = dict(generator.shipped.state_dict())
        (new / checkpoint.WEIGHTS).write_bytes(checkpoint.to_bytes(ships))
        rest = {
            name: tensor for name, tensor in site.master(run, about).items() if name not in ships
        }
        if rest:  # whoever fine-tunes the merged run goes on with them
            (new / COMPANIONS).write_bytes(checkpoint.to_bytes(rest))
        shutil.copyfile(run / "reference.safetensors", new / "reference.safetensors")
        if site.RECOVERS in about:
            shutil.copyfile(run / site.BASE, new / site.BASE)  # export measures scales on it
        (new / "run.json").write_bytes(to_json({**plain, "merged": origin}))
    output.result(
        "merge", {"out": str(out), "max_abs_difference": difference, "images": IMAGES, **origin}
    )
    print(
        f"merged: {out}  images of adapter and merged weights differ by {difference:.1e} at most "
        f"({IMAGES} seeds)"
    )


def _adapted(run: Path) -> dict[str, Any] | None:
    """run.json of an adapted run; None for anything else."""
    from ..core.files import read_json
    from ..training.adapt import site

    about = read_json(run / "run.json") if (run / "run.json").is_file() else None
    return about if isinstance(about, dict) and site.ADAPTS in about else None


def proven(run: Path, merged: Any) -> dict[str, float]:
    """Evidence that the merged generator is the adapted one, for a manifest; empty where there is
    no adapter.
    """
    about = _adapted(run)
    return {} if about is None else {"adapter_max_abs": parity(run, about, merged)}


def parity(run: Path, about: dict[str, Any], merged: Any) -> float:
    """Largest difference between images of base and adapter as PEFT runs them, and of merged
    weights; GateFailed above PARITY.
    """
    import numpy as np

    a, b = views(run, about, merged, "fp32", IMAGES)
    difference = float(np.abs(a - b).max())
    if not difference <= PARITY:
        raise GateFailed(
            "E-PARITY",
            f"merged images differ from adapted ones by {difference:.2e}, allowed is {PARITY:.0e}",
            path=run,
            hint="report it: the run is kept as it is",
        )
    return difference


def views(
    run: Path, about: dict[str, Any], merged: Any, kind: Kind, count: int
) -> tuple[Array, Array]:
    """Images (count, c, h, w) of seeds 0, 1, ... as the adapter was trained, on a base rounded to
    `kind`, and as it ships.
    """
    from ..families import family
    from ..training.adapt import site
    from ..training.adapt.adapted import Adapted
    from ..workflows.generators import torch_pipeline

    found, adapter = family(about["family"]), site.read_adapter(run, about)
    adapted = Adapted(found, merged.config, site.master(run, about), adapter.lora, kind)
    adapted.load(adapter, run / site.ADAPTER)
    trained = site.plain(found, merged.config, adapted.trained_view())
    a, b = (torch_pipeline(generator)(range(count)) for generator in (trained, merged))
    return a, b
