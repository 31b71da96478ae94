"""Trace a large graph without its weights: they are written to a file unchanged, and the model
points into it. It needs torch.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator, Mapping
from uuid import uuid4

import onnx
import onnx_ir
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from edgegen.core.files import put_parts
from edgegen.core.graph import Graph
from edgegen.core.weight_file import filled, laid_out, point, working_folder
from edgegen.core.weights import STORED, SUFFIX

TYPES = {
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.float32: TensorProto.FLOAT,
}
_PAGE_OUT = 21  # MADV_PAGEOUT of madvise(2)


def weightless(graph: Graph) -> tuple[nn.Module, FakeTensorMode]:
    """Return the module with tensors that have shapes but no memory, and the mode to
    trace it in.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    held: dict[int, object] = {}
    with mode:
        for name, own in graph.module.named_parameters():
            if name in graph.weights:
                held[id(own)] = nn.Parameter(torch.empty(own.shape), requires_grad=False)
        for name, buffer in graph.module.named_buffers():
            if name in graph.weights:
                held[id(buffer)] = torch.empty(buffer.shape)
    return copy.deepcopy(graph.module, held), mode


def pointed(model: onnx_ir.Model, weights: Mapping[str, Tensor], name: str) -> onnx.ModelProto:
    """Return the traced model with its weights in a new file of the working folder; a Cast restores
    those in half precision.
    """
    initializers = model.graph.initializers
    own = {key: _plain(weights[key]) for key in initializers if key in weights}
    for key in own:
        del initializers[key]
    made = onnx_ir.to_proto(model)
    path = working_folder() / f"{name}-{uuid4().hex}{SUFFIX}"
    sizes = [tensor.numel() * tensor.element_size() for tensor in own.values()]
    offsets = laid_out(sizes)
    put_parts(path, filled(offsets, _bytes(own)))
    casts = []
    for (key, tensor), offset, size in zip(own.items(), offsets, sizes, strict=True):
        full = tensor.dtype == torch.float32
        stored = key if full else f"{key}.{STORED}"
        entry = made.graph.initializer.add(
            name=stored, data_type=TYPES[tensor.dtype], dims=tensor.shape
        )
        point(entry, str(path), offset, size)
        if not full:
            casts.append(helper.make_node("Cast", [stored], [key], to=TensorProto.FLOAT))
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*casts, *nodes])
    return made


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor in a type that ONNX computes with: float64 becomes float32."""
    tensor = tensor if tensor.dtype in TYPES else tensor.to(torch.float32)
    return tensor.detach().contiguous()


def _bytes(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    for tensor in tensors.values():
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().data
            _page_out(tensor)
        else:
            yield memoryview(b"")


def _page_out(tensor: Tensor) -> None:
    """Let the system take back the memory into which a mapped file was read: no value changes, and
    what is read again is mapped again.
    """
    page = 4096
    first = tensor.data_ptr() // page * page
    length = tensor.data_ptr() + tensor.numel() * tensor.element_size() - first
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _PAGE_OUT)
