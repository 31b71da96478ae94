"""Files and folders that are whole or absent, even after kill -9.

A folder is published in one rename and a file is written in one replace. The order is always: fsync
the data, fsync the folder, rename, fsync the parent. Anything that another process puts under the
output's name in the meantime is not ours and is not replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import EdgegenError, InputError, ResourceError, UsageError
from .disk import FROM_WRITING, disk_error, refusals, sync
from .faults import hit
from .locks import held, parents_of
from .reader import read_bytes
from .temporary import fresh, private_file, private_folder, sweep

ASIDE = ".edgegen-old-"  # prefix of the old output during a replacement without RENAME_EXCHANGE
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_LITTLE = 1 << 20  # free bytes below which a disk counts as full
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # rename(2) errors if the target is in use


def write_bytes(path: Path, data: bytes, place: Path | None = None) -> None:
    """Write a file in one replace, so that `path` always holds the old or the new file, complete.

    place: folder for the temporary file, on the same file system; by default the file's own.
    """
    folder = place or path.parent
    with refusals(path):
        sweep(folder)
        with private_file(folder) as (temporary, fd):
            hit("write.begun", temporary)
            _write(fd, data, "write.half", temporary)
            os.fsync(fd)
            hit("write.synced", temporary)
            os.replace(temporary, path)
            hit("write.replaced", path)
            sync(path.parent)


def put(path: Path, data: bytes) -> None:
    """Write a file into a private folder, without fsync: publishing the folder syncs it."""
    with refusals(path):
        with open(path, "wb") as file:
            _write(file.fileno(), data, "put.half", path)
        hit("put.written", path)


def put_parts(path: Path, data: Iterable[bytes | memoryview]) -> None:
    """Write a file like `put`, from parts, for a file that is too large for memory."""
    with refusals(path), open(path, "wb") as file:
        for part in data:
            file.write(part)
        hit("put.written", path)


def _write(fd: int, data: bytes, half: str, path: Path) -> None:
    with open(fd, "wb", closefd=False) as file:
        file.write(data[: len(data) // 2])
        file.flush()
        hit(half, path)
        file.write(data[len(data) // 2 :])


# A JSON document. Its values have no narrower type because the code that reads them checks them.
JsonObject = dict[str, Any]
Numerals = Mapping[str, float]
NO_NUMERALS: Numerals = {}


def to_json(data: object) -> bytes:
    """Return `data` as ASCII JSON; the same data always gives the same bytes.

    ValueError for NaN, infinity and too deep nesting.
    """
    try:
        text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return (text + "\n").encode("ascii")


def read_json(path: Path, limit: int = 16 << 20, numbers: Numerals = NO_NUMERALS) -> Any:
    """Read a JSON file of at most `limit` bytes that has no duplicate keys and no NaN.

    numbers: the value for each word that is allowed as a number, such as -Infinity. InputError says
    what is wrong with the file.
    """
    data = read_bytes(path, limit, "E-JSON")
    try:
        return parse_json(data, numbers)
    except ValueError as error:
        raise InputError("E-JSON", f"not usable JSON: {error}", path=path) from error


def parse_json(data: bytes, numbers: Numerals = NO_NUMERALS) -> Any:
    """Parse JSON as `read_json` does, from bytes. ValueError says what is wrong with them."""

    def number(word: str) -> float:
        if word not in numbers:
            raise ValueError(f"{word} is not a number")
        return numbers[word]

    try:
        # UTF-8 only: json would guess UTF-16 and UTF-32 from bytes
        return json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=number, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_version(value: object, known: int) -> bool:
    """Return whether `value` is the integer `known`; true and 1.0 do not count as 1."""
    return type(value) is int and value == known


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


@contextlib.contextmanager
def publish_alone(target: Path, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """Do `publish` under a lock; raise Busy, naming the holder, while another writes `target`."""
    check_target(target, mark, overwrite)
    with held(target), publish(target, mark, overwrite) as folder:
        yield folder


@contextlib.contextmanager
def publish(target: Path, mark: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a private folder beside `target`, which is renamed to `target` when the block ends.

    If the block raises, the folder is deleted. mark: name of the file that shows that edgegen made
    an existing target, so overwrite=True may replace it. UsageError for a target that exists and
    may not be replaced, at the start or at the end of the block; ResourceError if the disk cannot
    be written or the private folder is gone.
    """
    _check_name(target)
    with refusals(target):
        _restore(target)
        _check_existing(target, mark, overwrite)
    with contextlib.ExitStack() as stack:
        with refusals(target):
            stack.enter_context(parents_of(target))
            sweep(target.parent)
            temporary = stack.enter_context(private_folder(target.parent))
            hit("publish.begun", temporary)
        try:
            yield temporary
        except Exception as error:
            if (why := _explained(error, temporary, target)) is not None:
                raise why from error
            raise
        with refusals(target):
            hit("publish.written", temporary)
            _settle(temporary)
            hit("publish.settled", temporary)
            _swap(temporary, target, mark, overwrite)
            try:
                hit("publish.swapped", target)
                sync(target.parent)
                hit("publish.done", target)
            finally:
                _restore(target)  # the new output is in place, so this removes the old one


