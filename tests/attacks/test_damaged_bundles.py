"""A bit that is flipped and a file that is cut: found in whichever file of a bundle, and it is
named.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.attack import TOY
from edgegen.core.bundle import Bundle
from edgegen.core.keys import site_keys
from edgegen.errors import EdgegenError

pytest.importorskip("cryptography", reason="signatures need the extra sign")
Record = Callable[[str, object], None]
FILES = sorted(p.relative_to(TOY).as_posix() for p in TOY.rglob("*") if p.is_file())
CUTS = 16  # places at which each file is cut
FLIPS = 2000


def unfound(damage: Callable[[bytes, int], bytes], count: int, names: list[str], to: Path) -> int:
    """Of so many damages to each file, those that a site with a key did not find by name."""
    keys = site_keys(TOY.with_name("bundle-1-toy.pub.pem"))
    shutil.copytree(TOY, root := to / "bundle")
    missed = 0
    for name in names:
        whole = (root / name).read_bytes()
        for number in range(count):
            (root / name).write_bytes(damage(whole, number))
            try:
                Bundle.open(root, keys)
                missed += 1
            except EdgegenError as error:
                missed += name not in str(error)
        (root / name).write_bytes(whole)
    Bundle.open(root, keys)
    return missed


def cut(whole: bytes, number: int) -> bytes:
    return whole[: len(whole) * number // CUTS]


def flipped(whole: bytes, number: int) -> bytes:
    rng = random.Random(number)
    place = rng.randrange(len(whole))
    return whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]


def test_a_few_of_each(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    names = ["manifest.json", "model.sig", "graphs/phi.onnx"]
    assert unfound(cut, 4, names, tmp_path) == 0
    assert unfound(flipped, 4, names, tmp_path / "f") == 0


@pytest.mark.reliability
def test_cut_everywhere(tmp_path: Path, record_property: Record) -> None:
    missed = unfound(cut, CUTS, FILES, tmp_path)
    record_property("reliability", ("bundle damage", "cut", CUTS * len(FILES), missed))
    assert missed == 0


@pytest.mark.reliability
def test_flipped_everywhere(tmp_path: Path, record_property: Record) -> None:
    each = FLIPS // len(FILES)
    missed = unfound(flipped, each, FILES, tmp_path)
    record_property("reliability", ("bundle damage", "flipped", each * len(FILES), missed))
    assert missed == 0
