"""What a family hands to everything after training: pure graphs, a latent and a sampler. (torch)"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from .latent import Latent
from .samplers import Sampler
from .spec import Array, TensorSpec


class ExportGraph(Protocol):
    """What one graph of a generator is to an export, whichever framework it came from; export/onnx
    writes each as ONNX.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def output(self) -> TensorSpec: ...
    @property
    def parameters(self) -> int: ...  # numbers that were trained
    def executed(self, device: torch.device | str = "cpu") -> Callable[..., Array]: ...


@dataclass(frozen=True)
class Graph:
    """The unit of export, calibration and parity: a pure module (no randomness, no loop, no
    schedule) and its tensors.

    weights: of a module that is large and has none of its own (they are on the device "meta"), by
    its names for them, in the type in which they lie in files.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        names = [spec.name for spec in (*self.inputs, self.output)]
        if len(set(names)) != len(names):
            raise ValueError(
                "inputs and output of a graph need different names (runtimes refuse the file), "
                f"got {names}"
            )
        if self.module.training:
            raise ValueError("a graph is made from a module in eval mode: call .eval() first")

    @property
    def parameters(self) -> int:
        """Numbers that were trained."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def loaded(self) -> nn.Module:
        """The module with its weights, in full precision; its own, or a new copy of a large one."""
        if not self.weights:
            return self.module
        module = copy.deepcopy(self.module)
        full = {name: tensor.to(torch.float32) for name, tensor in self.weights.items()}
        module.load_state_dict(full, strict=False, assign=True)
        return module.requires_grad_(False)

    def executed(self, device: torch.device | str = "cpu") -> Callable[..., Array]:
        """As torch executes it on `device`, to which its module moves."""
        module = self.loaded().to(device)

        def call(**inputs: Array) -> Array:
            with torch.inference_mode():
                moved = {
                    name: torch.from_numpy(np.ascontiguousarray(value)).to(device)
                    for name, value in inputs.items()
                }
                out: Array = module(**moved).cpu().numpy()
                return out

        return call


def executed(
    graphs: Mapping[str, ExportGraph], device: torch.device | str = "cpu"
) -> dict[str, Callable[..., Array]]:
    """The graphs as their own framework executes them: named arrays in, an array back."""
    return {name: graph.executed(device) for name, graph in graphs.items()}


def torch_graphs(graphs: Mapping[str, ExportGraph]) -> Mapping[str, Graph]:
    """The same graphs, for what takes layers of torch apart. UsageError where one is none."""
    found = {name: graph for name, graph in graphs.items() if isinstance(graph, Graph)}
    if other := sorted(graphs.keys() - found.keys()):
        raise UsageError(
            "E-EXPLAIN",
            f"layers are taken apart by torch, and the graph {other[0]} came as an ONNX file",
        )
    return found


@dataclass(frozen=True)
class Batch:
    """Training images (b, c, h, w) in [-1, 1], one-hot labels (b, classes), and this step's own
    random generator.

    All three live on one device: whatever a loss draws is drawn there, `torch.randn(...,
    generator=g, device=g.device)`.
    """

    images: Tensor
    labels: Tensor
    generator: torch.Generator
    progress: float = 0.0  # share of the asking objective's span that is done, in [0, 1]


@dataclass(frozen=True)
class Objective:
    """Parameters that one optimizer moves, the loss that moves them, and the part of the run in
    which it does.

    span: from and to, as shares of the run's steps; the learning rate warms up and falls within it.
    At its end the networks take their averaged weights, so that what is trained after them sees
    what ships. begin: called once with fresh batches before the first step of the span, without
    gradients and in eval mode: measures a scale, copies a teacher. What it leaves in weights and
    buffers is resumed; a network is in training mode only while an objective moves it.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    loss: Callable[[Batch], Tensor]
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam
    clip: float = 1.0  # largest norm of the gradient
    span: tuple[float, float] = (0.0, 1.0)
    begin: Callable[[Iterable[Batch]], None] | None = None
    rate: float = 1.0  # times the recipe's

    def progress(self, share: float) -> float:
        """Share of the span that is done, in [0, 1], when `share` of the run is: what its batches
        carry.
        """
        begin, end = self.span
        return min(1.0, max(0.0, (share - begin) / (end - begin)))


# A family's own frozen dataclass: who serves every family hands it on.
FamilyConfig = Any

# of its training photos: what a bundle of a generator gives away
Embedded = Literal["none", "features", "pixels"]


class Exportable(Protocol):
    """What is calibrated, exported, judged and explained: graphs, the loop over them, and what it
    begins from. Whoever made it need not be able to train it.
    """

    @property
    def embeds_training_data(self) -> Embedded: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # channels, height, width
    @property
    def latent(self) -> Latent: ...
    @property
    def sampler(self) -> Sampler: ...
    def graphs(self) -> Mapping[str, ExportGraph]: ...


@runtime_checkable
class Resteppable(Exportable, Protocol):
    """One whose sampler can take another number of steps without being built anew."""

    def with_steps(self, steps: int) -> Exportable: ...


@runtime_checkable
class Generator(Exportable, Protocol):
    """A model that edgegen trains: its networks by name besides, those of them that ship, and what
    moves them.
    """

    @property
    def config(self) -> FamilyConfig: ...  # the family's Config it was built from
    @property
    def networks(self) -> nn.ModuleDict: ...
    @property
    def shipped(self) -> nn.ModuleDict: ...
    def graphs(self) -> Mapping[str, Graph]: ...
    def objectives(self) -> Iterable[Objective]: ...
