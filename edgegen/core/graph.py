"""What a family gives to every later stage: pure graphs, a latent and a sampler. (torch)"""

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
    """One graph of a generator as an export sees it, whichever framework it came from.

    export/onnx writes it as ONNX.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def output(self) -> TensorSpec: ...
    @property
    def parameters(self) -> int: ...  # number of trained parameters
    def executed(self, device: torch.device | str = "cpu") -> Callable[..., Array]: ...


@dataclass(frozen=True)
class Graph:
    """The unit of export, calibration and parity: a pure module (no randomness, no loop, no
    schedule) with its input and output tensors.

    weights: the weights of a large module whose own are on the device "meta", by the module's names
    and in the type in which they are stored in files; otherwise empty.
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
        """The number of the module's parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def loaded(self) -> nn.Module:
        """Return the module, or if there are `weights` a copy that holds them in float32."""
        if not self.weights:
            return self.module
        module = copy.deepcopy(self.module)
        full = {name: tensor.to(torch.float32) for name, tensor in self.weights.items()}
        module.load_state_dict(full, strict=False, assign=True)
        return module.requires_grad_(False)

    def executed(self, device: torch.device | str = "cpu") -> Callable[..., Array]:
        """Return a function that runs the graph with torch on `device`: named arrays to an array.

        A graph without `weights` moves its own module to that device.
        """
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
    """Return a function per graph that runs it in its own framework: named arrays to an array."""
    return {name: graph.executed(device) for name, graph in graphs.items()}


def torch_graphs(graphs: Mapping[str, ExportGraph]) -> Mapping[str, Graph]:
    """Return the graphs typed as torch graphs. UsageError if one came as an ONNX file."""
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
    """The parameters that one optimizer trains, their loss, and the part of the run it covers.

    span: begin and end as shares of the run's steps; the learning rate warms up and falls within
    it. At its end the networks take their averaged weights, so that later objectives see the
    networks that ship. begin: called once with fresh batches before the first step of the span,
    without gradients and in eval mode, for example to measure a scale or copy a teacher. Whatever
    it stores in weights and buffers is saved in checkpoints. A network is in training mode only
    while an objective trains it.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    loss: Callable[[Batch], Tensor]
    betas: tuple[float, float] = (0.9, 0.99)  # of Adam
    clip: float = 1.0  # largest norm of the gradient
    span: tuple[float, float] = (0.0, 1.0)
    begin: Callable[[Iterable[Batch]], None] | None = None
    rate: float = 1.0  # factor on the recipe's learning rate

    def progress(self, share: float) -> float:
        """Return the share of the span that is done, in [0, 1], when `share` of the run is done."""
        begin, end = self.span
        return min(1.0, max(0.0, (share - begin) / (end - begin)))


# A family's own frozen dataclass; code that serves every family only passes it on.
FamilyConfig = Any

# what a bundle reveals of the photos that its generator was trained on
Embedded = Literal["none", "features", "pixels"]


class Exportable(Protocol):
    """A generator that can be calibrated, exported, judged and explained, but perhaps not trained.

    It has graphs, the sampler that calls them, and the latent that the sampler starts from.
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
    """A generator whose sampler can take another number of steps without being rebuilt."""

    def with_steps(self, steps: int) -> Exportable: ...


@runtime_checkable
class Generator(Exportable, Protocol):
    """A model that edgegen can train: all its networks, those that ship, and its objectives."""

    @property
    def config(self) -> FamilyConfig: ...  # the family's Config it was built from
    @property
    def networks(self) -> nn.ModuleDict: ...
    @property
    def shipped(self) -> nn.ModuleDict: ...
    def graphs(self) -> Mapping[str, Graph]: ...
    def objectives(self) -> Iterable[Objective]: ...
