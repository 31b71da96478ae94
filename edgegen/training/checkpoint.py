"""Checkpoints without pickle: safetensors and JSON, whole or absent, and exact.

run/  run.json               family, config, recipe, data fingerprint, seed: what a resume must
                             match
      step-00001200/         networks, average and optimizers as safetensors; state.json:
                             counts and sha256
      latest                 the name of the newest complete step, replaced in one rename
      weights.safetensors    the averaged networks that ship, written when the run ends: what
                             generate and export read
      judge.safetensors      the network a metric loss looks through, if there is one: taught
                             once, never shipped
      metrics.jsonl          a line a step; samples/ and tensorboard/ if they were asked for
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..core.faults import hit
from ..core.files import JsonObject, discard, publish, put, read_json, to_json, write_bytes
from ..core.graph import FamilyConfig, Generator
from ..errors import InputError, TrustError, UsageError
from ..families import family
from .loop import Trainer, averaged
from .update import Optimizer

STATE = "state.json"
KEEP = 2  # checkpoints of a run that stay on disk, unless told
WEIGHTS = "weights.safetensors"
JUDGE = "judge.safetensors"


def save(folder: Path, trainer: Trainer, keep: int = KEEP) -> Path:
    """Write a complete checkpoint, point `latest` at it, keep the newest `keep`."""
    target = folder / f"step-{trainer.step:08d}"
    with publish(target, STATE, overwrite=True) as new:
        tensors = {
            "networks": dict(trainer.generator.networks.state_dict()),
            "average": averaged(trainer),
        }
        for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
            tensors[f"adam-{objective.name}"] = _optimizer_tensors(optimizer)
        digests = {}
        for name, part in tensors.items():
            data = to_bytes(part)
            digests[name] = hashlib.sha256(data).hexdigest()
            put(new / f"{name}.safetensors", data)
        counts = {name: int(average.n_averaged) for name, average in trainer.average.items()}
        state = {
            "step": trainer.step,
            "skipped": trainer.skipped,
            "averaged": counts,
            "sha256": digests,
        }
        put(new / STATE, to_json(state))
    hit("train.checkpoint", target)
    write_bytes(folder / "latest", target.name.encode())
    hit("train.named", target)
    steps = _steps(folder)
    for old in [*steps[steps.index(target) + 1 :], *steps[: steps.index(target) + 1][:-keep]]:
        # newer ones are of a run that was resumed from an older step: `latest` no longer leads
        # there
        discard(old)
    return target


def newest(folder: Path) -> Path | None:
    """The step to resume from: the one `latest` names, else (killed before the first was named) the
    last complete one.
    """
    if not (folder / "latest").exists():
        return next(reversed(_steps(folder)), None)
    name = read_text(folder / "latest")
    if not re.fullmatch(r"step-\d{8}", name):
        raise InputError(
            "E-CHECKPOINT", f"latest names {name!r}, which is no checkpoint", path=folder
        )
    return folder / name


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def resume(folder: Path, trainer: Trainer) -> None:
    """Continue exactly where the newest checkpoint of `folder` stands; the caller has built the
    same generator.

    Raises InputError for a checkpoint that is damaged or does not fit, TrustError for pickle or
    changed bytes.
    """
    step = newest(folder)
    if step is None:
        raise InputError("E-CHECKPOINT", "no checkpoint to resume from", path=folder)
    state = _state(step / STATE, set(trainer.average))
    _fit(trainer.generator.networks, *_part(step, "networks"))
    _fit(trainer.averages, *_part(step, "average"))
    for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
        _load_optimizer(optimizer, *_part(step, f"adam-{objective.name}"))
    for path in step.glob("*.safetensors"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != state["sha256"].get(path.stem):
            raise TrustError("E-HASH", "not the bytes the checkpoint was written with", path=path)
    for name, average in trainer.average.items():
        average.n_averaged.fill_(state["averaged"][name])
    trainer.step, trainer.skipped = state["step"], state["skipped"]


def weights_of(run: Path) -> tuple[dict[str, Tensor], str]:
    """Averaged weights to start another run from, with their sha256: all networks of the newest
    checkpoint, else what shipped.

    InputError for a run that has left neither yet, TrustError for changed bytes.
    """
    step = newest(run)
    path = run / WEIGHTS if step is None else step / "average.safetensors"
    if not path.is_file():
        raise InputError("E-RUN-OPEN", "this run has left no weights yet", path=run)
    tensors, digest = read_weights(path), hashlib.sha256(path.read_bytes()).hexdigest()
    if step is not None and read_json(step / STATE).get("sha256", {}).get("average") != digest:
        raise TrustError("E-HASH", "not the bytes the checkpoint was written with", path=path)
    return tensors, digest


def start_from(networks: nn.ModuleDict, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy weights into the networks they are of; a network without any starts fresh. InputError
    for what does not fit.
    """
    of = {
        name: {k: v for k, v in tensors.items() if k.partition(".")[0] == name} for name in networks
    }
    if wrong := [f"{k} is unknown" for k in tensors if k.partition(".")[0] not in of]:
        raise _misfit(wrong, path)
    for name, mine in of.items():
        if mine:
            _fit(nn.ModuleDict({name: networks[name]}), mine, path)


def _part(step: Path, name: str) -> tuple[dict[str, Tensor], Path]:
    path = step / f"{name}.safetensors"
    return read_weights(path), path


