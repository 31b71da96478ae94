"""What tar shards hold, in the WebDataset lay-out: 000.jpg beside 000.cls (a whole number) or
000.json with a "label".

One pass over the headers finds every photo's place and label; photos are then read from there, none
is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np

from ..core.reader import opened
from ..errors import InputError, TrustError
from .layout.description import MAX_CLASSES, Bad
from .magic import REFUSED_SUFFIXES, SUFFIXES
from .tar import Member, members

PICKLES = {".pickle", ".pkl", ".pyd", ".pt", ".pth", ".ckpt", ".joblib"}
LABELS = {".cls": 64, ".json": 64 << 10}  # suffix -> most bytes
TAIL = 256  # bytes at a photo's end that go into the fingerprint


class Place(NamedTuple):
    """One photo: its shard's number, where its bytes stand, the number of its class."""

    shard: int
    offset: int
    size: int
    label: int


@dataclass
class Index:
    """Every photo of all shards, in the order of shards (by name) and of bytes; about 28 bytes of
    memory a photo.
    """

    paths: list[Path]
    counts: tuple[int, ...]  # photos of each shard
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    labels: np.ndarray  # int64, 0 without classes
    classes: tuple[str, ...]
    digest: str  # over sizes, labels and the ends of all photos
    stamps: list[tuple[int, int]]  # of each shard: size and time, to see that it stays what it was
    bad: list[Bad] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, number: int) -> Place:
        return Place(*(int(a[number]) for a in (self.shard, self.offset, self.size, self.labels)))

    def without_classes(self) -> Index:
        """The same photos, of no class."""
        return replace(self, labels=self.labels * 0, classes=())

    def unchanged(self) -> None:
        """InputError when a shard is not the file it was when it was indexed: the places would be
        wrong.
        """
        for path, before in zip(self.paths, self.stamps, strict=True):
            if stamp(path) != before:
                raise InputError(
                    "E-SHARD-CHANGED", "the shard changed while it was in use", path=path
                )


