"""Checkpoints without pickle: safetensors and JSON, whole or absent, and exact.

    run/  run.json               family, config, recipe, data fingerprint, seed: what a resume must match
          step-00001200/         networks, average and optimizers as safetensors, state.json written last
          latest                 the name of the newest complete step, replaced in one rename
          weights.safetensors    the averaged networks, written when the run ends: what generate and export read
          metrics.jsonl
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..core.files import publish, read_json, to_json, write_bytes
from ..core.graph import Generator
from ..errors import InputError, TrustError, UsageError
from ..families import family
from .loop import Trainer, averaged

KEEP = 2  # checkpoints of a run that stay on disk
WEIGHTS = "weights.safetensors"


def save(folder: Path, trainer: Trainer) -> Path:
    """Write a complete checkpoint, point `latest` at it, keep the newest KEEP."""
    target = folder / f"step-{trainer.step:08d}"
    with publish(target, "state.json", overwrite=True) as new:
        tensors = {"networks": dict(trainer.generator.networks.state_dict()), "average": averaged(trainer)}
        for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
            tensors[f"adam-{objective.name}"] = _optimizer_tensors(optimizer)
        for name, part in tensors.items():
            (new / f"{name}.safetensors").write_bytes(save_tensors({k: v.contiguous() for k, v in part.items()}))
        state = {"step": trainer.step, "skipped": trainer.skipped, "averaged": int(trainer.average.n_averaged)}
        (new / "state.json").write_bytes(to_json(state))
    write_bytes(folder / "latest", target.name.encode())
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return target


def resume(folder: Path, trainer: Trainer) -> None:
    """Continue exactly where the newest checkpoint of `folder` stands; the caller has built the same generator."""
    step = folder / read_text(folder / "latest")
    state = read_json(step / "state.json")
    load_into(trainer.generator, read_weights(step / "networks.safetensors"), step / "networks.safetensors")
    with torch.no_grad():
        trainer.average.module.load_state_dict(read_weights(step / "average.safetensors"))
        trainer.average.n_averaged.fill_(state["averaged"])
    for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
        _load_optimizer(optimizer, read_weights(step / f"adam-{objective.name}.safetensors"))
    trainer.step, trainer.skipped = state["step"], state["skipped"]


def read_text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("E-CHECKPOINT", f"no checkpoint to read: {error}", path=path) from error


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    full = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**full, "state": state})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all finite. Raises TrustError for pickle, InputError for a damaged file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("E-WEIGHTS", f"cannot be read: {error.strerror}", path=path) from error
    if data[:2] == b"\x80\x02" or data[:4] == b"PK\x03\x04" or path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
        raise TrustError("E-PICKLE", "edgegen does not read pickle files", path=path,
                         hint="convert it to safetensors on a machine you trust")
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    except SafetensorError as error:
        raise InputError("E-ST-HEADER", f"not a safetensors file: {error}", path=path) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor)).sum())):
            raise InputError("E-NONFINITE", f"{name}: {bad} of {tensor.numel()} values are NaN or infinite", path=path)
    return tensors


def load_into(generator: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the generator's networks; InputError lists the first that are missing, unknown or of another shape."""
    own = generator.networks.state_dict()
    wrong = [f"{k} is missing" for k in own.keys() - tensors.keys()]
    wrong += [f"{k} is unknown" for k in tensors.keys() - own.keys()]
    wrong += [f"{k} is {tuple(tensors[k].shape)}, wanted {tuple(v.shape)}" for k, v in own.items()
              if k in tensors and tensors[k].shape != v.shape]
    if wrong:
        raise InputError("E-KEYS", f"{len(wrong)} tensors do not fit: {'; '.join(sorted(wrong)[:5])}", path=path)
    generator.networks.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})


def describe(name: str, config: Any) -> dict[str, Any]:
    """The JSON form of a family and its config."""
    return {"family": name, "config": asdict(config)}


def build(description: dict[str, Any], path: Path) -> Generator:
    """A generator from its JSON form; UsageError names the field that is wrong."""
    found = family(description["family"])
    return found.build(parse(found.config, description["config"], path))


def parse(kind: type[Any], data: Any, path: Path) -> Any:
    """A config dataclass from its JSON form; UsageError names the field and what is wrong with it."""
    try:
        return TypeAdapter(kind).validate_json(to_json(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise UsageError("E-CONFIG", f"{where}: {first['msg']}", path=path) from error
