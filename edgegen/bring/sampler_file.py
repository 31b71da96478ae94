"""Read sampler.json: the loop that a file's graph is made for, as a manifest holds it, or the
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

# The key is the kind of loop around one graph, the value the graph's name in it.
GRAPHS: Mapping[str, str] = {
    "consistency": "denoiser",
    "latent-ddim": "denoiser",
    "multistep": "denoiser",
    "single": "generator",
}
DECODED = ("consistency", "latent-ddim")  # these loops also run an image's graph
SCHEDULED = "_class_name"  # this key marks a file of diffusers


@dataclass(frozen=True)
class FileSampler:
    """Hold a sampler; `scheduler` is the config from which other numbers of steps can be computed,
    None if the steps are data.
    """

    sampler: Sampler
    path: Path | None = None
    scheduler: JsonObject | None = field(default=None, repr=False)

    @property
    def graph(self) -> str:
        """Return the name of the graph that it runs."""
        if isinstance(self.sampler, SingleSampler):
            return self.sampler.graphs[0]
        return GRAPHS[self.sampler.kind]

    def with_steps(self, steps: int) -> FileSampler:
        """Return the sampler with `steps` steps.

        Raises UsageError if it has no scheduler, InputError for steps that its scheduler cannot
        give.
        """
        if self.scheduler is None or self.path is None:
            raise UsageError(
                "E-USAGE",
                "--steps is for a scheduler_config.json: this sampler has its own steps",
                path=self.path,
            )
        made = schedule(self.scheduler, self.path, steps)
        return FileSampler(made, self.path, self.scheduler)


def read_sampler(path: Path | None) -> FileSampler:
    """Read a sampler; without a file it is one call of the graph.

    Raises InputError for what is no sampler, or one that needs other graphs.
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