def find(path: Path) -> list[Path]:
    """The shards at `path`, a .tar file or a folder of them, by name; none for anything else.
    InputError for a mixed folder.
    """
    if path.suffix.lower() == ".tar" and path.exists() and not path.is_dir():
        return [path.resolve()]
    if not path.is_dir():
        return []
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    shards = [path / name for name in names if name.lower().endswith(".tar")]
    if shards and (
        photos := [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    ):
        raise InputError(
            "E-DATA-MIXED",
            f"{len(photos)} images lie beside {len(shards)} tar shards",
            path=path,
            hint="keep either in a folder of its own",
        )
    return shards


def index(paths: list[Path]) -> Index:
    """Index of all shards. InputError for a shard that is damaged or lacks labels, TrustError for
    one that holds a trap.
    """
    numbers, places, counts = _Labels(), array("q"), list[int]()
    digest = hashlib.sha256()
    bad, ignored, stamps = list[Bad](), Counter[str](), list[tuple[int, int]]()
    for shard, path in enumerate(paths):
        stamps.append(stamp(path))
        samples = _samples(path, bad, ignored)
        with opened(path, "E-SHARD-READ") as file:
            for photo, label in samples:
                number = numbers.of(
                    photo, None if label is None else _label(file, label, path), path
                )
                places.extend((shard, photo.offset, photo.size, number))
                file.seek(photo.offset + max(0, photo.size - TAIL))
                digest.update(photo.size.to_bytes(8, "little") + file.read(min(photo.size, TAIL)))
        counts.append(len(samples))
    if not places:
        raise InputError(
            "E-DATA-EMPTY",
            f"found 0 images in {len(paths)} shards (looked for {' '.join(sorted(SUFFIXES))})",
            path=paths[0].parent,
        )
    table = np.frombuffer(places, np.int64).reshape(-1, 4)
    labels, classes = numbers.settled(table[:, 3])
    digest.update(
        repr((counts, classes)).encode(errors="surrogatepass") + labels.astype("<i8").tobytes()
    )
    return Index(
        paths,
        tuple(counts),
        table[:, 0].astype(np.int32),
        table[:, 1].copy(),
        table[:, 2].copy(),
        labels,
        classes,
        digest.hexdigest(),
        stamps,
        bad,
        ignored,
    )


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; InputError for a file that is gone."""
    try:
        about = path.stat()
    except OSError as error:
        raise InputError(
            "E-SHARD-READ", f"the shard cannot be read: {error.strerror}", path=path
        ) from error
    return about.st_size, about.st_mtime_ns


def _samples(
    path: Path, bad: list[Bad], ignored: Counter[str]
) -> list[tuple[Member, Member | None]]:
    """(photo, label) of one shard by the name they share up to the first dot, in the order of the
    photos' bytes.
    """
    photos, labels, seen = dict[str, Member](), dict[str, Member](), set[str]()
    for member, suffix, key in _parts(path):
        if member.name in seen:
            raise InputError("E-SHARD-MEMBER", f"two members are called {member.name!r}", path=path)
        seen.add(member.name)
        if suffix in SUFFIXES:
            if key in photos:
                raise InputError(
                    "E-SHARD-MEMBER",
                    f"{photos[key].name!r} and {member.name!r} are one sample's photos",
                    path=path,
                )
            photos[key] = member
        elif suffix in LABELS:
            # .cls where there are both
            labels[key] = member if suffix == ".cls" else labels.get(key, member)
        elif suffix in REFUSED_SUFFIXES:
            reason = f"{suffix[1:].upper()} is not accepted; convert to PNG or JPEG"
            bad.append(Bad(f"{path.name}/{member.name}", "E-IMG-FORMAT", reason))
        else:
            ignored[f"{path.name}/*{suffix}"] += 1
    if alone := sum(key not in photos for key in labels):
        ignored[f"{path.name}/labels without a photo"] += alone
    return [
        (photo, labels.get(key))
        for key, photo in sorted(photos.items(), key=lambda pair: pair[1].offset)
    ]


def _parts(path: Path) -> Iterator[tuple[Member, str, str]]:
    """Members with the last suffix, and the key: all before the first dot of the file's name
    (WebDataset's rule).
    """
    for member in members(path):
        folder, _, name = member.name.rpartition("/")
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in PICKLES:
            raise TrustError(
                "E-PICKLE",
                f"member {member.name!r} is a pickle: edgegen does not read pickle files",
                path=path,
                hint="write the shard again with images and .cls or .json labels",
            )
        if not name.startswith("."):
            yield member, suffix, f"{folder}/{name.partition('.')[0]}"


def _label(file: BinaryIO, member: Member, path: Path) -> int | str:
    """A whole number from 0, or a text. InputError names the member."""
    suffix = PurePosixPath(member.name).suffix.lower()
    if member.size > LABELS[suffix]:
        raise _label_error(member, f"has {member.size} bytes, more than {LABELS[suffix]}", path)
    file.seek(member.offset)
    data: bytes = file.read(member.size)
    try:
        if suffix == ".cls":
            value: object = int(data.decode("ascii").strip())
        else:
            row = json.loads(data.decode("utf-8"))
            value = row.get("label") if isinstance(row, dict) else None
    except (ValueError, RecursionError):
        what = "a whole number" if suffix == ".cls" else "JSON"
        raise _label_error(member, f"is not {what}: it starts with {data[:20]!r}", path) from None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise _label_error(
            member, f'needs a "label" that is a text or a whole number, got {value!r:.50}', path
        )
    if isinstance(value, int) and not 0 <= value < MAX_CLASSES:
        raise _label_error(
            member, f"says label {value}, which is not from 0 to {MAX_CLASSES - 1}", path
        )
    return value


def _label_error(member: Member, what: str, path: Path) -> InputError:
    return InputError("E-SHARD-LABEL", f"{member.name!r} {what}", path=path)


class _Labels:
    """Numbers for labels as they come; whole numbers stay what they are, texts are numbered by name
    at the end.
    """

    def __init__(self) -> None:
        self.known: dict[int | str | None, int] = {}

    def of(self, photo: Member, label: int | str | None, path: Path) -> int:
        first = next(iter(self.known), label)
        if type(label) is not type(first):
            kinds = {type(None): "no label", int: "a number", str: "a text"}
            raise InputError(
                "E-SHARD-LABEL",
                f"{photo.name!r} has {kinds[type(label)]}, those before have {kinds[type(first)]}",
                path=path,
            )
        if len(self.known) >= MAX_CLASSES and label not in self.known:
            raise InputError("E-DATA-LIMIT", f"more than {MAX_CLASSES} classes", path=path)
        return self.known.setdefault(label, len(self.known))

    def settled(self, numbers: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        """The final numbers and the classes' names."""
        values = list(self.known)
        if values == [None]:
            return np.zeros(len(numbers), np.int64), ()
        if isinstance(values[0], int):
            classes = tuple(str(k) for k in range(max(int(v or 0) for v in values) + 1))
            return np.array(values, np.int64)[numbers], classes
        classes = tuple(sorted(map(str, values)))
        return np.array([classes.index(str(v)) for v in values], np.int64)[numbers], classes
