"""What is said of photos where nobody could ask for it by a flag."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_brought import photos

from edgegen.core.progress import silent
from edgegen.training.data import Photos, Report, refuse_bad
from edgegen.training.layout.description import Bad
from edgegen.training.layout.tree import LINK, OUTSIDE
from edgegen.training.layout.understand import understand
from edgegen.workflows.finetune.setup import note_unused_classes
from edgegen.workflows.photo_sets import reference_at


@pytest.mark.parametrize(
    ("of_base", "names", "told"), [(0, 2, True), (10, 2, False), (0, 1, False)]
)
def test_a_base_without_classes_says_that_it_learns_none(
    of_base: int, names: int, told: bool
) -> None:
    base = SimpleNamespace(config=SimpleNamespace(classes=of_base))
    labels = np.arange(4) % names
    set_of = Photos(np.zeros((4, 8, 8, 3), np.uint8), labels, ("chair", "so\x1bfa")[:names])
    notes: list[str] = []
    listen = SimpleNamespace(note=notes.append)
    note_unused_classes(base, set_of, listen)  # type: ignore[arg-type]
    assert [note.partition(":")[0] for note in notes] == ["W-CLASS-UNUSED"] * told
    if told:
        assert "chair, so\\x1bfa; choose a base with classes, or add --no-classes" in notes[0]


@pytest.mark.parametrize(("reason", "flag"), [(LINK, True), (OUTSIDE, False)])
def test_the_flag_is_named_where_it_would_help(reason: str, flag: bool) -> None:
    report = Report(found=1, kept=0, bad=(Bad("a.png", "E-DATA-LINK", reason),))
    with pytest.raises(Exception, match="E-DATA") as raised:
        refuse_bad(report, Path("photos"), "fail")
    assert ("--follow-links" in str(raised.value)) == flag


def test_a_reference_follows_links_inside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    photos(folder, 12)
    (folder / "favourites").mkdir()
    for number in range(6):
        (folder / "favourites" / f"{number}.png").symlink_to(folder / f"{number}.png")
    assert reference_at(folder, "photos", 32, None, silent).count >= 12


def test_the_sentence_names_a_reason_once_however_many_files() -> None:
    links = [Bad(f"{k:04}.png", "E-DATA-LINK", OUTSIDE) for k in range(900)]
    report = Report(found=902, kept=1, bad=(*links, Bad("z.png", "E-IMG-CORRUPT", "it is cut")))
    with pytest.raises(Exception, match="E-DATA-BAD") as raised:
        refuse_bad(report, Path("photos"), "skip")
    said = str(raised.value)
    assert said.startswith(
        f"error[E-DATA-BAD] 901 of 902 photos cannot be used: 0000.png, 0001.png, 0002.png "
        f"and 897 more: E-DATA-LINK {OUTSIDE}; z.png: E-IMG-CORRUPT it is cut (photos)"
    )


def test_links_that_were_asked_for_are_not_said_to_be_unfollowed(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", 9)
    (tmp_path / "away.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "away.png").symlink_to(tmp_path / "away.png")
    asked = understand(folder, follow_links=True).sentence()
    assert "not followed" not in asked
    assert "1 symbolic link to nothing inside left out" in asked
    assert "1 symbolic link not followed" in understand(folder).sentence()
