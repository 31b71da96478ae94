"""The description of a set of photos, as a frozen value and as one line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...errors import InputError, escaped
from ..photos import Span

Kind = Literal["folder", "zip", "idx", "shards"]
MAX_CLASSES = 1_000
NAMED = 6  # classes, columns or folders that the line names; more are counted
IRREGULAR = {"copy": "copies"}  # irregular plurals


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used: its name relative to the set, a stable code, and the reason."""

    name: str
    code: str
    reason: str


class Listed(NamedTuple):
    """A photo: its name relative to the set, its class ("" for none), the file that holds it, and
    its place in that file, if it is not the whole file.
    """

    name: str
    label: str
    file: str
    span: Span | None = None


class LeftOut(NamedTuple):
    """Photos that are not part of the set: what they are, whose they are, and their names."""

    what: str
    whose: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class FolderDescription:
    """What understand() found at `path`.

    photos: sorted by name; splits: names of folders such as train and test, whose photos are used
    together; how: a clause that says where the classes come from; warnings: names by code; notes:
    clauses at the end of the line; question: the error that asks the user, if anything is unclear.
    """

    path: Path
    kind: Kind
    photos: tuple[Listed, ...] = ()
    how: str = ""
    splits: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    bad: tuple[Bad, ...] = ()
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    question: InputError | None = field(default=None, compare=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({photo.label for photo in self.photos if photo.label}))

    def sentence(self) -> str:
        """Return the line that every command reports before it reads a photo."""
        said = self._found()
        if self.splits:
            over = joined([f"{name}/" for name in self.splits])
            said += f", over {over}" if len(self.splits) > 1 else f", in {over}"
        if left_out := self._left_out():
            said += f"; {left_out} left out"
        return escaped("; ".join((said, *self.notes)))

    def to_json(self) -> dict[str, Any]:
        """Return the description for the documents of --json."""
        return {
            "sentence": self.sentence(),
            "kind": self.kind,
            "classes": list(self.classes),
            "splits": list(self.splits),
            "left_out": [part._asdict() for part in self.left_out],
        }

    def _found(self) -> str:
        if self.kind in ("idx", "shards"):
            return self.how
        count, names = counted(len(self.photos), "photo"), self.classes
        if not names:
            return f"{count} without classes{self.how}"
        kinds = f"{len(names)} class{'es' if len(names) > 1 else ''}"
        return f"{kinds}, {joined(names)}{self.how}"

    def _left_out(self) -> str:
        """Return a phrase such as "26 thumbnails and 4 deleted photos of a network drive"."""
        by: dict[str, list[str]] = {}
        for part in sorted(self.left_out, key=lambda part: -len(part.names)):
            by.setdefault(part.whose, []).append(counted(len(part.names), part.what))
        return ", ".join(
            f"{joined(parts)}{f' {whose}' if whose else ''}" for whose, parts in by.items()
        )


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 photo", "2 photos", "3 smaller copies"."""
    if count == 1:
        return f"1 {noun}"
    before, _, last = noun.rpartition(" ")
    plural = IRREGULAR.get(last, last + "s")
    return f"{count} {before} {plural}" if before else f"{count} {plural}"


def joined(words: Sequence[str]) -> str:
    """Join words as "a", "a and b" or "a, b and c"; of many, the first and the number of others."""
    shown = list(words)
    if len(shown) > NAMED:
        shown = [*shown[: NAMED - 1], f"{len(words) - NAMED + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
