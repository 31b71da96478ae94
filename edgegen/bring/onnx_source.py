"""Make a generator from an ONNX file of another program: graphs, what images start from, and a
sampler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.declared import declared
from ..core.latent import Latent
from ..core.onnx_graph import OnnxGraph
from ..core.rehearsal import bounded_start, rehearse
from ..core.samplers import MultistepSampler, Sampler, told
from ..core.spec import Array, TensorSpec
from ..errors import InputError, UsageError
from .folder_files import CODE
from .onnx_file import OnnxFile, held_in, input_names
from .onnx_inputs import BATCH, FittedInput, LabelsUse, NoiseUse, input_uses
from .onnx_rewrite import Range, built_in, image_graph, rewritten
from .sampler_file import DECODED, FileSampler, read_sampler

if TYPE_CHECKING:
    from onnx import ModelProto

LIMIT = 1e-4  # relative to the largest value: rewriting may only change the order of sums
SEEDS = range(3)  # seeds of the check
LARGEST_RANGE = 1e6
Execute = Callable[..., Array]


@dataclass(frozen=True)
class OnnxChoices:
    """Hold what a user says beside the file.

    `inputs` has `name=use` for each; `sampler` is a file, None for one call; `scale` is the
    smallest and largest value of a pixel in the file's images, None for [-1, 1]; `output` is a
    name, needed if there are several.
    """

    inputs: Sequence[str] = ()
    sampler: Path | None = None
    scale: Range | None = None
    output: str | None = None


@dataclass(frozen=True)
class OnnxTools:
    """Hold what another package does: `raised` turns bytes into the model in the target opset,
    `load` turns bytes into a call that executes them.

    Both refuse what could break a native parser.
    """

    raised: Callable[[bytes], ModelProto]
    load: Callable[[bytes], Execute]


@dataclass(frozen=True)
class BroughtOnnx:
    """Hold a brought ONNX generator; `opset` is the one of its file."""

    path: Path
    sampling: FileSampler
    latent: Latent
    image_shape: tuple[int, int, int]  # channels, height, width
    opset: int
    sha256: str
    takes_whole_timesteps: bool
    _graphs: Mapping[str, OnnxGraph] = field(repr=False)
    embeds_training_data: Literal["none"] = "none"

    @property
    def sampler(self) -> Sampler:
        return self.sampling.sampler

    @property
    def parameters(self) -> dict[str, int]:
        return {name: graph.parameters for name, graph in self._graphs.items()}

    def graphs(self) -> Mapping[str, OnnxGraph]:
        return self._graphs

    def with_steps(self, steps: int) -> BroughtOnnx:
        """Return the generator with a sampler of `steps` steps."""
        found = self.sampling.with_steps(steps)
        if self.takes_whole_timesteps:
            _check_whole(found, self.path)
        return replace(self, sampling=_decoding(found, "decoder" in self._graphs))


def bring_onnx(
    path: Path, model: ModelProto, data: bytes, choices: OnnxChoices, tools: OnnxTools
) -> BroughtOnnx:
    """Make a generator from a file whose bytes (`data`, from which `model` was read) are already
    checked.

    Raises InputError, in one sentence, for what cannot be taken as it is, UsageError for wrong
    choices.
    """
    _check_range(choices.scale)
    sampling = read_sampler(choices.sampler)
    uses = input_uses(choices.inputs, input_names(model), path)
    noise = next(name for name, use in uses.items() if isinstance(use, NoiseUse))
    file = held_in(model, path, choices.output, noise)
    inputs = [uses[one.name].fitted(one, path) for one in file.inputs]
    _check_fit(inputs, uses, sampling, path)
    _check_start(_latent(inputs), path)
    bytes_before = file.model.SerializeToString(deterministic=True)
    before = _as_it_was(tools.load(bytes_before), inputs, file.fixed)
    calls = _calls(inputs, sampling.sampler)
    is_loop = sampling.sampler.kind != "single"
    axes = _image_axes(before(**calls[0]), len(SEEDS), path)
    output = TensorSpec("predicted" if is_loop else "image", (BATCH, *axes))
    raised = tools.raised(bytes_before)
    made = rewritten(file, raised, inputs, output, None if is_loop else choices.scale)
    made_bytes = made.SerializeToString(deterministic=True)
    reference = before if is_loop else _scaled(before, choices.scale)
    graph = OnnxGraph(made_bytes, tuple(i.spec for i in inputs), output, reference, _numbers(made))
    _check_same(graph, tools.load(made_bytes), calls, file)
    graphs = {sampling.graph: graph}
    if is_loop and (choices.scale is not None or sampling.sampler.kind in DECODED):
        graphs["decoder"] = _decoder(output, choices.scale, raised)
    found = BroughtOnnx(
        path,
        _decoding(sampling, "decoder" in graphs),
        _latent(inputs),
        axes,
        _opset(model),
        hashlib.sha256(data).hexdigest(),
        _takes_whole(inputs),
        graphs,
    )
    _check_rehearsed(found)
    return found


def _opset(model: ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _check_range(scale: Range | None) -> None:
    if scale is not None and not (
        -LARGEST_RANGE <= scale[0] < scale[1] <= LARGEST_RANGE  # False for NaN
    ):
        raise UsageError(
            "E-USAGE",
            f"--output-range is the smallest and the largest value, got {scale[0]:g},{scale[1]:g}",
        )


def _check_fit(
    inputs: Sequence[FittedInput], uses: Mapping[str, object], sampling: FileSampler, path: Path
) -> None:
    """Check that timesteps and labels fit the sampler. Raises UsageError or InputError if they do
    not.
    """
    timed = [one for one in inputs if one.spec.name == "t"]
    names = [one.spec.name for one in inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            "E-USAGE", f"--inputs: two inputs are given what samplers call {twice[0]}", path=path
        )
    if timed and sampling.sampler.kind == "single":
        raise UsageError(
            "E-USAGE",
            f"{timed[0].name!r:.80} is given timesteps, and a single call has none",
            path=path,
            hint="say which loop: --sampler sampler.json, or give it a constant FILE.npy",
        )
    if not timed and sampling.sampler.kind != "single":
        raise UsageError(
            "E-USAGE",
            f"the sampler {sampling.sampler.kind} tells its graph the timestep, and no input is "
            "given it",
            path=path,
            hint="--inputs NAME=timestep",
        )
    if _takes_whole(inputs):
        _check_whole(sampling, path)
    numbered = any(isinstance(uses[one.name], LabelsUse) and one.steps for one in inputs)
    if numbered and getattr(sampling.sampler, "guidance", 1) != 1:
        raise InputError(
            CODE, "guidance needs labels that may be absent, and these are numbers", path=path
        )


def _takes_whole(inputs: Sequence[FittedInput]) -> bool:
    """Return whether the file's timestep is a whole number, to which others would be cut."""
    return any(s.operator == "Cast" for one in inputs if one.spec.name == "t" for s in one.steps)