def _state(path: Path, networks: set[str]) -> JsonObject:
    state = read_json(path)
    document: JsonObject = state if isinstance(state, dict) else {}
    if type(document.get("averaged")) is int:
        raise InputError(
            "E-CHECKPOINT",
            "an older edgegen wrote this checkpoint, with one count for all averages",
            path=path,
            hint="start the run anew",
        )
    averaged, digests = document.get("averaged"), document.get("sha256")
    if (
        not isinstance(averaged, dict)
        or averaged.keys() != networks
        or not isinstance(digests, dict)
    ):
        raise InputError(
            "E-CHECKPOINT",
            "not this run's state: it holds a count for the average of each trained network, "
            "and the sha256 of each file",
            path=path,
        )
    if any(
        type(n) is not int or n < 0
        for n in (document.get("step"), document.get("skipped"), *averaged.values())
    ):
        raise InputError(
            "E-CHECKPOINT",
            "not a checkpoint's state: step, skipped and averaged are whole numbers",
            path=path,
        )
    return document


def read_text(path: Path) -> str:
    """The stripped content of a small ASCII file; InputError if it cannot be read."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("E-CHECKPOINT", f"no checkpoint to read: {error}", path=path) from error


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The safetensors file of these tensors; the same tensors give the same bytes."""
    data: bytes = save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()})
    return data


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(params):
            raise _misfit([f"{name} is unknown"], path)
        state.setdefault(int(index), {})[key] = tensor
    for number, entry in state.items():  # a parameter no loss has moved yet has no entry at all
        blank = optimizer.blank(params[number])
        stored = {f"{number}.{key}": tensor for key, tensor in entry.items()}
        if wrong := _differences(
            {f"{number}.{key}": tensor.shape for key, tensor in blank.items()}, stored
        ):
            raise _misfit(wrong, path)
        if wrong := [
            f"{number}.{key} is {entry[key].dtype}, wanted {tensor.dtype}"
            for key, tensor in blank.items()
            if entry[key].dtype != tensor.dtype
        ]:
            raise _misfit(wrong, path)
        # laid out in memory as the parameter is: another layout may round otherwise
        for key, tensor in blank.items():
            entry[key] = tensor.copy_(entry[key])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, all finite. Raises TrustError for pickle, InputError for a
    damaged file.
    """
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
        raise _pickle(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError("E-WEIGHTS", "not a file", path=path)
        data = path.read_bytes()
    except OSError as error:
        raise InputError("E-WEIGHTS", f"cannot be read: {error.strerror}", path=path) from error
    # 0x80 also begins a header of 640 bytes
    if data[8:9] != b"{" and (data[:1] == b"\x80" or data[:4] == b"PK\x03\x04"):
        raise _pickle(path)
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    # the last three: types that torch cannot hold
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError("E-ST-HEADER", f"not a safetensors file: {error}", path=path) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor.float())).sum())):
            raise InputError(
                "E-NONFINITE",
                f"{name}: {bad} of {tensor.numel()} values are NaN or infinite",
                path=path,
            )
    return tensors


def _pickle(path: Path) -> TrustError:
    return TrustError(
        "E-PICKLE",
        "edgegen does not read pickle files",
        path=path,
        hint="convert it to safetensors on a machine you trust",
    )


def load_into(generator: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the networks that ship; InputError lists the first that are missing,
    unknown or of another shape.
    """
    _fit(generator.shipped, tensors, path)


def load_judge(judge: nn.Module, path: Path) -> None:
    """Copy a judge's file into it; errors as load_into."""
    _fit(judge, read_weights(path), path)


def _fit(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    if wrong := _differences({k: v.shape for k, v in own.items()}, tensors):
        raise _misfit(wrong, path)
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})


def _differences(wanted: dict[str, torch.Size], tensors: dict[str, Tensor]) -> list[str]:
    wrong = [f"{k} is missing" for k in wanted.keys() - tensors.keys()]
    wrong += [f"{k} is unknown" for k in tensors.keys() - wanted.keys()]
    wrong += [
        f"{k} is {tuple(tensors[k].shape)}, wanted {tuple(shape)}"
        for k, shape in wanted.items()
        if k in tensors and tensors[k].shape != shape
    ]
    return sorted(wrong)


def _misfit(wrong: list[str], path: Path) -> InputError:
    return InputError(
        "E-KEYS", f"{len(wrong)} tensors do not fit: {'; '.join(wrong[:5])}", path=path
    )


def describe(name: str, config: FamilyConfig) -> JsonObject:
    """The JSON form of a family and its config."""
    return {"family": name, "config": asdict(config)}


def build(description: JsonObject, path: Path) -> Generator:
    """A generator from its JSON form; UsageError names the field that is wrong."""
    name, config = (
        (description.get(k) for k in ("family", "config"))
        if isinstance(description, dict)
        else (None, None)
    )
    if not isinstance(name, str) or not isinstance(config, dict):
        raise UsageError("E-CONFIG", "the description names no family and config", path=path)
    builder = family(name)
    return builder.build(parse(builder.config, config, path))


def parse(kind: type[FamilyConfig], data: object, path: Path) -> FamilyConfig:
    """A config dataclass from its JSON form; UsageError names the field and what is wrong with
    it.
    """
    try:
        return TypeAdapter(kind).validate_json(to_json(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise UsageError("E-CONFIG", f"{where}: {first['msg']}", path=path) from error
