"""Checkpoints without pickle: safetensors and JSON, whole or absent, and exact.

run/  run.json               family, config, recipe, data fingerprint, seed: what a resume must
                             match
      step-00001200/         networks, average and optimizers as safetensors; state.json:
                             counts and sha256, of itself too
      latest                 the name of the newest complete step, replaced in one rename
      weights.safetensors    the averaged networks that ship, written when the run ends: what
                             generate and export read
      judge.safetensors      the network of a metric loss, if there is one: taught once, never
                             shipped
      digests.json           sha256 of the files that a run leaves, see digests.py
      metrics.jsonl          one line per step; samples/ and tensorboard/ if they were requested
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..core.disk import refusals
from ..core.faults import hit
from ..core.files import JsonObject, discard, publish, put, read_json, to_json, write_bytes
from ..core.graph import FamilyConfig, Generator
from ..core.reader import read_bytes, sha256
from ..errors import InputError, NotFetched, TrustError, UsageError
from ..families import family
from .digests import has_had_a_checkpoint, hold
from .fitting import fit, load_optimizer, misfit, optimizer_tensors
from .loop import Trainer, averaged

STATE, METRICS = "state.json", "metrics.jsonl"
DIGEST = "digest"  # entry of a state: sha256 of its other entries
STATE_KEYS = frozenset(("step", "skipped", "averaged", "sha256", "metrics"))
KEEP = 2  # checkpoints of a run that stay on disk, unless told
LARGEST_FILE, LARGEST_TEXT = 16 << 30, 4096  # most bytes of weights, and of `latest`
LARGEST = 1e7  # largest number in a config; sizes, counts and noise levels are far smaller
WEIGHTS = "weights.safetensors"
JUDGE = "judge.safetensors"
Note = Callable[[str], None]


def silent_note(_: str) -> None:
    """Ignore a note."""


def save(folder: Path, trainer: Trainer, keep: int = KEEP) -> Path:
    """Write a complete checkpoint, point `latest` at it, keep the newest `keep`."""
    target = folder / f"step-{trainer.step:08d}"
    with publish(target, STATE, overwrite=True) as new:
        tensors = {
            "networks": dict(trainer.generator.networks.state_dict()),
            "average": averaged(trainer),
        }
        for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
            tensors[f"adam-{objective.name}"] = optimizer_tensors(optimizer)
        digests = {}
        for name, part in tensors.items():
            data = to_bytes(part)
            digests[name] = _sha256(data)
            put(new / f"{name}.safetensors", data)
        counts = {name: int(average.n_averaged) for name, average in trainer.average.items()}
        state = {
            "step": trainer.step,
            "skipped": trainer.skipped,
            "averaged": counts,
            "sha256": digests,
            "metrics": _digest_of(folder / METRICS),
        }
        put(new / STATE, to_json(state | {DIGEST: _sha256(to_json(state))}))
    with refusals(target):
        hit("train.checkpoint", target)
        has_had_a_checkpoint(folder)
        write_bytes(folder / "latest", target.name.encode())
        hit("train.named", target)
    tidy(folder, trainer.step, keep)
    return target


def tidy(folder: Path, step: int, keep: int) -> None:
    """Delete all checkpoints except the newest `keep` up to that step. Later ones are from before
    the run was resumed at an older step.
    """
    older = [path for path in _steps(folder) if path.name <= f"step-{step:08d}"]
    for path in {*_steps(folder)} - {*older[-keep:]}:
        discard(path)


def newest(folder: Path) -> Path | None:
    """Return the checkpoint that `latest` names, or without `latest` (after a kill before the first
    was named) the last complete one, or None. InputError if `latest` is not the name of one.
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


