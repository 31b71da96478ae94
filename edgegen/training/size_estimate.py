"""An estimate of the size of a recipe's training, before any photo is read.

Parameters are counted exactly, and MACs by torch's FLOP formulas on the graphs that ship, with fake
tensors, so that nothing is computed. Memory in use is estimated from what each loss keeps for its
backward pass, measured on two tiny batches of noise and extrapolated linearly. A process on a CPU
holds more, because the C library keeps freed blocks: HELD covers the largest measured factor (tiny
recipes at batch 256, FP32: isc-gan 1.4, dkgm 1.6, cas-dm 1.85, lcd 1.1 times the estimate). With
MALLOC_MMAP_THRESHOLD_=65536 in the environment, which returns every large block, the factors were
1.2, 1.0, 1.0 and 0.85.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..core.graph import Batch, Generator, Graph, Objective
    from ..families import Recipe

HELD = 1.9  # largest ratio of the memory that a CPU process holds to the memory in use
# Images of the measured batches. Batch norms need two, and two sizes show what does not grow with
# the batch.
TINY = (2, 4)


@dataclass(frozen=True)
class TrainingSize:
    """What a recipe's training needs.

    parameters: of each network; macs: of one forward pass of each graph for one image.
    """

    parameters: dict[str, int]
    trained: dict[str, int]  # parameters of each objective
    macs: dict[str, int]  # of each graph that ships, one image
    training_macs: dict[str, int]  # of each objective's usual loss, one image, forward pass
    memory: dict[str, int]  # bytes by use; activations for the recipe's batch

    @property
    def peak(self) -> int:
        """The bytes in use at the peak of a step, without the photos and torch itself."""
        return sum(self.memory.values())

    @property
    def resident(self) -> int:
        """The bytes that a CPU process may hold at the peak."""
        return round(HELD * self.peak)


def measure(generator: Generator, recipe: Recipe) -> TrainingSize:
    """Measure parameters, MACs and memory of a fresh generator's training.

    This changes the generator's buffers, so it must not be trained afterwards.
    """
    from ..families import Judged

    generator.networks.train()
    if isinstance(generator, Judged):
        # An untaught judge would refuse. The begin of an objective is skipped: it changes no size.
        generator.teach([_noise(generator, TINY[0])])
    objectives = tuple(generator.objectives())
    parameters = {name: _count(net.parameters()) for name, net in generator.networks.items()}
    trained = {o.name: _count(o.params) for o in objectives}
    macs = {name: _graph_macs(graph) for name, graph in generator.graphs().items()}
    before = copy.deepcopy(generator.networks.state_dict())
    small = _passes(generator, objectives, recipe, TINY[0])
    # Restoring the state makes a lazy term due again, so that both sizes see the same loss.
    generator.networks.load_state_dict(before)
    large = _passes(generator, objectives, recipe, TINY[1])
    usual = _passes(generator, objectives, recipe, TINY[0])
    kept = max(_line(a.peak, b.peak, recipe.batch) for a, b in zip(small, large, strict=True))
    saved = [
        pair
        for a, b in zip(small, large, strict=True)
        for pair in zip(a.sizes, b.sizes, strict=True)
    ]
    largest = max(_line(*pair, recipe.batch) for pair in saved)
    weights, moved = _bytes(generator.networks), sum(_nbytes(o.params) for o in objectives)
    judge = getattr(generator, "judge", None)
    memory = {
        "weights": weights,
        "average": weights,
        "gradients": moved,
        "Adam": 2 * moved,
        "judge": _bytes(judge) if judge else 0,
        "activations": kept,
        "their gradients": 2 * largest,
    }
    return TrainingSize(
        parameters,
        trained,
        macs,
        {o.name: p.macs for o, p in zip(objectives, usual, strict=True)},
        memory,
    )


def _passes(
    generator: Generator, objectives: tuple[Objective, ...], recipe: Recipe, count: int
) -> list[_Saved]:
    """Return what each loss keeps on a batch of `count` images of noise."""
    import torch

    own, batch = set(_storages(generator.networks)), _noise(generator, count)
    with torch.random.fork_rng(devices=[]):
        return [_loss(objective, batch, recipe.precision, own) for objective in objectives]


def _line(small: int, large: int, batch: int) -> int:
    """Extrapolate a quantity to `batch` images from its values for the two tiny batches."""
    slope = (large - small) / (TINY[1] - TINY[0])
    return round(small + slope * (batch - TINY[0]))


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _bytes(net: nn.Module) -> int:
    return _nbytes(net.parameters()) + _nbytes(net.buffers())


def _storages(net: nn.Module) -> Iterator[int]:
    yield from (t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers()))


def _noise(generator: Generator, count: int) -> Batch:
    import torch

    from ..core.graph import Batch

    rng, classes = torch.Generator().manual_seed(0), generator.latent.classes
    images = torch.rand((count, *generator.image_shape), generator=rng) * 2 - 1
    return Batch(
        images,
        torch.eye(classes)[torch.arange(count) % classes] if classes else torch.zeros(count, 0),
        rng,
    )


def _graph_macs(graph: Graph) -> int:
    """Return the multiply-adds of one image through the graph."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), counted() as total:
        graph.module(*(torch.zeros(spec.sized(batch=1)) for spec in graph.inputs))
    return total[0]


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the multiply-adds of all convolutions, products and attention in the block, in the
    single entry of the list.

    torch's FlopCounterMode is not used, because it does not count attention on a CPU and cannot
    follow a loss that itself differentiates.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    total, attention = [0], torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            packet = func._overloadpacket
            if packet is attention:
                total[0] += sdpa_flop_count(*(t.shape for t in args[:3])) // 2  # type: ignore[no-untyped-call]
            elif formula := flop_registry.get(packet):
                total[0] += formula(*args, **(kwargs or {}), out_val=out) // 2
            return out

    with Counter():  # type: ignore[no-untyped-call]
        yield total


