"""The meaning of folder names: they may be classes, train and test splits, chunks, dates, cameras,
nothing, or ambiguous.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from ...errors import InputError
from .description import LeftOut, counted, joined
from .junk import COMPANIONS

SPLITS = (  # in the order of their roles
    *("train", "training", "trainset", "train_set"),
    *("val", "valid", "validation", "dev"),
    *("test", "testing", "testset", "test_set"),
    *("eval", "evaluation", "holdout"),
)
VEHICLE = "train"  # the name of a split that may also be a class (the vehicle)
WRAPPERS = frozenset(
    ("images", "image", "imgs", "img", "photos", "photo", "pictures", "pics", "jpegimages")
) | {"data", "dataset", "datasets", "archive", "raw", "originals", "dcim"}
CHUNK, CHUNKED = re.compile(r"\d{5}"), re.compile(r"(?:img)?\d{5,9}")
CAMERA = re.compile(r"\d{3}[A-Za-z0-9_]{5}")  # DCF: 100CANON, 101MSDCF
DATE = re.compile(r"(?:19|20)\d\d(?:[-_.]?[01]\d(?:[-_.]?[0-3]\d)?)?(?:[ _-].*)?")
REPEATS = re.compile(r"\d+_(?P<name>.+)")
ONE = {"images lie beside class folders": "image lies beside class folders"}
Photo = tuple[str, str]  # its whole name, and the part of it that is not yet interpreted


@dataclass
class Grouping:
    """The result of `grouped`; labels: class by photo, "" for all if folders are not classes."""

    labels: dict[str, str] = field(default_factory=dict)
    how: str = ""
    splits: tuple[str, ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    forms: list[str] = field(default_factory=list)  # folders of classes in two Unicode forms
    folders: dict[str, str] = field(default_factory=dict)  # a folder of each class
    question: InputError | None = None


def grouped(names: Collection[str], root: Path, own_name: bool = False) -> Grouping:
    """Group photos by the folders in their names.

    own_name: whether a single folder may be the name of the whole set, as in an archive.
    """
    found = Grouping(dict.fromkeys(names, ""))
    _Peeler(root, own_name, found).peel([(name, name) for name in sorted(names)])
    return found


class _Peeler:
    """Removes folders from the names, from the left, until the next ones are classes."""

    def __init__(self, root: Path, own_name: bool, found: Grouping) -> None:
        self.root, self.own_name, self.found = root, own_name, found
        self.wrapped: list[str] = []

    def peel(self, photos: Sequence[Photo]) -> None:
        tops = Counter(rest.partition("/")[0] if "/" in rest else "" for _, rest in photos)
        folders = [top for top in tops if top]
        if not folders:
            self._say_where()
            return
        if tops[""]:
            beside = [name for name, rest in photos if "/" not in rest]
            self._mixed(beside, len(photos) - len(beside), "images lie beside class folders")
            return
        if kept := self._without_companions(photos, folders):
            self.peel(kept)
        elif self._are_splits(folders):
            self._over_splits(photos, folders)
        elif self.found.question is not None:
            return
        elif (number := self._meaningless(photos, folders)) is not None:
            self.found.how = f", in {counted(len(folders), number)}"
        elif len(folders) == 1 and self._opens(photos, folders[0]):
            self.wrapped.append(folders[0])
            self.peel(_inside(photos))
        elif self.found.question is None:
            self._classes(photos)

    def _without_companions(self, photos: Sequence[Photo], folders: list[str]) -> list[Photo]:
        """Return the photos in a folder of images, if only masks and the like are beside it."""
        wrappers = [folder for folder in folders if folder.lower() in WRAPPERS]
        splits = [folder for folder in folders if folder.lower() in SPLITS]
        others = [folder for folder in folders if folder.lower() in COMPANIONS]
        kept = wrappers if len(wrappers) == 1 else splits
        if not others or not kept or len(kept) + len(others) != len(folders):
            return []
        for other in others:
            owner = COMPANIONS[other.lower()]
            names = tuple(name for name, rest in photos if rest.partition("/")[0] == other)
            self.found.left_out.append(LeftOut(owner.what, owner.whose, names))
            for name in names:
                del self.found.labels[name]
        inside = [photo for photo in photos if photo[1].partition("/")[0] in kept]
        if kept is wrappers:
            self.wrapped += wrappers
            return _inside(inside)
        return inside

    def _are_splits(self, folders: list[str]) -> bool:
        """Return whether all are names of splits; ask the user if only some are."""
        splits = [folder for folder in folders if folder.lower() in SPLITS]
        others = [folder for folder in folders if folder not in splits]
        if not splits or self.found.splits:
            return False
        if not others:
            return True
        if [split.lower() for split in splits] != [VEHICLE]:
            self._ask(
                f"{joined(splits)} may be parts of the set, and {joined(others)} classes beside "
                "them"
            )
        return False

    def _over_splits(self, photos: Sequence[Photo], folders: list[str]) -> None:
        self.found.splits = tuple(sorted(folders, key=lambda f: SPLITS.index(f.lower())))
        beside = [(name, rest) for name, rest in photos if rest.count("/") == 1]
        flat = {rest.partition("/")[0] for _, rest in beside}
        deep = {rest.partition("/")[0] for _, rest in photos if rest.count("/") > 1}
        if flat and deep - flat:
            where = joined([f"{folder}/" for folder in sorted(flat)])
            self._mixed(
                [name for name, _ in beside],
                len(photos) - len(beside),
                f"images in {where} have no class beside folders",
                f"name {self.root / min(deep - flat)} to take that alone",
            )
            return
        self.peel(_inside(photos))

    def _meaningless(self, photos: Sequence[Photo], folders: list[str]) -> str | None:
        """Return what the folders are called if they are chunks, cameras or dates, or None."""
        stems = [rest.rpartition("/")[2].partition(".")[0] for _, rest in photos]
        chunked = all(CHUNK.fullmatch(folder) for folder in folders)
        if chunked and all(CHUNKED.fullmatch(stem) for stem in stems):
            return "numbered folder"
        if all(CAMERA.fullmatch(folder) for folder in folders):
            return "camera folder"
        if all(DATE.fullmatch(folder) for folder in folders):
            return "dated folder"
        return None

    def _opens(self, photos: Sequence[Photo], folder: str) -> bool:
        """Return whether the only folder holds the whole set; ask the user if that is unclear."""
        plain = folder.lower()
        inner = {rest.split("/")[1] for _, rest in photos if rest.count("/") > 1}
        if plain in WRAPPERS or plain == self.root.stem.lower() or (self.own_name and inner):
            return True
        if len(inner) > 1 and all(rest.count("/") > 1 for _, rest in photos):
            place = self.root / "/".join([*self.wrapped, folder])
            self._ask(
                f"{folder!r} may be one class, or {joined(sorted(inner))} in it may be classes",
                f"name {place} for those",
            )
        return False

    def _classes(self, photos: Sequence[Photo]) -> None:
        folder_of = {name: rest.partition("/")[0] for name, rest in photos}
        tops = sorted(set(folder_of.values()))
        names: Mapping[str, str] = {top: normalize("NFC", top) for top in tops}
        self.found.forms = [top for top in tops if list(names.values()).count(names[top]) > 1]
        repeats = [REPEATS.fullmatch(name) for name in names.values()]
        if all(repeats):
            names = {top: m["name"] for top, m in zip(tops, repeats, strict=True) if m}
            self.found.notes.append("the numbers before class names are taken for repeats, and off")
        self.found.labels.update({name: names[top] for name, top in folder_of.items()})
        self.found.folders = {names[top]: top for top in tops}
        self._say_where()

    def _say_where(self) -> None:
        if self.wrapped and not self.found.how:
            self.found.how = f", in {'/'.join(self.wrapped)}/"

    def _mixed(self, outside: Sequence[str], inside: int, what: str, more: str = "") -> None:
        self.found.question = InputError(
            "E-DATA-MIXED",
            f"{len(outside)} {what if len(outside) > 1 else ONE.get(what, what)} that hold "
            f"{inside}, such as {min(outside)!r:.80}",
            path=self.root,
            hint=f"{more or 'move them into a class folder'}, or say --no-classes to take all "
            "without classes",
        )

    def _ask(self, what: str, more: str = "name one folder to take that alone") -> None:
        self.found.question = InputError(
            "E-DATA-LAYOUT",
            what,
            path=self.root,
            hint=f"{more}, or say --no-classes to take all without classes",
        )


def _inside(photos: Sequence[Photo]) -> list[Photo]:
    """Return the photos without the first folder in the part to interpret."""
    return [(name, rest.partition("/")[2]) for name, rest in photos]
