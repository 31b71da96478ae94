"""Files that are whole or absent: publish a folder in one rename, write a file in one replace,
survive kill -9.

Order that holds for every artefact: data fsync, folder fsync, rename, parent fsync.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError, ResourceError, UsageError
from .reader import read_bytes

PREFIX = ".edgegen-tmp-"
DAY = 24 * 3600
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes(path: Path, data: bytes, place: Path | None = None) -> None:
    """The file is the old one or the new one, never half of either. place: folder for the half, on
    the same file system.
    """
    temporary = (place or path.parent) / f"{PREFIX}{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


# A JSON document. What is in it is checked where it is read, so its values have no narrower type.
JsonObject = dict[str, Any]


def to_json(data: object) -> bytes:
    """Deterministic, finite, ASCII: the same data gives the same bytes, and NaN raises
    ValueError.
    """
    try:
        text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return (text + "\n").encode("ascii")


def read_json(path: Path, limit: int = 16 << 20) -> Any:
    """A JSON file without duplicate keys or NaN, at most `limit` bytes; InputError says what is
    wrong with it.
    """
    data = read_bytes(path, limit, "E-JSON")
    try:
        return parse_json(data)
    except ValueError as error:
        raise InputError("E-JSON", f"not usable JSON: {error}", path=path) from error


def parse_json(data: bytes) -> Any:
    """The same of bytes. ValueError says what is wrong with them."""
    try:
        # UTF-8 only: json would guess UTF-16 and UTF-32 from bytes
        return json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def disk_error(error: OSError, path: Path) -> ResourceError:
    """The sentence for an operating system's refusal to write, with the free space as a fact."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(path.parent if path.parent.exists() else "/").free
        return ResourceError(
            "E-DISK-FULL", f"cannot write: {error.strerror}; {free / 1e6:.0f} MB free", path=path
        )
    code = "E-DISK-RO" if error.errno == errno.EROFS else "E-DISK"
    return ResourceError(
        code, f"cannot write: {error.strerror or error}", path=path, hint="choose another -o folder"
    )


@contextlib.contextmanager
def publish(target: Path, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """A private folder beside `target` that becomes `target` in one rename when the block ends
    well, else disappears.

    mark: file that shows an existing target is ours to replace (with overwrite=True). Raises
    UsageError for a target that exists and may not be replaced, ResourceError when the disk
    refuses.
    """
    check_target(target, mark, overwrite)
    temporary = target.with_name(f"{PREFIX}{uuid.uuid4().hex}")
    try:
        with _refusals(target, _FULL):
            with _refusals(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                sweep(target.parent)
                temporary.mkdir(mode=0o700)
            yield temporary
            with _refusals(target):
                _settle(temporary)
                _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # can only come from writing


@contextlib.contextmanager
def _refusals(target: Path, only: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn an OSError of the block into the sentence for `target`; with `only`, just these errno:
    others are not about it.
    """
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise disk_error(error, target) from error


def check_target(target: Path, mark: str, overwrite: bool) -> None:
    """UsageError unless `target` is absent, empty, or ours and to be replaced."""
    if target.resolve() in (Path("/"), Path.home().resolve(), Path.cwd().resolve()):
        raise UsageError(
            "E-OUT", "the output folder cannot be /, the home or the working folder", path=target
        )
    with _refusals(target):
        _check_existing(target, mark, overwrite)


def _check_existing(target: Path, mark: str, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError("E-OUT-EXISTS", "the output exists and is not a folder", path=target)
    if target.is_dir() and any(target.iterdir()) and not (overwrite and (target / mark).is_file()):
        why = "is not one of edgegen's" if overwrite else "is not empty"
        hint = "choose another" if overwrite else "choose another, or add --overwrite"
        raise UsageError("E-OUT-EXISTS", f"the output folder {why}", path=target, hint=hint)


def _settle(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:  # what is inside first
        if not path.is_symlink():
            # some libraries write 0600 whatever the umask
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
            sync(path)


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
    elif _exchange(temporary, target) != 0:
        aside = temporary.with_name(temporary.name + "-old")
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync(target.parent)


def _exchange(a: Path, b: Path) -> int:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # not Linux, or a C library without it
        return -1
    result: int = call(-100, os.fsencode(a), -100, os.fsencode(b), _EXCHANGE)  # -100 is AT_FDCWD
    return result


def discard(folder: Path) -> None:
    """Remove a folder of ours: gone under its name in one rename, so that a kill leaves no half of
    it there.
    """
    with _refusals(folder):
        aside = folder.with_name(f"{PREFIX}{uuid.uuid4().hex}")
        folder.rename(aside)
        shutil.rmtree(aside)


def sweep(folder: Path) -> None:
    """Remove what runs killed more than a day ago left in `folder`."""
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
