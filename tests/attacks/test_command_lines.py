"""Command lines that nobody means: one sentence, the exit code of its class, nothing written, no
hang. Every list is a class: a name, a number or a text of its kind, given where that kind is read.

The suite takes the first values of each class; `make reliability` takes all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.cli.main import run

TOY = Path(__file__).parents[1] / "golden" / "bundle-1-toy"
LONG = "x" * 5000
Line = tuple[str, ...]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with one of everything; each case leaves it as it was."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "photos").mkdir()
    for k in range(12):
        pixels = np.random.default_rng(k).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{k}.png")
    shutil.copytree(TOY, folder / "b")
    (folder / "dir").mkdir()
    (folder / "dir" / "mine").write_text("mine")
    (folder / "file").write_text("x")
    (folder / "bad.json").write_text('{"a":')
    os.mkfifo(folder / "pipe")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def each(line: str, *values: str) -> list[Line]:
    """The command line with each of the values in place of its %."""
    return [tuple(value if part == "%" else part for part in line.split()) for value in values]


COUNTS = ("9999999999", "-1", "1e3", "", "nan", "0x10", "99999999999999999999")
SHARES = ("nan", "0", "1.5", "-1", "inf", "", "true")
NOWHERE = ("", "nul\0x", LONG, "file", "dir", "..", "cas-dn", "\udcff", "bad.json")
USAGE: list[Line] = [
    *each("generate b -o o --threads %", *COUNTS, "0"),
    *each("generate b -o o -n %", "0", *COUNTS),
    *each("generate b -o o --seed %", "-1", "99999999999999999999", "nan"),
    *each("generate b -o o -n 2 --seed %", "9223372036854775807"),
    *each("generate b -o o -n 1 --label %", "99", "-1", "1e1"),
    *each("generate cas-dm -o o -n 1 --steps %", "0", "-1", "99999999999"),
    *each("generate b -o o --runtime %", "nope", "", "../x", LONG),
    *each("generate b -o o --precision %", "int4", ""),
    *each("bench b --threads %", *COUNTS),
    *each("bench b --rounds %", "1", "99999999999"),
    *each("calibrate cas-dm -o o --samples %", "7", *COUNTS),
    *each("export cas-dm --int8 -o o --fid-budget %", "nan", "-1", "0", "101%", "", "%", "1e-400"),
    *each("export cas-dm --int8 -o o --min-psnr %", "nan", "inf", "-1", "1e400"),
    *each("export cas-dm --int8 -o o --max-images %", "1", *COUNTS),
    *each("export cas-dm --int8 -o o --runtime %", "", ",", "onnxruntime,", "../x", "reference"),
    *each(
        "finetune cas-dm o --data photos --rate %",
        *(s for s in SHARES if s != "1.5"),
        "1e9",
        "1e-400",
    ),
    *each("finetune cas-dm o --data photos --held-out %", *SHARES, "1"),
    *each("finetune cas-dm o --data photos --time %", "-1h", "nanh", "infh", "h", "9" * 400 + "h"),
    *each("photos check photos --held-out %", *SHARES),
    *each("photos check photos --size %", "0", *COUNTS),
    *each("photos check photos --background %", "nocolour", "#12", "", "\0"),
    *each("photos check photos --contact-sheet %", "file", "photos/x.png", "no/x.png", "dir"),
    *each("train cas-dm o --data photos --device %", "gpu", "", "cuda:99", "mps"),
    *each("train cas-dm o --data photos --recipe %", "nope", ""),
    *each("estimate cas-dm --set %", "a=1", "=", "size", "size=1e999", "size=NaN", "size=true"),
    *each("estimate cas-dm --set %", "size=-8", "size=99999999", "theta.widths=[]"),
    *each("estimate cas-dm --set %", "size=" + "[" * 100_000, "\0=1", "theta.widths=[1e9]"),
    *each("explain cas-dm -o o --regions %", "0x0", "99999x99999", "x", "-1x3", "3x3x3", ""),
    *each("explain cas-dm -o o --step %", "0", "-1", "10001"),
    *each("generate b -n 1 -o %", "", "/", ".", "..", "file", "dir", "nul\0x", "x.jpg", "x.TIFF"),
    *each("generate b -n 1 -o %", "nowhere/x", "pipe", "/dev/null"),
    *each("calibrate cas-dm --data no -o %", "", "/", ".", "file", "dir", "nul\0x", "pipe"),
    *each("generate % -o o -n 1", *(name for name in NOWHERE if name not in ("", "..", LONG))),
    *each("merge % o", *(name for name in NOWHERE if name != LONG)),
    *each("train cas-dm o --data photos --init %", *(n for n in NOWHERE if n != LONG)),
    *each("errors %", "nope", "E-NOPE", ""),
    ("nope",),
    ("generate",),
    ("generate", "b", "-o"),
    ("generate", "b", "-o", "o", "--nope"),
    ("generate", "b", "c", "-o", "o"),
    ("train", "nope", "o", "--data", "photos"),
    ("train", "cas-dm", "--data", "photos"),
    ("train", "cas-dm", "dir", "--data", "photos", "--images", "8", "--batch", "8"),
    ("plan", "show", "b", "--runtime", "nope"),
    ("compare",),
    (),
]
DATA: list[Line] = [
    *each("photos check %", *(name for name in NOWHERE if name not in ("..", LONG)), "pipe", LONG),
    *each("plan show %", *(name for name in NOWHERE if name not in ("..", "dir"))),
    *each("generate % -o o -n 1", LONG),
    *each("recover cas-dm o --plan %", *NOWHERE),
    *each("export cas-dm --int8 -o o --plan %", "nul\0x", "file", "dir", "bad.json"),
    *each("generate b -o o --public-key %", "nul\0x", "file", "bad.json"),
]
RESOURCES: list[Line] = [
    *each("generate b -n 1 -o %", LONG, "a/" + LONG, "file/x", "/proc/x/y"),
    *each("calibrate cas-dm --data no -o %", LONG),
]


# export and explain look at the model before these, which takes seconds
DEAR = ("export cas-dm --int8 -o o --plan", "explain cas-dm", "calibrate cas-dm --data")


def firsts(lines: list[Line]) -> set[Line]:
    """The first line of each class: of those that differ in one word only, or in their last."""
    seen: dict[tuple[str, ...], Line] = {}
    for line in lines:
        if not " ".join(line).startswith(DEAR):
            seen.setdefault(line[:-1] if len(line) > 2 else line, line)
    return set(seen.values())


def words(line: Line) -> str:
    return " ".join(part[:20] for part in line).encode("unicode_escape").decode() or "(nothing)"


CASES = [
    pytest.param(
        line,
        codes,
        id=words(line),
        marks=() if line in firsts(lines) else pytest.mark.reliability,
    )
    for lines, codes in ((USAGE, (2,)), (DATA, (2, 4)), (RESOURCES, (2, 7)))
    for line in lines
]


@pytest.mark.parametrize(("line", "codes"), CASES)
def test_a_line_that_nobody_means(
    line: Line, codes: tuple[int, ...], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    assert run(list(line)) in codes
    said = capfd.readouterr().err
    if line:
        assert said.startswith("error[E-") and len(said.splitlines()) == 1, said
        assert len(said) < 10_000 and "Traceback" not in said and "E-BUG" not in said
    assert sorted(place.rglob("*")) == before


def test_there_are_enough_of_them() -> None:
    assert len(CASES) > 200
    assert sum(not case.marks for case in CASES) > 50
