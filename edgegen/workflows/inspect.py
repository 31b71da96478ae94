"""Say what a source is and what edgegen makes of it, before anything long begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from .export.memory_budget import least_bytes
from .generators import load_generator, need_torch
from .source_choices import AS_IT_IS, OF_FOLDER, SourceChoices, is_brought, is_onnx

if TYPE_CHECKING:
    from ..core.samplers import Sampler
    from ..core.spec import TensorSpec


@dataclass(frozen=True)
class InspectResult:
    """Describe a source.

    `parameters` counts them by graph, `bytes_stored` is the size of the weight files and
    `peak_bytes` the memory that an export takes at least. `prompt_tokens` is None if the source
    takes no prompts; `licence` is as its folder names it.
    """

    source: str
    kind: str
    parameters: Mapping[str, int]
    bytes_stored: int | None
    peak_bytes: int
    image: tuple[int, int, int]  # channels, height, width
    solver: str
    steps: int
    guidance: float
    prompt_tokens: int | None
    classes: int
    left_out: tuple[str, ...]
    licence: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen inspect --json` prints, without its outer frame."""
        return asdict(self)


def inspect_source(
    source: str | Path, choices: SourceChoices = AS_IT_IS, listen: Listener = silent
) -> InspectResult:
    """Read a source as an export would and describe it; nothing is exported, and prompts are not
    needed.

    Raises what load_generator raises for a source that cannot be loaded.
    """
    need_torch()
    if is_brought(Path(source)) and not (Path(source) / "run.json").is_file():
        return _brought(Path(source), choices)
    if is_onnx(Path(source)):
        return _onnx(Path(source), choices)
    loaded = load_generator(source, listen, choices)
    generator = loaded.generator
    parameters = {name: graph.parameters for name, graph in generator.graphs().items()}
    return InspectResult(
        str(source),
        loaded.family,
        parameters,
        None,
        _peak(parameters),
        generator.image_shape,
        generator.sampler.kind,
        len(generator.sampler.timesteps),
        _guidance(generator.sampler),
        None,
        generator.latent.classes,
        (),
        str(loaded.about["licence"]),
    )


def _brought(folder: Path, choices: SourceChoices) -> InspectResult:
    from .brought import bring_choices, need_libraries

    choices.check_only(OF_FOLDER, "a folder of diffusers")
    need_libraries()
    from ..bring.brought import bring

    found = bring(folder, bring_choices(choices))
    return InspectResult(
        str(folder),
        found.networks["denoiser"].kind.name,
        found.parameters,
        sum(
            (folder / name).stat().st_size
            for name in found.folder.files.sha256  # adapters are not part of it
            if name.endswith(".safetensors")
        ),
        _peak(found.parameters),
        found.image_shape,
        str(found.folder.scheduler["_class_name"]),
        len(found.sampler.timesteps),
        _guidance(found.sampler),
        _tokens(found.context),
        found.classes,
        found.folder.dropped,
        found.licence,
    )


def _onnx(path: Path, choices: SourceChoices) -> InspectResult:
    from .brought_onnx import load_onnx

    found = load_onnx(path, choices).generator
    return InspectResult(
        str(path),
        f"ONNX file, opset {found.opset}",
        found.parameters,
        path.stat().st_size,
        _peak(found.parameters),
        found.image_shape,
        found.sampler.kind,
        len(found.sampler.timesteps),
        _guidance(found.sampler),
        None,
        found.latent.classes,
        (),
        None,
    )


def _peak(parameters: Mapping[str, int]) -> int:
    return int(least_bytes(sum(parameters.values())))


def _guidance(sampler: Sampler) -> float:
    found = getattr(sampler, "embedded_guidance", None)
    return float(getattr(sampler, "guidance", 1.0) if found is None else found + 1)


def _tokens(context: TensorSpec | None) -> int | None:
    return None if context is None else int(context.shape[1])
