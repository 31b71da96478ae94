"""The registry of generator families, each a module or folder that is imported when it is first
asked for.
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
# pydantic settings of every config that is read from a file
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Recipe:
    """How a config is trained; the docstring of a recipe function reports its results."""

    config: FamilyConfig
    images: int  # training images seen, counted with repeats
    batch: int = 64
    rate: float = 1e-3  # Adam's, after warm-up; falls to 0 along a cosine
    warmup: int = 500  # steps
    ema: float = 0.999
    precision: str = "bf16"  # type of activations; weights, losses and optimizer stay in FP32


@dataclass(frozen=True)
class Grown:
    """A trained generator as it begins for larger images.

    whole: names of its new modules, which are trained in full and not by LoRA pairs.
    """

    config: FamilyConfig
    tensors: Mapping[str, Tensor]
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """How a trained generator is adapted to other photos with LoRA pairs.

    targets: patterns of the modules that get pairs; whole: patterns of the modules that are trained
    in full. They are fnmatch patterns over module names, network first, such as "theta.*";
    docs/finetuning.md has the table from which they were chosen. rank: of the pairs; the other
    settings are those of a Recipe. fewest: training photos that a class needs; classes with fewer
    are drawn as one. grow: takes config, tensors and a larger size, and returns the generator as it
    begins at that size, with its new parts random; ValueError says why it cannot.
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
    """A kind of generator: its validated config class, how to build it, and its recipes."""

    name: str
    config: type[FamilyConfig]
    build: Callable[[FamilyConfig], Generator]
    recipes: Mapping[str, Callable[[], Recipe]]
    tuning: Tuning


@runtime_checkable
class Continuing(Protocol):
    """A config whose training may continue from trained weights instead of fresh ones."""

    @property
    def continues(self) -> bool: ...

    def onto(self, trained: FamilyConfig) -> FamilyConfig:
        """Return the config of the trained weights, with this config's way of training."""


@runtime_checkable
class Adapting(Protocol):
    """A generator whose adaptation uses other objectives than its training."""

    def adapting(self) -> Iterable[Objective]: ...


@runtime_checkable
class Judged(Protocol):
    """A generator whose losses may use a frozen network, the judge.

    It is taught once, before the training; it is kept with the run but never ships.
    """

    @property
    def judge(self) -> nn.Module | None: ...
    def teach(self, batches: Iterable[Batch]) -> None: ...


@runtime_checkable
class TwiceDifferentiated(Protocol):
    """A generator whose losses contain gradients of its networks.

    torch.compile cannot differentiate these a second time.
    """

    @property
    def twice_differentiated(self) -> bool: ...


@runtime_checkable
class Steered(Protocol):
    """A generator that can follow photos (b, c, h, w) in [-1, 1], which become its graphs' input
    "hint" or "vector".
    """

    @property
    def hint_shape(self) -> tuple[int, int, int]: ...  # channels, height, width; values in [0, 1]
    def hint_of(self, photos: Tensor) -> Tensor: ...
    def vector_of(self, photos: Tensor) -> Tensor: ...


def family(name: str) -> Family:
    """Return the family of that name. UsageError for an unknown name lists the known ones."""
    if name not in FAMILIES:
        raise UsageError("E-FAMILY", f"unknown family {name!r}; known: {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    loaded: Family = getattr(import_module(module), attribute)
    return loaded
