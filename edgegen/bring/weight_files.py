"""Read the tensors of a component: one safetensors file, a variant of it, or shards with
an index.

The tensors stay in the files, mapped into memory, in their stored type. Nothing is unpickled: other
formats are refused with a hint that says what converts them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.files import parse_json
from ..errors import InputError, TrustError
from .folder_files import CODE, FolderFiles

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

SUFFIX = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5", ".onnx")
PART = 4 << 20  # bytes that are checked at a time
# number types, and the bits that are all set in a value that is not finite
FLOATS = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
}
# older names, and the current ones
OLD_NAMES = (
    (re.compile(r"\.query\."), ".to_q."),
    (re.compile(r"\.key\."), ".to_k."),
    (re.compile(r"\.value\."), ".to_v."),
    (re.compile(r"\.proj_attn\."), ".to_out.0."),
    (re.compile(r"^text_model\."), ""),
    (re.compile(r"^"), "text_model."),
)
COUNTED = "position_ids"  # a count from 0 that older text encoders stored
WHOLE = (COUNTED, ".alpha")  # tensors that may be whole numbers


def component_tensors(
    files: FolderFiles, folder: str, stem: str, variant: str | None = None
) -> Tensors:
    """Return a component's tensors by the names in the files.

    Raises InputError for a file that is missing, damaged or of another format, for a tensor that is
    in two shards, and for values that are not finite.
    """
    prefix = f"{folder}/" if folder else ""
    found: Tensors = {}
    for name, expected in _weight_files(files, folder, stem, variant).items():
        tensors, _ = read_tensors(files, prefix + name)
        if twice := sorted(found.keys() & tensors.keys()):
            raise InputError(
                CODE, f"the tensor {twice[0]!r} is in two shards", path=files.path(prefix + name)
            )
        if expected is not None and (other := sorted(expected ^ tensors.keys())):
            raise InputError(
                CODE,
                f"the index and this shard disagree about the tensor {other[0]!r}",
                path=files.path(prefix + name),
            )
        found |= tensors
    return found


def _weight_files(
    files: FolderFiles, folder: str, stem: str, variant: str | None
) -> Mapping[str, set[str] | None]:
    """Return the weight files, each with the tensors that an index assigns to it; None without an
    index.
    """
    names = files.names(folder)
    whole, index = f"{stem}{{}}{SUFFIX}", f"{stem}{SUFFIX}.index{{}}.json"

    def there(variant: str | None) -> str | None:
        """Return the file, or the index, of that variant; None if neither exists."""
        dotted = f".{variant}" if variant else ""
        return next((n for n in (whole.format(dotted), index.format(dotted)) if n in names), None)

    if variant is None and there(None) is None:
        pattern = re.compile(rf"{re.escape(stem)}(?:{re.escape(SUFFIX)}\.index)?\.([a-z0-9]+)\.")
        others = {match[1] for name in names if (match := pattern.match(name))}
        known = sorted(other for other in others if there(other))
        variant = known[0] if len(known) == 1 else None  # take the only variant that exists
    found = there(variant)
    if found is not None:
        return {found: None} if found.endswith(SUFFIX) else _shards(files, folder, found, names)
    raise _no_weights(files, folder, stem, variant, names)


def _shards(
    files: FolderFiles, folder: str, index: str, names: list[str]
) -> Mapping[str, set[str] | None]:
    name = f"{folder}/{index}" if folder else index
    placed = files.json(name).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
        raise InputError(CODE, "the index has no weight_map", path=files.path(name))
    found: dict[str, set[str] | None] = {}
    for tensor, shard in sorted(placed.items()):
        if "/" in shard or "\\" in shard or shard.startswith("."):
            raise TrustError(
                CODE, f"the shard {shard!r} would lie outside its folder", path=files.path(name)
            )
        if shard not in names:
            raise InputError(CODE, f"the shard {shard!r} is missing", path=files.path(name))
        tensors = found.setdefault(shard, set())
        if tensors is not None:
            tensors.add(tensor)
    return found


def _no_weights(
    files: FolderFiles, folder: str, stem: str, variant: str | None, names: list[str]
) -> InputError:
    others = [name for name in names if name.endswith(PICKLES)]
    if others:
        return InputError(
            CODE,
            f"{others[0]} is not read: only safetensors files hold nothing but numbers",
            path=files.path(folder),
            hint="where you trust it, load it with diffusers and save_pretrained(NEW_FOLDER, "
            "safe_serialization=True)",
        )
    wanted = f"{stem}.{variant}{SUFFIX}" if variant else f"{stem}{SUFFIX}"
    return InputError(CODE, f"{wanted} is missing", path=files.path(folder))


def read_tensors(files: FolderFiles, name: str) -> tuple[Tensors, dict[str, str]]:
    """Return tensors and metadata of one file.

    Raises InputError for a damaged file, and for values that are not finite numbers.
    """
    from safetensors import SafetensorError, safe_open

    path = files.path(name)
    with files.opened(name) as held:
        try:
            with safe_open(f"/proc/self/fd/{held}", framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            _check_numbers(held, path)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(CODE, f"not a safetensors file: {error}", path=path) from error
    return tensors, metadata


def _check_numbers(held: int, path: Path) -> None:
    """Raise InputError for a tensor of another type or with a number that is not finite.

    Raises ValueError for a header that is not valid JSON, such as one with a name twice. The file
    is read in parts, so that its mapped tensors take no memory yet.
    """
    size = int.from_bytes(os.pread(held, 8, 0), "little")
    header = parse_json(os.pread(held, size, 8))
    for key, entry in header.items():
        if key == "__metadata__" or key.endswith(WHOLE):
            continue
        if entry["dtype"] not in FLOATS:
            raise InputError(CODE, f"the tensor {key!r} is {entry['dtype']}, not float", path=path)
        kind, mask = FLOATS[entry["dtype"]]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        for start in range(begin, end, PART):
            bits = np.frombuffer(os.pread(held, min(PART, end - start), start), kind)
            if ((bits & kind(mask)) == mask).any():
                raise InputError(
                    CODE, f"the tensor {key!r} holds NaN or infinite values", path=path
                )


def fitted(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], where: object) -> Tensors:
    """Return the tensors by the names of a module whose tensors have these shapes.

    Raises InputError, which names the tensor, for one that is missing, unknown or of another shape.
    """
    found: Tensors = {}
    for key, tensor in tensors.items():
        if key.endswith(COUNTED):
            continue
        name = next((n for n in _candidates(key) if n in wanted), None)
        if name is None or name in found:
            raise InputError(
                CODE, f"the weights hold {key!r}, which the config knows nothing of", path=where
            )
        if tuple(tensor.shape) != wanted[name]:
            raise InputError(
                CODE,
                f"{key!r} is {tuple(tensor.shape)} in the weights and {wanted[name]} by the config",
                path=where,
            )
        found[name] = tensor
    if missing := sorted(wanted.keys() - found.keys()):
        raise InputError(CODE, f"the weights lack {missing[0]!r}", path=where)
    return found


def _candidates(key: str) -> Iterable[str]:
    yield key
    for pattern, now in OLD_NAMES:
        yield pattern.sub(now, key, count=1)
