"""What was understood of a set of photos: one frozen value, and one line that says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...errors import InputError, escaped
from ..photos import Span

Kind = Literal["folder", "zip", "idx", "shards"]
MAX_CLASSES = 1_000
NAMED = 6  # classes, columns or folders in the line; more are counted
IRREGULAR = {"copy": "copies"}  # plurals; of a phrase the first word is the noun


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used: its name relative to the folder, a stable code, one clause that
    says why.
    """

    name: str
    code: str
    reason: str


class Listed(NamedTuple):
    """A photo: its name relative to the set, its class ("" without any), the file that holds it,
    and where in that file it stands, if it is not the whole.
    """

    name: str
    label: str
    file: str
    span: Span | None = None


class LeftOut(NamedTuple):
    """Photos that are none of the set: what they are, whose they are, their names."""

    what: str
    whose: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class FolderDescription:
    """What understand() found at `path`.

    photos: sorted by name; splits: names of folders for train, test and so on, whose photos are
    taken together; how: where the classes come from, as a clause; warnings: code -> names; notes:
    clauses that end the line; question: the error that asks what only the user can know, if
    anything is unclear.
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
        """Their names, sorted."""
        return tuple(sorted({photo.label for photo in self.photos if photo.label}))

    def sentence(self) -> str:
        """The line that every verb says before it reads a photo."""
        said = self._found()
        if self.splits:
            over = joined([f"{name}/" for name in self.splits])
            said += f", over {over}" if len(self.splits) > 1 else f", in {over}"
        if left_out := self._left_out():
            said += f"; {left_out} left out"
        return escaped("; ".join((said, *self.notes)))

    def to_json(self) -> dict[str, Any]:
        """For the documents of --json."""
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
        """Such as "26 thumbnails and 4 deleted photos of a network drive", owner by owner."""
        by: dict[str, list[str]] = {}
        for part in sorted(self.left_out, key=lambda part: -len(part.names)):
            by.setdefault(part.whose, []).append(counted(len(part.names), part.what))
        return ", ".join(
            f"{joined(parts)}{f' {whose}' if whose else ''}" for whose, parts in by.items()
        )


def counted(count: int, noun: str) -> str:
    """ "1 photo", "2 photos", "3 smaller copies"."""
    if count == 1:
        return f"1 {noun}"
    before, _, last = noun.rpartition(" ")
    plural = IRREGULAR.get(last, last + "s")
    return f"{count} {before} {plural}" if before else f"{count} {plural}"


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; of many the first, and how many more."""
    shown = list(words)
    if len(shown) > NAMED:
        shown = [*shown[: NAMED - 1], f"{len(words) - NAMED + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
