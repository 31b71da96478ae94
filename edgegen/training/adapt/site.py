"""The files that only an adapted run has: its base, the adapter, and what was measured on the
photos.

    run/  base.safetensors      full-precision master: all networks of the base, fitted to the
                                site's classes; never changes
          adapter/              the adapter in PEFT's layout, of the best look or of the end;
                                rejected/ if a gate refused it
          measured.safetensors  buffers that training filled from the photos (dkgm's bank, lcd's
                                scale), of the same moment
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.files import discard
from ...core.graph import FamilyConfig, Generator
from ...core.reader import sha256
from ...errors import InputError, TrustError
from ...families import Family
from .. import checkpoint
from ..digests import hold, keep, replacing
from ..order import mix
from .files import CONFIG, TENSORS, Adapter, check_base

BASE, ADAPTER, REJECTED, MEASURED = (
    "base.safetensors",
    "adapter",
    "rejected",
    "measured.safetensors",
)
RunDescription = Mapping[str, Any]  # the document in run.json, checked where it is read
ADAPTS = "adapt"  # key of run.json that describes the adaptation; other runs hold all their weights
# key of run.json, merged or not: the course of a recovery; INT8 scales are measured on its base
RECOVERS = "recover"


def fitted(
    family: Family,
    config: FamilyConfig,
    tensors: Mapping[str, Tensor],
    classes: int,
    seed: int,
    where: Path,
) -> dict[str, Tensor]:
    """Return all tensors of a generator of `config` that starts from a base with `classes` classes.

    In a tensor with a row or column per class, each class of the site starts as the mean over the
    base's classes. Networks that the base lacks, such as a discriminator that never ships, start
    fresh. InputError for tensors that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 0, "init"))
        generator = family.build(config)
    own = dict(generator.networks.state_dict())
    networks = {name.partition(".")[0] for name in tensors}
    wrong = sorted(
        [f"{name} is unknown" for name in tensors.keys() - own.keys()]
        + [
            f"{name} is missing"
            for name in own
            if name.partition(".")[0] in networks and name not in tensors
        ]
    )
    for name, tensor in tensors.items():
        if name in own:
            tensor_of_classes = _of_classes(tensor, own[name].shape, classes, config.classes)
            if tensor_of_classes is None:
                wrong.append(f"{name} is {tuple(tensor.shape)}, wanted {tuple(own[name].shape)}")
            else:
                own[name] = tensor_of_classes.to(own[name].dtype)
    if wrong:
        raise InputError(
            "E-KEYS", f"{len(wrong)} tensors do not fit: {'; '.join(wrong[:5])}", path=where
        )
    return own


def _of_classes(tensor: Tensor, wanted: torch.Size, before: int, after: int) -> Tensor | None:
    """Return the tensor with `after` classes instead of `before`, itself if it has no class axis,
    or None if it does not fit.
    """
    if tensor.shape == wanted:
        return tensor
    axes = [k for k, (a, b) in enumerate(zip(tensor.shape, wanted, strict=False)) if a != b]
    if (
        tensor.dim() != len(wanted)
        or len(axes) != 1
        or (tensor.shape[axes[0]], wanted[axes[0]]) != (before, after)
    ):
        return None
    return tensor.double().mean(axes[0], keepdim=True).expand(wanted).contiguous().to(tensor.dtype)


def write_base(run: Path, master: Mapping[str, Tensor]) -> str:
    """Write the master's file, and return its sha256."""
    data = checkpoint.to_bytes(dict(master))
    keep(run, {BASE: data})
    return hashlib.sha256(data).hexdigest()


def digest(master: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the file that write_base makes of the master."""
    return hashlib.sha256(checkpoint.to_bytes(dict(master))).hexdigest()


def read_base(run: Path, about: RunDescription) -> dict[str, Tensor]:
    """Read the base of a run. TrustError unless it is the one the run was started on."""
    path = run / BASE
    hold(run, BASE)
    tensors = checkpoint.read_weights(path)
    if sha256(path) != about[ADAPTS].get("base_sha256"):
        raise TrustError("E-HASH", "not the base this run was started on", path=path)
    return tensors


def recovered(run: Path, about: RunDescription) -> dict[str, Tensor]:
    """Read the base of a recovery, merged or not; TrustError as in read_base."""
    return read_base(run, {ADAPTS: about.get(ADAPTS) or about.get("merged", {})})


def write(run: Path, adapter: Adapter, measured: Mapping[str, Tensor]) -> Path:
    """Write the results of an adapted run, and return the folder of the adapter."""
    keep(run, {MEASURED: checkpoint.to_bytes(dict(measured))})
    with replacing(run, {f"{ADAPTER}/{name}": data for name, data in adapter.to_bytes().items()}):
        adapter.write(run / ADAPTER)
    return run / ADAPTER


def reject(run: Path) -> None:
    """Rename the adapter's folder to `rejected`, so that nothing uses it."""
    if (run / REJECTED).is_dir():
        discard(run / REJECTED)
    os.replace(run / ADAPTER, run / REJECTED)


def master(run: Path, about: RunDescription) -> dict[str, Tensor]:
    """Return the base's tensors, updated with what was measured on the photos."""
    base, path = read_base(run, about), run / MEASURED
    hold(run, MEASURED)
    measured = checkpoint.read_weights(path)
    if wrong := [
        name for name in measured if name not in base or base[name].shape != measured[name].shape
    ]:
        raise InputError(
            "E-KEYS", f"{len(wrong)} tensors do not fit: {'; '.join(wrong[:5])}", path=path
        )
    return {**base, **measured}


def read_adapter(run: Path, about: RunDescription) -> Adapter:
    """Read the run's adapter.

    TrustError if it belongs to another base, InputError if the run has none yet or it was rejected.
    """
    folder = run / ADAPTER
    if not folder.is_dir() and (run / REJECTED).is_dir():
        raise InputError(
            "E-RUN-REJECTED",
            "this run's adapter failed its gate",
            path=run,
            hint="read its looks.json; adapt anew",
        )
    if not folder.is_dir():
        raise InputError(
            "E-RUN-OPEN", "this run has not ended yet", path=run, hint="finish it with --resume"
        )
    hold(run, f"{ADAPTER}/{CONFIG}", f"{ADAPTER}/{TENSORS}")
    adapter = Adapter.read(folder)
    check_base(adapter, str(about[ADAPTS].get("base_sha256")), folder)
    return adapter


def merged(run: Path, about: RunDescription) -> dict[str, Tensor]:
    """Return the full-precision tensors of all networks with the adapter merged into them.

    Errors are those of `read_adapter` and `master`.
    """
    adapter = read_adapter(run, about)
    return adapter.merged(master(run, about), run / ADAPTER)


def plain(family: Family, config: FamilyConfig, tensors: Mapping[str, Tensor]) -> Generator:
    """Return a generator with these tensors, in eval mode."""
    generator = family.build(config)
    generator.networks.load_state_dict(dict(tensors))
    generator.networks.eval()
    return generator
