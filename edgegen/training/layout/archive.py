"""The members of a zip archive as a tree. Nothing is unpacked: a photo is read from its place, and
decompressed by the process that decodes it.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ...core.reader import opened
from ...errors import InputError, TrustError
from ..magic import HEAD
from ..photos import Span
from .junk import owner_of
from .tree import Tree, TreeEntry, kind_of

START = b"PK\x03\x04"
MOST = 2_000_000  # most members
LOCAL = struct.Struct("<4s5H3L2H")  # a member's own header, which precedes its bytes
LINK = 0o120000  # file type of a link, in the upper half of a member's attributes


def is_zip(path: Path) -> bool:
    """Return whether `path` is a regular file that begins like a zip archive."""
    if not path.is_file():
        return False
    with opened(path, "E-ZIP") as file:
        return file.read(len(START)) == START


def members(path: Path) -> Tree:
    """Read the tree of all files in the archive.

    InputError for a damaged archive, or a member that is encrypted or compressed by another method
    than deflate; TrustError for a link, or a name that leads out of the archive.
    """
    tree = Tree(path)
    with opened(path, "E-ZIP") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise InputError(
                "E-ZIP", f"not a whole zip archive: {error}", path=path, hint="copy it again"
            ) from error
        if len(infos) > MOST:
            raise InputError("E-DATA-LIMIT", f"more than {MOST} members", path=path)
        seen = set[str]()
        for info in infos:
            name = _plain(info, path)
            if info.is_dir():
                if not owner_of(name + "/x"):
                    tree.folders.append(name)
                continue
            if name in seen:
                raise InputError("E-ZIP", f"two members are called {name!r}", path=path)
            seen.add(name)
            _take(info, name, file, tree)
    tree.folders = sorted({*tree.folders, *_folders(seen)})
    tree.entries.sort()
    tree.read = _read
    return tree


def _plain(info: zipfile.ZipInfo, path: Path) -> str:
    plain = PurePosixPath(info.filename)
    foreign = "\\" in info.filename or "\0" in info.filename or not plain.parts
    if foreign or plain.is_absolute() or ".." in plain.parts or plain.parts[0].endswith(":"):
        raise TrustError(
            "E-ZIP-MEMBER", f"member {info.filename[:200]!r} leads out of the archive", path=path
        )
    return str(plain)


def _take(info: zipfile.ZipInfo, name: str, file: BinaryIO, tree: Tree) -> None:
    if (info.external_attr >> 16) & 0o170000 == LINK:
        raise TrustError("E-ZIP-MEMBER", f"member {name[:200]!r} is a link", path=tree.path)
    if info.flag_bits & 1:
        raise InputError("E-ZIP", f"member {name[:200]!r} is encrypted", path=tree.path)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            "E-ZIP",
            f"member {name[:200]!r} is compressed in another way than deflate",
            path=tree.path,
            hint="unpack it, or write the archive anew",
        )
    span = _span(info, name, file, tree.path)
    head = b"" if owner_of(name) else _inflated(file, span, HEAD)
    tree.entries.append(TreeEntry(name, kind_of(name, lambda: head), str(tree.path), span))


def _span(info: zipfile.ZipInfo, name: str, file: BinaryIO, path: Path) -> Span:
    header, size = b"", os.fstat(file.fileno()).st_size
    if 0 <= info.header_offset <= size:  # a directory may say anything
        file.seek(info.header_offset)
        header = file.read(LOCAL.size)
    if len(header) < LOCAL.size or header[:4] != START or info.compress_size > size:
        raise InputError(
            "E-ZIP", f"member {name[:200]!r} is not where the directory says", path=path
        )
    *_, name_length, extra_length = LOCAL.unpack(header)
    offset = info.header_offset + LOCAL.size + name_length + extra_length
    inflated = info.file_size if info.compress_type == zipfile.ZIP_DEFLATED else None
    return Span(offset, info.compress_size, inflated, info.CRC)


def _inflated(file: BinaryIO, span: Span, limit: int) -> bytes:
    """Return up to `limit` decompressed bytes of a member, or b"" if its data is damaged."""
    file.seek(span.offset)
    if span.inflated is None:
        return file.read(min(span.size, limit))
    try:
        # compressed data is at most a little larger than its content
        data = file.read(min(span.size, limit + (limit >> 3) + 256))
        return zlib.decompressobj(-15).decompress(data, limit)
    except zlib.error:
        return b""


def _read(entry: TreeEntry, limit: int, code: str) -> bytes:
    path = Path(entry.file)
    assert entry.span is not None
    if max(entry.span.size, entry.span.inflated or 0) > limit:
        raise InputError(code, f"{entry.name} is larger than {limit} bytes", path=path)
    with opened(path, code) as file:
        data = _inflated(file, entry.span, limit)
    if zlib.crc32(data) != entry.span.crc:
        raise InputError("E-ZIP", f"member {entry.name!r} is damaged", path=path)
    return data


def _folders(names: set[str]) -> set[str]:
    """Return the folders of these members, which need not have an entry of their own."""
    return {
        str(parent)
        for name in names
        if not owner_of(name)
        for parent in PurePosixPath(name).parents
        if parent.parts
    }