def _check_whole(sampling: FileSampler, path: Path) -> None:
    """Raise InputError for timesteps with fractions."""
    if any(told(t) != int(t) for t in sampling.sampler.timesteps):
        raise InputError(
            CODE,
            "it takes whole timesteps, and the sampler's have fractions",
            path=sampling.path or path,
        )


def _as_it_was(execute: Execute, inputs: Sequence[FittedInput], fixed: bool) -> Execute:
    """Call the file before it was rewritten as samplers call graphs; `fixed`: one image
    at a time.
    """

    def asked(given: Mapping[str, Array]) -> Array:
        return execute(**{one.name: one.given(given[one.spec.name]) for one in inputs})

    def call(**given: Array) -> Array:
        if not fixed:
            return asked(given)
        count = len(next(iter(given.values())))
        rows = [asked({n: v[k : k + 1] for n, v in given.items()}) for k in range(count)]
        return np.concatenate(rows)

    return call


def _scaled(execute: Execute, scale: Range | None) -> Execute:
    if scale is None:
        return execute
    low, high = scale
    factor, offset = np.float32(2 / (high - low)), np.float32(-(high + low) / (high - low))

    def call(**given: Array) -> Array:
        return execute(**given) * factor + offset

    return call


def _latent(inputs: Sequence[FittedInput]) -> Latent:
    noise = next(one.spec for one in inputs if one.spec.name == "x")
    return Latent(noise, tuple(one.condition for one in inputs if one.condition is not None))


