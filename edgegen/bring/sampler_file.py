"""sampler.json: the loop that a file's graph is made for, as a manifest holds it, or the
scheduler_config.json of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.files import JsonObject, read_json
from ..core.rehearsal import bounded_sampler
from ..core.samplers import Sampler, SingleSampler, sampler_from_json
from ..errors import InputError, TrustError, UsageError
from .folder_files import CODE, NUMERALS, TEXT_BYTES
from .schedule import schedule

# Kinds of loops around one graph -> the graph's name in it.
GRAPHS: Mapping[str, str] = {
    "consistency": "denoiser",
    "latent-ddim": "denoiser",
    "multistep": "denoiser",
    "single": "generator",
}
DECODED = ("consistency", "latent-ddim")  # which ask for an image's graph besides
SCHEDULED = "_class_name"  # what says that a file is one of diffusers


@dataclass(frozen=True)
class FileSampler:
    """scheduler: the config that steps may be chosen anew with; None where steps are data."""

    sampler: Sampler
    path: Path | None = None
    scheduler: JsonObject | None = field(default=None, repr=False)

    @property
    def graph(self) -> str:
        """Name of the graph that it runs."""
        if isinstance(self.sampler, SingleSampler):
            return self.sampler.graphs[0]
        return GRAPHS[self.sampler.kind]

    def with_steps(self, steps: int) -> FileSampler:
        """UsageError where nothing says how, InputError for steps that its scheduler has not."""
        if self.scheduler is None or self.path is None:
            raise UsageError(
                "E-USAGE",
                "--steps is for a scheduler_config.json: this sampler has its own steps",
                path=self.path,
            )
        made = schedule(self.scheduler, self.path, steps)
        return FileSampler(made, self.path, self.scheduler)


def read_sampler(path: Path | None) -> FileSampler:
    """One call of the graph where there is no file. InputError for what is no sampler, or one that
    needs other graphs.
    """
    if path is None:
        return FileSampler(SingleSampler())
    data = read_json(path, TEXT_BYTES, NUMERALS)
    if not isinstance(data, dict):
        raise InputError(CODE, "it holds no JSON object", path=path)
    if SCHEDULED in data:
        return FileSampler(schedule(data, path), path, data)
    kind = data.get("kind")
    if kind not in GRAPHS:
        raise InputError(
            CODE,
            f"the sampler is {kind!r:.80}, and a loop around one graph is {', '.join(GRAPHS)}",
            path=path,
            hint="a scheduler_config.json of diffusers is one, too",
        )
    try:
        bounded_sampler(data)
        sampler = sampler_from_json(data)
    except (TrustError, ValueError) as error:
        why = error.__cause__ if isinstance(error, TrustError) else error
        raise InputError(CODE, f"the sampler cannot be used: {why}", path=path) from error
    if isinstance(sampler, SingleSampler) and len(sampler.graphs) != 1:
        raise InputError(
            CODE, f"the sampler runs {len(sampler.graphs)} graphs, and there is one", path=path
        )
    if getattr(sampler, "nulls", ()) or getattr(sampler, "embedded_guidance", None) is not None:
        raise InputError(CODE, "guidance needs inputs that an ONNX file is not given", path=path)
    return FileSampler(sampler, path)