def resume(folder: Path, trainer: Trainer, note: Note = silent_note) -> JsonObject:
    """Load the newest checkpoint of `folder` into the trainer, and return the checkpoint's state.

    The caller has built the same generator. If a checkpoint is damaged, the one before is used and
    a note says so. If none is sound, the newest one's InputError or TrustError is raised;
    InputError if there is none or it does not fit.
    """
    refused: list[tuple[Path, InputError | TrustError]] = []
    for step in _to_try(folder, note):
        try:
            state = _sound(step, trainer)
        except (InputError, TrustError) as error:
            if isinstance(error, NotFetched):  # the user can still fetch this newer checkpoint
                raise
            refused.append((step, error))
            continue
        for bad, why in refused:
            note(
                f"W-CHECKPOINT: {bad.name} cannot be used, the run goes on from {step.name}: "
                f"{why.message} ({why.path})"
            )
        _take(step, state, trainer)
        return state
    if refused:
        raise refused[0][1]
    raise InputError("E-CHECKPOINT", "no checkpoint to resume from", path=folder)


def _to_try(folder: Path, note: Note) -> list[Path]:
    """Return the checkpoint that `latest` names and those before it, newest first; without a
    usable `latest`, all that are complete.
    """
    complete = list(reversed(_steps(folder)))
    try:
        named = newest(folder)
    except InputError as error:
        if not complete:
            raise
        note(f"W-CHECKPOINT: {error.message}: the run goes on from {complete[0].name}")
        return complete
    if named is None:
        return complete
    if named not in complete:
        return [named, *complete]
    if named != complete[0]:
        note(
            f"W-CHECKPOINT: {complete[0].name} is complete, but latest names {named.name}: the run "
            "goes on from there"
        )
    return complete[complete.index(named) :]


def _parts(trainer: Trainer) -> list[str]:
    return ["networks", "average", *(f"adam-{o.name}" for o in trainer.objectives)]


def _sound(step: Path, trainer: Trainer) -> JsonObject:
    """Return a checkpoint's state after checking the hashes of its files. TrustError or InputError
    says what is wrong with one.
    """
    state = _state(step / STATE, set(trainer.average))
    for name in _parts(trainer):
        path = step / f"{name}.safetensors"
        data = _bytes_of(path)
        if _sha256(data) != state["sha256"].get(name):
            _tensors_of(data, path)
            raise TrustError("E-HASH", "not the bytes the checkpoint was written with", path=path)
    return state


def _take(step: Path, state: JsonObject, trainer: Trainer) -> None:
    fit(trainer.generator.networks, *_part(step, "networks"))
    fit(trainer.averages, *_part(step, "average"))
    for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
        load_optimizer(optimizer, *_part(step, f"adam-{objective.name}"))
    for name, average in trainer.average.items():
        average.n_averaged.fill_(state["averaged"][name])
    trainer.step, trainer.skipped = state["step"], state["skipped"]


def weights_of(run: Path) -> tuple[dict[str, Tensor], str]:
    """Return the averaged weights of a run and their sha256, to start another run from them.

    They are those of all networks in the newest checkpoint, or without one those that ship.
    InputError if the run has neither yet, TrustError if the bytes were changed.
    """
    step = newest(run)
    path = run / WEIGHTS if step is None else step / "average.safetensors"
    if not (path.is_file() or path.is_symlink()):
        raise InputError("E-RUN-OPEN", "this run has left no weights yet", path=run)
    hold(run, WEIGHTS)
    tensors, digest = read_weights(path), sha256(path)
    if step is not None and read_json(step / STATE).get("sha256", {}).get("average") != digest:
        raise TrustError("E-HASH", "not the bytes the checkpoint was written with", path=path)
    return tensors, digest


