"""Apply what `generate` and `export` may change in a trained generator: its steps and solver, which
networks draw, and a picture to follow.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .limits import Limit, check_numbers

if TYPE_CHECKING:
    from ..core.graph import Exportable, Generator
    from ..core.spec import Array
    from .generators import LoadedGenerator


@dataclasses.dataclass(frozen=True)
class SamplingChoices:
    """Hold the choices that a trained generator leaves open; None keeps its own."""

    steps: int | None = None  # number of sampler steps
    way: str | None = None  # networks that make the images, such as teacher or student of lcd
    control: Path | None = None  # a hint picture of the model's kind that the images must follow
    control_from: Path | None = None  # a photo to make that hint from
    like: Path | None = None  # a photo whose colours the images should have
    solver: str | None = None  # solver of the sampler, one that the family knows

    def __post_init__(self) -> None:
        check_numbers(self, steps=Limit(1, 10**4))
        shown = [p for p in (self.control, self.control_from, self.like) if p is not None]
        if len(shown) > 1:
            raise UsageError("E-USAGE", "--control, --control-from and --like exclude each other")
        if shown and self.way is not None:
            raise UsageError(
                "E-USAGE",
                "--way cannot be combined with --control, --control-from or --like, which set it",
            )

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())


def chosen(
    source: LoadedGenerator, choices: SamplingChoices
) -> tuple[Exportable, dict[str, Array]]:
    """Return the generator with the choices applied, and the further inputs that its
    graphs take.

    Raises UsageError for a flag that this family has no use for.
    """
    flags = {f"--{k.replace('_', '-')}": (k, v) for k, v in vars(choices).items() if v is not None}
    if not flags:
        return source.generator, {}
    from ..core.graph import Generator, Resteppable

    trained = source.generator
    if (
        choices.steps is not None
        and flags.keys() == {"--steps"}
        and isinstance(trained, Resteppable)
    ):
        return trained.with_steps(choices.steps), {}
    # a brought generator has no family whose config could change
    if not isinstance(trained, Generator):
        other = next((flag for flag in flags if flag != "--steps"), "--steps")
        raise UsageError("E-USAGE", f"{source.family} has no option {other}")
    known = {field.name for field in dataclasses.fields(trained.config)}
    changes: dict[str, Any] = {}
    for flag, (name, value) in flags.items():
        field, value = {
            "control": ("way", "control"),
            "control_from": ("way", "control"),
            "like": ("like", True),
            # in lcd's config "solver" is the one that its student learns from
            "solver": ("teacher_solver" if "teacher_solver" in known else "solver", value),
        }.get(name, (name, value))
        if field not in known:
            raise UsageError("E-USAGE", f"{source.family} has no option {flag}")
        changes[field] = value
    try:
        generator = _rebuilt(source.family, trained, changes)
    except ValueError as error:
        raise UsageError("E-USAGE", f"{' '.join(flags)}: {error}") from error
    if choices.solver not in (None, getattr(generator.sampler, "solver", None)):
        raise UsageError(
            "E-USAGE",
            f"--solver does not apply to this {source.family}: its {generator.sampler.kind} "
            "sampler solves no equation",
            hint="for lcd, use the teacher with --way teacher",
        )
    return generator, _given(generator, choices)


def _rebuilt(family_name: str, trained: Generator, changes: dict[str, Any]) -> Generator:
    from ..families import family

    generator = family(family_name).build(dataclasses.replace(trained.config, **changes))
    generator.networks.load_state_dict(trained.networks.state_dict())
    generator.networks.eval()
    return generator


def _given(generator: Generator, choices: SamplingChoices) -> dict[str, Array]:
    """Return the graphs' further inputs without the batch axis."""
    import torch

    from ..core.images import read
    from ..families import Steered

    if not isinstance(generator, Steered):
        return {}
    if choices.control is not None:
        return {"hint": read(choices.control, generator.hint_shape)}
    photo = choices.control_from or choices.like
    if photo is None:
        return {}
    images = torch.from_numpy(read(photo, generator.image_shape))[None] * 2 - 1
    if choices.like is not None:
        return {"vector": generator.vector_of(images)[0].numpy()}
    return {"hint": generator.hint_of(images)[0].numpy()}
