"""The generator families: one module (or folder) and one line here for each; nothing of theirs
loads until asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import ConfigDict

from ..errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..core.graph import Batch, FamilyConfig, Generator, Objective

FAMILIES = {
    "cas-dm": "edgegen.families.cas_dm:FAMILY",
    "dkgm": "edgegen.families.dkgm.family:FAMILY",
    "isc-gan": "edgegen.families.isc_gan.family:FAMILY",
    "lcd": "edgegen.families.lcd.recipes:FAMILY",
}
# of every config that is read from a file
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Recipe:
    """How a config is trained; a recipe function's docstring says what it gave."""

    config: FamilyConfig
    images: int  # training images seen, counted with repeats
    batch: int = 64
    rate: float = 1e-3  # Adam's, after warm-up; falls to 0 along a cosine
    warmup: int = 500  # steps
    ema: float = 0.999
    precision: str = "bf16"  # of activations; weights, losses and optimizer stay in FP32


@dataclass(frozen=True)
class Grown:
    """A trained generator as it begins for larger images; whole: names of the modules that are new
    to it, trained whole.
    """

    config: FamilyConfig
    tensors: Mapping[str, Tensor]
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """How a trained generator is adapted to other photos (LoRA): where the pairs go, what is
    trained whole, and the recipe.

    targets, whole: fnmatch patterns over names of modules, network first, such as "theta.*";
    docs/finetuning.md has the table they were chosen by. The rest is a Recipe's, and the rank of
    the pairs. fewest: photos to train on that a class needs; those with fewer are drawn as one.
    grow: config, tensors and a larger size -> how the generator begins at that size,
    what is new in it random; ValueError says why not.
    """

    grow: Callable[[FamilyConfig, Mapping[str, Tensor], int], Grown]
    targets: tuple[str, ...] = ("*",)
    whole: tuple[str, ...] = ()
    rank: int = 4
    images: int = 48_000
    batch: int = 32
    rate: float = 2e-3
    warmup: int = 50
    ema: float = 0.995
    precision: str = "bf16"
    fewest: int = 1


@dataclass(frozen=True)
class Family:
    """A kind of generator: its frozen, validated Config, how to build one, and the recipes that
    train it.
    """

    name: str
    config: type[FamilyConfig]
    build: Callable[[FamilyConfig], Generator]
    recipes: Mapping[str, Callable[[], Recipe]]
    tuning: Tuning


@runtime_checkable
class Continuing(Protocol):
    """A config that may train trained weights on instead of fresh ones."""

    @property
    def continues(self) -> bool: ...

    def onto(self, trained: FamilyConfig) -> FamilyConfig:
        """The trained weights' own config, trained on as this one says."""


@runtime_checkable
class Adapting(Protocol):
    """A generator that adapts by other objectives than it is trained by."""

    def adapting(self) -> Iterable[Objective]: ...


@runtime_checkable
class Judged(Protocol):
    """A generator whose losses may look through a frozen network: training teaches it once and
    keeps it, it never ships.
    """

    @property
    def judge(self) -> nn.Module | None: ...
    def teach(self, batches: Iterable[Batch]) -> None: ...


@runtime_checkable
class TwiceDifferentiated(Protocol):
    """A generator whose losses hold gradients of its networks, which torch.compile cannot
    differentiate again.
    """

    @property
    def twice_differentiated(self) -> bool: ...


@runtime_checkable
class Steered(Protocol):
    """A generator that can follow a photo: photos (b, c, h, w) in [-1, 1] become its graphs' input
    "hint" or "vector".
    """

    @property
    def hint_shape(self) -> tuple[int, int, int]: ...  # channels, height, width; values in [0, 1]
    def hint_of(self, photos: Tensor) -> Tensor: ...
    def vector_of(self, photos: Tensor) -> Tensor: ...


def family(name: str) -> Family:
    """The registered family; UsageError names the known ones."""
    if name not in FAMILIES:
        raise UsageError("E-FAMILY", f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    loaded: Family = getattr(import_module(module), attribute)
    return loaded
