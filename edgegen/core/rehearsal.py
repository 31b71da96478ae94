"""Checks that a manifest's start, sampler and graphs fit one another, without any runtime.

The sampler runs once on stand-ins for the graphs, which check their inputs and return zeros of the
shape that the graph declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .conditions import CLASSES, Prompts
from .conditions.base import NULL
from .declared import Declared, Shape
from .files import JsonObject
from .latent import Latent
from .samplers import Sampler
from .spec import Array

STEPS = 1000  # most timesteps of a sampler: those of the finest schedule
NUMBERS = 1 << 22  # most numbers of one start, more than three channels of 1024 x 1024
ARRAYS_BYTES = 2 << 30  # largest file with the arrays of conditions
TOKENS = 4096  # most tokens of a prompt
SIDE = 4096  # most pixels of an image's longer side
LARGEST = 1e9  # largest magnitude of a sampler's constant
BATCH = 2


def bounded_start(shape: list[int], classes: int) -> None:
    """Raise ValueError if the start's noise is empty, or it has too many numbers or classes.

    shape: of the noise, without the batch axis.
    """
    numbers = 1
    for axis in shape:
        numbers *= max(axis, 0)
    if not shape or not 0 < numbers <= NUMBERS or not 0 <= classes <= CLASSES:
        raise ValueError(
            f"start: cannot begin from {classes} classes and noise of {tuple(shape)[:8]}: there "
            f"are 1 to {NUMBERS} numbers an image and at most {CLASSES} classes"
        )


def bounded_sampler(data: JsonObject) -> None:
    """Raise ValueError for too long lists, numbers out of range, or nested values in a sampler."""
    for name, value in data.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > STEPS:
            raise ValueError(f"sampler: {name} has {len(values)} entries, and {STEPS} are the most")
        for one in values:
            if isinstance(one, int | float) and not -LARGEST <= one <= LARGEST:
                raise ValueError(f"sampler: {name} holds a number beyond {LARGEST:g}")
            if isinstance(one, list | dict):
                raise ValueError(f"sampler: {name} holds more than numbers and words")


def rehearse(sampler: Sampler, latent: Latent, graphs: Mapping[str, Declared]) -> None:
    """Run the sampler on stand-ins; ValueError says what does not fit among its parts."""
    call = {name: _stand_in(name, graph) for name, graph in graphs.items()}
    seeds = range(BATCH)
    zeros = np.zeros(latent.noise.sized(batch=BATCH), np.float32)
    try:
        with np.errstate(all="ignore"):
            images = sampler(call, zeros, latent.condition(seeds), lambda stream: zeros)
    except KeyError as error:
        raise ValueError(f"the sampler runs a graph {error}, and there is none") from error
    except (IndexError, TypeError, ArithmeticError) as error:
        raise ValueError(f"the sampler cannot begin from {latent.noise.shape}: {error}") from error
    if images.ndim != 4 or images.shape[1] not in (1, 3) or max(images.shape[2:]) > SIDE:
        raise ValueError(f"what comes out is {images.shape[1:]}, which is no image")


def rehearse_text(prompts: Prompts, graphs: Mapping[str, Declared]) -> int:
    """Return how many tokens the text graphs take, the same for all of them.

    ValueError if their outputs do not have the names and shapes of the prompts' embeddings.
    """
    wanted = {n: v.shape[1:] for n, v in prompts.embeddings.items() if not n.startswith(NULL)}
    if set(graphs) != set(wanted):
        raise ValueError(
            f"text graphs make {', '.join(graphs)}, and prompts are {', '.join(wanted)}"
        )
    limits = set()
    for name, graph in graphs.items():
        ((tokens, shape), *others) = graph.inputs.items()
        limit = shape[1] if len(shape) == 2 else None
        if others or graph.integers != (tokens,) or limit is None or not 3 <= limit <= TOKENS:
            raise ValueError(
                f"the text graph of {name} takes {_shown(shape)}, and not 3 to {TOKENS} tokens as "
                "int64"
            )
        if not fits(graph.output, (BATCH, *wanted[name])):
            raise ValueError(
                f"the text graph of {name} answers {_shown(graph.output)}, and prompts are "
                f"{_shown(wanted[name])}"
            )
        limits.add(limit)
    if len(limits) != 1:
        raise ValueError(f"text graphs take different numbers of tokens, {sorted(limits)}")
    return limits.pop()


def _stand_in(name: str, graph: Declared) -> Callable[..., Array]:
    def answer(**inputs: Array) -> Array:
        asked = {key: np.shape(value) for key, value in inputs.items()}
        if set(asked) != set(graph.inputs):
            raise ValueError(
                f"graph {name!r} takes {', '.join(graph.inputs)}, and the sampler gives "
                f"{', '.join(asked)}"
            )
        for key, shape in asked.items():
            if not fits(graph.inputs[key], shape):
                raise ValueError(
                    f"graph {name!r} takes {key} of {_shown(graph.inputs[key])}, and the sampler "
                    f"gives {_shown(shape)}"
                )
        if not graph.output or len(graph.output) > 8 or _numbers(graph.output) > NUMBERS * 8:
            raise ValueError(f"graph {name!r} answers {_shown(graph.output)}")
        return np.zeros([BATCH if axis is None else axis for axis in graph.output], np.float32)

    return answer


def fits(wanted: Shape, shape: tuple[int, ...]) -> bool:
    """Return whether `shape` matches `wanted`, in which None stands for any size."""
    return len(wanted) == len(shape) and all(
        axis in (None, size) for axis, size in zip(wanted, shape, strict=True)
    )


def sized(wanted: Shape, batch: int) -> tuple[int, ...]:
    """Return the shape with `batch` in place of each varying axis."""
    return tuple(batch if axis is None else axis for axis in wanted)


def _numbers(shape: Shape) -> int:
    count = 1
    for axis in shape:
        count *= axis or BATCH
    return count


def _shown(shape: Shape) -> str:
    return "(" + ", ".join("n" if axis is None else str(axis) for axis in shape) + ")"
