"""Store the statistics of real images, with which generated images are compared. It needs numpy
only.

Distances are taken after a fixed projection on the reference's own main directions: in all 1280
dimensions a few thousand images leave the covariance rank-deficient, and the distance is then
mostly bias.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..core.files import JsonObject, is_version, write_bytes
from ..core.reader import read_bytes
from ..core.spec import Array
from ..errors import EdgegenError, InputError, ReferenceMismatch
from .distances import Float64, Floats, Moments, kurtosis

VERSION = 1
LIMIT = 64 << 20  # bytes of a reference file at most


class Features(Protocol):
    """Describe a feature network: images (n, h, w, 3) uint8 -> (n, dim) float32."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def __call__(self, images: np.ndarray) -> Array: ...


@dataclass(frozen=True, eq=False)
class Reference:
    """Hold mean and covariance of `count` real images' features after projection (dim, k) about
    `centre` (dim,).
    """

    name: str  # name of the image set, such as "fashion-mnist-test"
    network: str
    network_sha256: str
    size: int
    count: int
    centre: Array
    projection: Array
    mean: Float64  # (k,)
    cov: Float64  # (k, k)
    # kurtosis of the projected features; None in references of an older edgegen, whose distances
    # keep the bias that `count` images give
    kurtosis: float | None = None

    @property
    def k(self) -> int:
        return len(self.mean)

    @property
    def moments(self) -> Moments:
        return Moments(self.mean, self.cov, self.count, self.kurtosis)

    @cached_property
    def sha256(self) -> str:
        """Return the sha256 of the file's bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def project(self, features: Floats) -> Array:
        """Project features (n, dim) to (n, k).

        Raises ReferenceMismatch for features of another width, EdgegenError if one is not finite.
        """
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ReferenceMismatch(
                "E-FID-REF", f"{self} needs features (n, {len(self.centre)}), got {features.shape}"
            )
        out: Array = np.asarray((features - self.centre) @ self.projection, np.float32)
        if not np.isfinite(out).all():
            raise EdgegenError("E-NONFINITE", "features hold NaN or infinite values")
        return out

    def check(self, network: Features) -> None:
        """Raise ReferenceMismatch unless `network` is the very one that the reference was made
        with.
        """
        if (network.name, network.sha256, network.size) != (
            self.network,
            self.network_sha256,
            self.size,
        ):
            features = _network(network.name, network.sha256, network.size)
            raise ReferenceMismatch(
                "E-FID-REF",
                f"{self}, the features asked for are {features}",
                hint="use that network, or make a reference with this one",
            )

    def __str__(self) -> str:
        network = _network(self.network, self.network_sha256, self.size)
        return f"reference {self.name} was made with {network} and {self.count} images"

    def to_bytes(self) -> bytes:
        """Return the bytes of one safetensors file; the same reference gives the same bytes."""
        tensors: dict[str, np.ndarray] = {
            "centre": self.centre,
            "projection": self.projection,
            "mean": self.mean,
            "cov": self.cov,
        }
        about = {
            "version": VERSION,
            "name": self.name,
            "network": self.network,
            "network_sha256": self.network_sha256,
            "size": self.size,
            "count": self.count,
            **({} if self.kurtosis is None else {"kurtosis": self.kurtosis}),
        }
        # There is one metadata key, because safetensors writes several in an order that changes
        # from run to run.
        return save_tensors(
            tensors, metadata={"edgegen.reference": json.dumps(about, sort_keys=True)}
        )

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_bytes(path, self.to_bytes())


def _network(name: str, sha256: str, size: int) -> str:
    return f"{name}@{sha256[:12]} at {size} px"


def build(features: Floats, network: Features, name: str, k: int = 128) -> Reference:
    """Build the reference of features (n, dim) that `network` gave for the real images called
    `name`, along k main directions.

    Raises EdgegenError if a feature is not finite or there are too few images for k directions.
    """
    if features.shape[1:] != (network.dim,):
        raise ReferenceMismatch(
            "E-FID-REF", f"{network.name} gives (n, {network.dim}) features, got {features.shape}"
        )
    if not 0 < k <= network.dim or len(features) < 2 * k:
        raise InputError(
            "E-DATA-TOO-FEW",
            f"{k} directions of {network.dim} need at least {2 * k} images, got {len(features)}",
        )
    whole = Moments.of(features)
    vectors = np.linalg.eigh(whole.cov)[1][:, ::-1][:, :k]
    # a direction and its opposite are equivalent, so fix one
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])
    projection, centre = (vectors * signs).astype(np.float32), whole.mean.astype(np.float32)
    projected = (features - centre) @ projection
    moments = Moments.of(projected)
    return Reference(
        name,
        network.name,
        network.sha256,
        network.size,
        len(features),
        centre,
        np.ascontiguousarray(projection),
        moments.mean,
        moments.cov,
        kurtosis(projected),
    )


def read(path: Path) -> Reference:
    """Read and check a reference file. Raises InputError that names the file and its fault."""
    return parsed(read_bytes(path, LIMIT, "E-FID-REF"), path)


def parsed(data: bytes, path: Path) -> Reference:
    """Check the reference in bytes that were read from `path`. Raises InputError as `read` does."""
    try:
        tensors = load_tensors(data)
        about = json.loads(_metadata(data)["edgegen.reference"])
        reference = _checked(about, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError("E-FID-REF", f"not a usable reference: {error}", path=path) from error
    return reference


def _metadata(data: bytes) -> dict[str, str]:
    # the numpy half of safetensors gives no metadata; it has checked the header already
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata


def _checked(about: JsonObject, tensors: dict[str, np.ndarray]) -> Reference:
    if not is_version(about["version"], VERSION):
        raise ValueError(f"version {about['version']}, this edgegen reads {VERSION}")
    centre, projection, mean, cov = (
        tensors[name] for name in ("centre", "projection", "mean", "cov")
    )
    dim, k = projection.shape
    if len(tensors) != 4 or centre.shape != (dim,) or mean.shape != (k,) or cov.shape != (k, k):
        raise ValueError(
            "shapes do not fit: "
            f"{ {name: tensor.shape for name, tensor in sorted(tensors.items())} }"
        )
    if [t.dtype for t in (centre, projection, mean, cov)] != [
        np.float32,
        np.float32,
        np.float64,
        np.float64,
    ]:
        raise ValueError("tensors are of another type than a reference has")
    if not all(np.isfinite(t).all() for t in tensors.values()) or not np.allclose(cov, cov.T):
        raise ValueError("tensors hold NaN or infinite values, or the covariance is not symmetric")
    words, numbers = (
        (about["name"], about["network"], about["network_sha256"]),
        (about["size"], about["count"]),
    )
    if not all(isinstance(w, str) for w in words) or not all(
        type(n) is int and n > 0 for n in numbers
    ):
        raise ValueError("name, network, sha256, size or count is missing or of another type")
    heavy = about.get("kurtosis")
    if heavy is not None and not (type(heavy) is float and 0 < heavy < math.inf):
        raise ValueError(f"the kurtosis is {heavy!r}")
    return Reference(*words, *numbers, centre, projection, mean, cov, heavy)