def start_from(networks: nn.ModuleDict, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy weights into the networks that their names begin with; others keep their fresh weights.

    InputError for tensors that do not fit; path: for messages.
    """
    of = {
        name: {k: v for k, v in tensors.items() if k.partition(".")[0] == name} for name in networks
    }
    if wrong := [f"{k} is unknown" for k in tensors if k.partition(".")[0] not in of]:
        raise misfit(wrong, path)
    for name, mine in of.items():
        if mine:
            fit(nn.ModuleDict({name: networks[name]}), mine, path)


def _part(step: Path, name: str) -> tuple[dict[str, Tensor], Path]:
    path = step / f"{name}.safetensors"
    return read_weights(path), path


def _state(path: Path, networks: set[str]) -> JsonObject:
    state = read_json(path)
    document: JsonObject = state if isinstance(state, dict) else {}
    if DIGEST in document and document.pop(DIGEST) != _sha256(to_json(document)):
        raise TrustError("E-HASH", "not the state the checkpoint was written with", path=path)
    if unknown := document.keys() - STATE_KEYS:
        raise InputError("E-CHECKPOINT", f"a checkpoint's state has no {min(unknown)!r}", path=path)
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
    """Read a small ASCII file without surrounding space. InputError if it cannot be read."""
    try:
        return read_bytes(path, LARGEST_TEXT, "E-CHECKPOINT").decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise InputError("E-CHECKPOINT", f"no checkpoint to read: {error}", path=path) from error


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Return the safetensors file of these tensors; the same tensors give the same bytes."""
    data: bytes = save_tensors({k: v.cpu().contiguous() for k, v in tensors.items()})
    return data


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. TrustError for pickle, InputError for a damaged file
    or values that are not finite.
    """
    return _tensors_of(_bytes_of(path), path)


def _bytes_of(path: Path) -> bytes:
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
        raise _pickle(path)
    return read_bytes(path, LARGEST_FILE, "E-WEIGHTS")


def _tensors_of(data: bytes, path: Path) -> dict[str, Tensor]:
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


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(path: Path) -> str | None:
    """Return the sha256 of a file, or None if there is no such file."""
    return sha256(path) if path.is_file() else None


def _pickle(path: Path) -> TrustError:
    return TrustError(
        "E-PICKLE",
        "edgegen does not read pickle files",
        path=path,
        hint="convert it to safetensors on a machine you trust",
    )


def load_into(generator: Generator, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the networks that ship. InputError lists the first that are missing,
    unknown or of another shape.
    """
    fit(generator.shipped, tensors, path)


def load_judge(judge: nn.Module, path: Path) -> None:
    """Load a judge's weights from a file; errors as in `load_into`."""
    fit(judge, read_weights(path), path)


def describe(name: str, config: FamilyConfig) -> JsonObject:
    """Return the JSON form of a family's name and config."""
    return {"family": name, "config": asdict(config)}


def build(description: JsonObject, path: Path) -> Generator:
    """Build a generator from its JSON form. UsageError names the field that is wrong."""
    name, config = (
        (description.get(k) for k in ("family", "config"))
        if isinstance(description, dict)
        else (None, None)
    )
    if not isinstance(name, str) or not isinstance(config, dict):
        raise UsageError("E-CONFIG", "the description names no family and config", path=path)
    builder = family(name)
    parsed = parse(builder.config, config, path)
    try:
        return builder.build(parsed)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            "E-CONFIG", f"no generator can be made of this config: {error}", path=path
        ) from error


def parse(kind: type[FamilyConfig], data: object, path: Path) -> FamilyConfig:
    """Make a config dataclass from its JSON form. UsageError says which field is wrong and why."""
    for name, value in _numbers(data, ""):
        if not abs(value) <= LARGEST:
            raise UsageError(
                "E-CONFIG", f"{name}: no setting is as large as {str(value)[:24]}", path=path
            )
    try:
        return TypeAdapter(kind).validate_json(to_json(data))
    except (ArithmeticError, LookupError, TypeError) as error:
        raise UsageError(
            "E-CONFIG", f"the values do not go together: {error}", path=path
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise UsageError("E-CONFIG", f"{where}: {first['msg']}", path=path) from error


def _numbers(data: object, name: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a config with the names of their fields."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _numbers(value, name)
    elif isinstance(data, int | float):
        yield name, data