def _calls(inputs: Sequence[FittedInput], sampler: Sampler) -> list[dict[str, Array]]:
    """Return the calls of the check: noise and conditions of a few seeds at the first, the middle
    and the last timestep.
    """
    latent, times = _latent(inputs), sampler.timesteps
    conditions = latent.condition(SEEDS)
    given = {"x": latent.start(SEEDS), **conditions}
    chosen = dict.fromkeys(times[k] for k in (0, len(times) // 2, -1))
    wanted = {one.spec.name for one in inputs}
    return [
        {n: v for n, v in {**given, "t": np.full(len(SEEDS), t, np.float32)}.items() if n in wanted}
        for t in (chosen if "t" in wanted else [times[0]])
    ]


def _image_axes(found: Array, count: int, path: Path) -> tuple[int, int, int]:
    """Return the axes of one image. Raises InputError for an answer that is no image."""
    if found.ndim != 4 or found.shape[0] != count or found.dtype != np.float32:
        raise InputError(
            CODE,
            f"for {count} images it answers {found.dtype} of {found.shape}, and float32 of (batch, "
            "channels, height, width) is wanted",
            path=path,
        )
    _, channels, height, width = found.shape
    return channels, height, width


def _check_same(
    graph: OnnxGraph, execute: Execute, calls: Sequence[Mapping[str, Array]], file: OnnxFile
) -> None:
    """Raise InputError if the rewritten graph computes something else than the file did."""
    for call in calls:
        expected = graph.call(**call)
        try:
            got = execute(**call)
        except InputError as error:
            raise built_in(file, error.message) from error
        largest = float(np.abs(expected).max())
        if not np.isfinite(largest):
            raise InputError(
                "E-NONFINITE", "its output holds NaN or infinite values", path=file.path
            )
        far = float(np.abs(expected - got).max())
        if not far <= LIMIT * largest:
            raise InputError(
                CODE,
                f"rewritten for this opset and a batch that varies, it answers otherwise: by "
                f"{far:.2g} where the largest value is {largest:.2g}",
                path=file.path,
                hint="export it again in opset 20, with a batch axis that varies",
            )


def _decoder(output: TensorSpec, scale: Range | None, like: ModelProto) -> OnnxGraph:
    """Return the graph that makes an image from the loop's last x."""
    model = image_graph(
        [int(axis) for axis in output.shape[1:]], scale, _opset(like), like.ir_version
    )
    data = model.SerializeToString(deterministic=True)
    specs = [TensorSpec(name, output.shape) for name in ("x", "image")]
    return OnnxGraph(data, (specs[0],), specs[1], _scaled(lambda x: x, scale))


def _decoding(sampling: FileSampler, has_decoder: bool) -> FileSampler:
    """Return the sampler with a loop that runs the image's graph if there is one."""
    loop = sampling.sampler
    if isinstance(loop, MultistepSampler):
        return replace(sampling, sampler=replace(loop, decoder=has_decoder))
    return sampling


def _numbers(model: ModelProto) -> int:
    """Return the number of floating-point weights."""
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


def _check_start(latent: Latent, path: Path) -> None:
    """Raise InputError for more noise than a machine should be asked for."""
    try:
        bounded_start([int(axis) for axis in latent.noise.shape[1:]], latent.classes)
    except ValueError as error:
        raise InputError(CODE, f"it cannot be sampled: {error}", path=path) from error


def _check_rehearsed(found: BroughtOnnx) -> None:
    """Raise InputError if sampler, start and graph do not fit one another, or the result is no
    image.
    """
    try:
        graphs = {name: declared(graph.model) for name, graph in found.graphs().items()}
        rehearse(found.sampler, found.latent, graphs)
    except ValueError as error:
        raise InputError(CODE, f"it cannot be sampled so: {error}", path=found.path) from error