class _Saved:
    """Counts the bytes that a loss keeps for its backward pass: now, at the peak, and for each
    storage. own: storages of weights, which do not count.
    """

    def __init__(self, own: set[int]) -> None:
        self.own, self.now, self.peak, self.macs = own, 0, 0, 0
        self.sizes: list[int] = []
        self.holders: dict[int, int] = {}  # number of saved tensors that share each storage

    def take(self, tensor: torch.Tensor) -> _Holder | torch.Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in self.own else _Holder(tensor, self)


class _Holder:
    """A saved tensor that is counted as long as autograd holds it."""

    def __init__(self, tensor: torch.Tensor, saved: _Saved) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.saved, self.at, self.bytes = (
            tensor,
            saved,
            storage.data_ptr(),
            storage.nbytes(),
        )
        count = saved.holders.get(self.at, 0)
        saved.holders[self.at] = count + 1
        if not count:
            saved.now += self.bytes
            saved.peak = max(saved.peak, saved.now)
            saved.sizes.append(self.bytes)

    def __del__(self) -> None:
        self.saved.holders[self.at] -= 1
        if not self.saved.holders[self.at]:
            self.saved.now -= self.bytes


def _loss(objective: Objective, batch: Batch, precision: str, own: set[int]) -> _Saved:
    """Return what one loss keeps, with its multiply-adds per image."""
    import torch

    saved = _Saved(own)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with _hooks(saved), autocast, counted() as total:
        objective.loss(batch)
    saved.macs = total[0] // len(batch.images)
    return saved


@contextmanager
def _hooks(saved: _Saved) -> Iterator[None]:
    import torch

    def unpack(kept: Any) -> torch.Tensor:
        return kept.tensor if isinstance(kept, _Holder) else kept

    with torch.autograd.graph.saved_tensors_hooks(saved.take, unpack):
        yield
