"""A reader that finds the regular files of a tar archive by name and offset, header by header
(POSIX.1-2001 pax, GNU and old headers). Nothing is extracted.

The standard library's reader is not used, because it reads extension headers of any size into
memory, and accepts an archive that was cut off between two members.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..core.reader import refuse_pointer
from ..errors import InputError, TrustError

BLOCK = 512
MAX_EXTENSION = 64 << 10  # most bytes of a pax header
MAX_NAME = 4096
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class Member:
    """One regular file: its plain relative name, and the place of its bytes."""

    name: str
    offset: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Yield all regular files in order; directories are skipped.

    InputError for anything but a complete, uncompressed tar file, TrustError for a name that leads
    out of the archive, a link or a device.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(
                "E-DATA-LINK", "the shard is a symbolic link; put the shard itself there", path=path
            ) from error
        raise InputError(
            "E-SHARD-READ", f"the shard cannot be opened: {error.strerror}", path=path
        ) from error
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise InputError("E-SHARD-READ", "the shard is not a regular file", path=path)
        refuse_pointer(fd, path)
        yield from _Reader(path, fd, about.st_size).members()
    except OSError as error:
        raise InputError(
            "E-SHARD-READ", f"the shard cannot be read: {error.strerror}", path=path
        ) from error
    finally:
        os.close(fd)


class _Reader:
    def __init__(self, path: Path, fd: int, end: int) -> None:
        self.path, self.fd, self.end = path, fd, end

    def members(self) -> Iterator[Member]:
        at, pax, long = 0, dict[str, str](), ""
        while True:
            block = self._take(at, BLOCK, "a header")
            if not any(block):
                return self._end(at)
            kind, size, name = self._header(block, at)
            size = _whole(pax.get("size"), size)
            data, next_at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
            if kind in (b"x", b"g", b"L"):
                extension = self._extension(kind, data, size)
                if kind == b"L":
                    long = _text(extension.split(b"\0")[0])
                elif records := self._records(extension, kind):
                    pax = records
            else:
                name = pax.get("path") or long or name
                if self._regular(kind, name, pax):
                    if data + size > self.end:
                        raise self._truncated(f"inside {name!r}")
                    yield Member(str(PurePosixPath(name)), data, size)
                pax, long = {}, ""
            at = next_at

    def _take(self, at: int, count: int, what: str) -> bytes:
        data = os.pread(self.fd, count, at)
        if len(data) < count:
            raise self._truncated(f"where {what} should be, at byte {at}")
        return data

    def _truncated(self, where: str) -> InputError:
        return InputError(
            "E-SHARD-TRUNCATED",
            f"the shard ends {where}: it was cut off",
            path=self.path,
            hint="copy it again",
        )

    def _header(self, block: bytes, at: int) -> tuple[bytes, int, str]:
        """Return the type, size and name in a header. InputError for a damaged one."""
        total, size = _number(block[148:156]), _number(block[124:136])
        if total is None or size is None or sum(block) - sum(block[148:156]) + 8 * 32 != total:
            for start, name in COMPRESSED.items():
                if at == 0 and block.startswith(start):
                    raise InputError(
                        "E-SHARD-COMPRESSED",
                        f"the shard is compressed with {name}",
                        path=self.path,
                        hint="decompress it: photos are compressed already, and a plain tar can be "
                        "read anywhere",
                    )
            raise InputError("E-SHARD-HEADER", f"no tar header at byte {at}", path=self.path)
        name = _text(block[:100].split(b"\0")[0])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500].split(b"\0")[0])):
            name = f"{prefix}/{name}"
        return block[156:157], size, name

    def _extension(self, kind: bytes, at: int, size: int) -> bytes:
        if size > (MAX_NAME + 1 if kind == b"L" else MAX_EXTENSION):
            raise TrustError(
                "E-SHARD-MEMBER",
                f"an extension header of {size} bytes is more than any name needs",
                path=self.path,
            )
        return self._take(at, size, "an extension header")

    def _records(self, data: bytes, kind: bytes) -> dict[str, str]:
        """Return path and size from records "<length> <key>=<value>\\n"; in a global header they
        are refused with TrustError.
        """
        records = {}
        while data.strip(b"\0"):
            length, _, _ = data.partition(b" ")
            count = int(length) if re.fullmatch(rb"[0-9]{1,5}", length) else 0
            record, data = data[:count], data[count:]
            key, equals, value = (
                record.removeprefix(length + b" ").removesuffix(b"\n").partition(b"=")
            )
            if not count or not equals:
                raise InputError("E-SHARD-HEADER", "a damaged pax header", path=self.path)
            if key.startswith(b"GNU.sparse") or (kind == b"g" and key in (b"path", b"size")):
                raise TrustError(
                    "E-SHARD-MEMBER", f"pax header {_text(key)!r} is not accepted", path=self.path
                )
            if key in (b"path", b"size"):
                records[key.decode()] = _text(value)
        if "size" in records and not re.fullmatch(r"[0-9]{1,18}", records["size"]):
            raise InputError(
                "E-SHARD-HEADER", f"a pax header with size {records['size']!r}", path=self.path
            )
        return records

    def _regular(self, kind: bytes, name: str, pax: dict[str, str]) -> bool:
        """Return whether the member is a file. TrustError for a name or type not accepted."""
        plain = PurePosixPath(name)
        foreign = (
            "\\" in name
            or "\0" in name
            or len(name) > MAX_NAME
            or (plain.parts and plain.parts[0].endswith(":"))
        )
        if foreign or plain.is_absolute() or ".." in plain.parts:
            raise TrustError(
                "E-SHARD-MEMBER", f"member {name[:200]!r} leads out of the archive", path=self.path
            )
        if kind == b"5" or (kind == b"\0" and name.endswith("/")):
            return False
        if kind not in (b"0", b"\0", b"7"):
            what = REFUSED.get(kind, f"of type {kind!r}")
            raise TrustError(
                "E-SHARD-MEMBER",
                f"member {name[:200]!r} is {what}; only files are accepted",
                path=self.path,
            )
        return bool(plain.parts)

    def _end(self, at: int) -> None:
        """Raise InputError unless only zeros follow the end mark, because only the first of joined
        archives would be read.
        """
        while data := os.pread(self.fd, 1 << 20, at):
            if data.strip(b"\0"):
                raise InputError(
                    "E-SHARD-JOINED",
                    f"data follows the archive's end at byte {at}",
                    path=self.path,
                    hint="archives that were joined with cat: keep them as files of their own",
                )
            at += len(data)


def name_at(path: Path, offset: int) -> str:
    """Return the name of the member whose bytes begin at `offset`."""
    return next(member.name for member in members(path) if member.offset == offset)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _whole(text: str | None, other: int) -> int:
    return other if text is None else int(text)


def _number(field: bytes) -> int | None:
    """Read a number in octal digits, or in base 256 (GNU, large numbers); None for others."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0")[0].strip(b" ")
    return int(text or b"0", 8) if re.fullmatch(rb"[0-7]*", text) else None