def _explained(error: Exception, temporary: Path, target: Path) -> ResourceError | None:
    """Return the disk error behind a failure of the block, or None if the disk is not the cause.

    Native writers report a full disk with exceptions of their own.
    """
    if isinstance(error, EdgegenError) and not isinstance(error, ResourceError):
        return None
    if not temporary.is_dir():
        return ResourceError(
            "E-OUT-GONE",
            "the folder was removed while it was being written",
            path=target.parent,
            hint="run it again, and let nothing clean up there",
        )
    if isinstance(error, ResourceError):
        if Path(error.path or "").is_relative_to(temporary):  # this folder is about to disappear
            error.path = str(target / Path(error.path or "").relative_to(temporary))
        return None
    if isinstance(error, OSError) and error.errno in (*FROM_WRITING, errno.EIO):
        return disk_error(error, target)
    if shutil.disk_usage(target.parent).free < _LITTLE:
        return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), target)
    return None


def check_target(target: Path, mark: str, overwrite: bool) -> None:
    """Raise UsageError unless `target` is absent or empty, or made by edgegen and `overwrite`.

    mark: name of the file that shows that edgegen made the folder; "" if no existing folder counts.
    """
    _check_name(target)
    with refusals(target):
        _check_existing(target, mark, overwrite)


def _check_name(target: Path) -> None:
    if target.resolve() in (Path("/"), Path.home().resolve(), Path.cwd().resolve()):
        raise UsageError(
            "E-OUT", "the output folder cannot be /, the home or the working folder", path=target
        )


def _check_existing(target: Path, mark: str, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError("E-OUT-EXISTS", "the output exists and is not a folder", path=target)
    if target.is_dir() and not (_is_empty(target) or (overwrite and _is_ours(target, mark))):
        why = "is not one of edgegen's" if overwrite else "is not empty"
        can_be_replaced = mark and not overwrite
        hint = "choose another, or add --overwrite" if can_be_replaced else "choose another"
        raise UsageError("E-OUT-EXISTS", f"the output folder {why}", path=target, hint=hint)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def _is_ours(folder: Path, mark: str) -> bool:
    return bool(mark) and (folder / mark).is_file() and not (folder / mark).is_symlink()


def _settle(folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:  # contents before their folder
        if not path.is_symlink():
            # Some libraries ignore the umask and write files with mode 0600.
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
            hit("publish.settling", path)
            sync(path)


def _swap(temporary: Path, target: Path, mark: str, overwrite: bool) -> None:
    """Rename the private folder to `target`.

    UsageError if something that may not be replaced has appeared there since; it stays untouched.
    """
    try:
        os.rename(temporary, target)  # onto nothing or an empty folder: anything else is refused
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        _check_existing(target, mark, overwrite)
        if _exchange(temporary, target) != 0:
            _rename_both(temporary, target, mark)
        elif not (_is_ours(temporary, mark) or _is_empty(temporary)):
            _exchange(temporary, target)  # undo: the target changed after it was checked
            raise _appeared(target) from None


def _appeared(target: Path) -> UsageError:
    return UsageError(
        "E-OUT-EXISTS",
        "something else has appeared under this name while it was being made",
        path=target,
        hint="move it away, and run again",
    )


def _exchange(a: Path, b: Path) -> int:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # not Linux, or a C library without it
        return -1
    result: int = call(-100, os.fsencode(a), -100, os.fsencode(b), _EXCHANGE)  # -100 is AT_FDCWD
    return result


def _rename_both(temporary: Path, target: Path, mark: str) -> None:
    """Replace `target` in two renames, for file systems without an atomic exchange.

    A kill between the two leaves the old output whole under another name; the next run puts it
    back.
    """
    aside = target.with_name(ASIDE + target.name)
    os.rename(target, aside)
    try:
        hit("publish.aside", aside)
        if not (_is_ours(aside, mark) or _is_empty(aside)):
            raise _appeared(target)
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise


def _restore(target: Path) -> None:
    """Put back, or remove, what a kill in _rename_both left."""
    aside = target.with_name(ASIDE + target.name)
    if os.path.isdir(aside) and not aside.is_symlink():
        if target.exists():
            shutil.rmtree(aside)
        else:
            os.rename(aside, target)


def discard(folder: Path) -> None:
    """Delete a folder after renaming it, so that a kill never leaves a part under its name."""
    with refusals(folder):
        aside = fresh(folder.parent)
        os.rename(folder, aside)
        hit("discard.renamed", aside)
        shutil.rmtree(aside)
