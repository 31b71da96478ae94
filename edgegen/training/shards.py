"""The index of tar shards in the WebDataset layout: 000.jpg beside 000.cls (an integer) or 000.json
with a "label".

One pass over the headers finds the place and label of every photo; photos are then read from there,
and nothing is unpacked.
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
LABELS = {".cls": 64, ".json": 64 << 10}  # most bytes by suffix
TAIL = 256  # last bytes of a photo that go into the fingerprint


class Place(NamedTuple):
    """One photo: the number of its shard, the place of its bytes, and the number of its class."""

    shard: int
    offset: int
    size: int
    label: int


@dataclass
class Index:
    """All photos of all shards, in the order of shards (by name) and of bytes.

    It takes about 28 bytes of memory per photo.
    """

    paths: list[Path]
    counts: tuple[int, ...]  # number of photos in each shard
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    labels: np.ndarray  # int64, 0 without classes
    classes: tuple[str, ...]
    digest: str  # sha256 over sizes, labels and the ends of all photos
    stamps: list[tuple[int, int]]  # size and time of each shard, to notice changes
    bad: list[Bad] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.labels)

    def place(self, number: int) -> Place:
        return Place(*(int(a[number]) for a in (self.shard, self.offset, self.size, self.labels)))

    def without_classes(self) -> Index:
        """Return an index of the same photos without classes."""
        return replace(self, labels=self.labels * 0, classes=())

    def unchanged(self) -> None:
        """Raise InputError if a shard has changed since it was indexed, because its places would be
        wrong.
        """
        for path, before in zip(self.paths, self.stamps, strict=True):
            if stamp(path) != before:
                raise InputError(
                    "E-SHARD-CHANGED", "the shard changed while it was in use", path=path
                )


def find(path: Path) -> list[Path]:
    """Return the shards at `path`, a .tar file or a folder of them, by name; [] for anything else.

    InputError for a folder that also holds images.
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
    """Index all shards.

    InputError for a damaged shard or unusable labels, TrustError for a pickle or a member whose
    name or type is not accepted.
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
    """Return a file's size and modification time in ns. InputError if it is gone."""
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
    """Return the pairs (photo, label) of one shard, in the order of the photos' bytes.

    A photo and its label share their name up to the first dot.
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
            # .cls takes precedence over .json
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
    """Yield the members with their last suffix and their key, which is all before the first dot of
    the file's name (WebDataset's rule). TrustError for a pickle.
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
    """Read a label, which is a text or an integer from 0. InputError names the member."""
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
    """Numbers labels as they come. In the end integer labels keep their value, and texts are
    numbered by name.
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
        """Return the final labels and the names of the classes."""
        values = list(self.known)
        if values == [None]:
            return np.zeros(len(numbers), np.int64), ()
        if isinstance(values[0], int):
            classes = tuple(str(k) for k in range(max(int(v or 0) for v in values) + 1))
            return np.array(values, np.int64)[numbers], classes
        classes = tuple(sorted(map(str, values)))
        return np.array([classes.index(str(v)) for v in values], np.int64)[numbers], classes
