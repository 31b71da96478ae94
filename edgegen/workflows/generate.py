"""Make images from seeds, as files, from a zoo name, a run or a bundle."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..core.reader import Places
from ..errors import UsageError
from .bundles import Execution, images_of, is_bundle, pipeline_of, read_bundle
from .generators import load_generator, torch_pipeline
from .limits import check_numbers
from .prompts import encoders_of, prompted, torch_encoders
from .sampling_choices import SamplingChoices, chosen
from .source_choices import AS_IT_IS, SourceChoices, is_brought
from .torch_threads import torch_threads

if TYPE_CHECKING:
    import numpy as np

    from ..core.runtime import Pipeline


_OTHER_PICTURES = frozenset((".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"))


@dataclass(frozen=True)
class GenerateSettings:
    """Say which images are made; image k has seed first_seed + k."""

    first_seed: int = 0
    count: int = 64
    label: int | None = None  # class of all images; None: seed modulo the number of classes
    # choices for a trained generator
    choices: SamplingChoices = field(default_factory=SamplingChoices)
    # what executes a bundle; its threads apply to both
    execution: Execution = field(default_factory=Execution)
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    least_release: int | None = None  # refuse what was signed as an older release
    prompt: str | None = None  # what all images show; None: the bundle's prompts in turn by seed
    negative: str | None = None  # what they should not show
    source: SourceChoices = AS_IT_IS  # choices for a generator that another program made

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class GenerateResult:
    """Say what was written, and what executed the graphs, such as "openvino int8" or "torch"."""

    out: Path
    images: int
    first_seed: int
    executed_by: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen generate --json` prints, without its outer frame."""
        return {
            "images": self.images,
            "seed": self.first_seed,
            "runtime": self.executed_by,
            "out": str(self.out),
        }


def generate_images(
    source: str | Path,
    out: str | Path,
    settings: GenerateSettings | None = None,
    listen: Listener = silent,
) -> GenerateResult:
    """Write one grid if `out` ends with .png, else a folder with one PNG for each seed.

    The same seed gives the same image on every runtime and machine. Raises UsageError for settings
    that this source has no use for, and RuntimeMissing if nothing executes it here.
    """
    from ..core import files

    settings, out = settings or GenerateSettings(), Path(out)
    if not os.path.isdir(out.parent):
        raise UsageError("E-OUT", "the folder to write into does not exist", path=out.parent)
    if out.suffix.lower() in _OTHER_PICTURES:
        raise UsageError(
            "E-OUT",
            f"images are written as PNG, not as {out.suffix}",
            path=out,
            hint="give a .png file for a single grid, or a folder for one PNG per seed",
        )
    first, count = settings.first_seed, settings.count
    if first + count > 2**63:
        raise UsageError(
            "E-SEED",
            f"the largest seed is 2**63 - 1, which --seed {first} with {count} images would exceed",
        )
    one_grid = out.suffix.lower() == ".png"
    with nullcontext() if one_grid else files.publish_alone(out, "") as folder:
        executed_by, pipeline = _pipeline(source, settings, listen)
        seeds, threads = range(first, first + count), settings.execution.threads
        with torch_threads(threads) if executed_by == "torch" else nullcontext():
            images = images_of(pipeline, seeds, settings.label, listen)
        _write(out, folder, images, first, pipeline.latent.choices)
    return GenerateResult(out, count, first, executed_by)


def _pipeline(
    source: str | Path, settings: GenerateSettings, listen: Listener
) -> tuple[str, Pipeline]:
    """Return what executes, in words for people, and the pipeline of a bundle or a trained
    generator.
    """
    execution = settings.execution
    if is_bundle(source):
        if settings.choices:
            raise UsageError(
                "E-USAGE",
                "--steps, --solver, --way, --control, --control-from and --like are fixed when a "
                "bundle is made",
                path=source,
                hint="use the zoo name or the run from which the bundle was exported",
            )
        if settings.source:
            raise UsageError(
                "E-USAGE",
                f"{settings.source.first_flag} is fixed when a bundle is made",
                path=source,
                hint="use the folder from which the bundle was exported",
            )
        bundle = read_bundle(source, settings.public_key, settings.least_release)
        encoders = encoders_of(bundle, execution.threads)
        latent = prompted(bundle.latent, settings.prompt, settings.negative, encoders, listen)
        executed_by, pipeline = pipeline_of(bundle, execution, listen)
        return executed_by, replace(pipeline, latent=latent)
    held_to = settings.public_key or settings.least_release is not None
    if held_to or replace(execution, threads=1) != Execution():
        raise UsageError(
            "E-USAGE",
            "--runtime, --precision, --public-key, --least-release, --trust-engines and "
            "--allow-cpu only work with a bundle",
        )
    loaded = load_generator(source, listen, _beside(source, settings))
    pipeline, encoders = (
        torch_pipeline(*chosen(loaded, settings.choices)),
        torch_encoders(loaded.text),
    )
    latent = prompted(pipeline.latent, settings.prompt, settings.negative, encoders, listen)
    return loaded.executed_by, replace(pipeline, latent=latent)


def _beside(source: str | Path, settings: GenerateSettings) -> SourceChoices:
    """Return the choices for the source; a diffusers folder that was given no prompts file takes
    the requested prompt.
    """
    asked = settings.source
    if settings.prompt is None or asked.prompts is not None or not is_brought(Path(source)):
        return asked
    return replace(asked, prompts=(settings.prompt,))


def grid_columns(count: int, choices: int) -> int | None:
    """Return the columns of an about square grid of images whose `choices` labels or prompts take
    turns, so that each choice keeps to its columns.

    Returns None without a choice, or if there is not an image of each.
    """
    if choices < 2 or count < choices:
        return None
    return choices * max(1, round(math.sqrt(count) / choices))


def _write(
    out: Path, folder: Path | None, images: np.ndarray, first_seed: int, choices: int
) -> None:
    """Write one PNG for each seed into the folder, or one grid if `folder` is None."""
    from ..core import files
    from ..core.images import grid, png, save_png

    if folder is None:
        save_png(out, grid(images, grid_columns(len(images), choices)), scale=2)
        return
    for seed, image in enumerate(images, first_seed):
        files.put(folder / f"{seed:08d}.png", png(image))
