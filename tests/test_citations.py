"""Citations resolve: what code, tests and documents name of docs/ and of the repository is there,
and a section such as C.2.9 is a heading of the page that the citing file names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = "docs/methods"
PAGES = {
    "A": "isc-gan.md",
    "B": "regional-primitives.md",
    "C": "cas-dm.md",
    "D": "dkgm.md",
    "E": "latent-consistency.md",
}
EXAMPLE = "edgegen/cli/flip.py"  # the verb that edgegen/cli/main.py shows how to write
FOLDERS = ("edgegen", "export", "calibrate", "tests", "benchmarks", "scripts")
SECTION = re.compile(r"(?<![\w.\"'/-])([A-E])(\.\d+(?:\.\d+)*)(?![\w\"'])")
HEADING = re.compile(r"^#+ ([A-E]\.\d+(?:\.\d+)*) ", re.MULTILINE)
DOCUMENT = re.compile(r"(?<![\w/])docs/[\w./-]*\w")
SOURCE = re.compile(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w/]+\.py\b")
# what once stood for pages that are not in this repository
STALE = re.compile(
    r"\b[Ss]pec(?:'s)?\s+[A-G](?![a-z])|\bDESIGN\s+\d|\breliability\.md|\b[AB][1-4]\.\d\b|"
    r"\bthe\s+specifications?\b|\bthe\s+spec(?:'s)?\s+(?!of)"
)


def python_files() -> list[Path]:
    """Every .py file once, links not followed."""
    return sorted(
        Path(top, name)
        for place in FOLDERS
        for top, _, names in os.walk(ROOT / place)
        for name in names
        if name.endswith(".py") and Path(top, name) != Path(__file__)
    )


def documents() -> list[Path]:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return sorted([*pages, *(ROOT / "docs").rglob("*.md")])


def headings() -> dict[str, set[str]]:
    return {
        page: set(HEADING.findall((ROOT / METHODS / page).read_text())) for page in PAGES.values()
    }


def prose(path: Path) -> str:
    """A Python file's text, or a document's without its blocks of code."""
    text = path.read_text()
    return (
        text
        if path.suffix == ".py"
        else re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def problems(text: str, own: str | None, known: dict[str, set[str]]) -> Iterator[str]:
    """What in a text leads nowhere; own: the page of methods that it is, if any."""
    for name in DOCUMENT.findall(text):
        if not (ROOT / name).exists():
            yield f"{name} does not exist"
    for name in SOURCE.findall(text):
        if name != EXAMPLE and not (ROOT / name).is_file():
            yield f"{name} does not exist"
    for letter, number in SECTION.findall(text):
        page = PAGES[letter]
        if letter + number not in known[page]:
            yield f"{letter}{number} is no section of {METHODS}/{page}"
        if page != own and f"methods/{page}" not in text and f"({page})" not in text:
            yield f"{letter}{number} without naming {METHODS}/{page}"
    yield from (f"{found[0]!r} names no page" for found in STALE.finditer(text))


def test_every_citation_resolves() -> None:
    known, cited, wrong = headings(), 0, []
    for path in [*python_files(), *documents()]:
        text = prose(path)
        own = path.name if path.parent == ROOT / METHODS else None
        cited += len(SECTION.findall(text)) if own is None else 0
        name = path.relative_to(ROOT)
        wrong += [f"{name}: {problem}" for problem in problems(text, own, known)]
    assert wrong == []
    assert cited > 80


def test_each_page_has_sections_of_its_letter_only() -> None:
    for letter, page in PAGES.items():
        labels = headings()[page]
        assert labels and all(label.startswith(f"{letter}.") for label in labels), page


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see docs/methods/cas-dm.md, C.2.99", "C.2.99 is no section of docs/methods/cas-dm.md"),
        ("the gate's loss (C.2.5)", "C.2.5 without naming docs/methods/cas-dm.md"),
        ("docs/methods/cas_dm.md", "docs/methods/cas_dm.md does not exist"),
        ("tests/test_nothing.py", "tests/test_nothing.py does not exist"),
        ("as in spec A4", "'spec A' names no page"),
        ("(DESIGN 2)", "'DESIGN 2' names no page"),
        ("B19 of reliability.md", "'reliability.md' names no page"),
        ("in (B2.3)", "'B2.3' names no page"),
    ],
)
def test_a_citation_that_leads_nowhere_is_found(text: str, problem: str) -> None:
    assert list(problems(text, None, headings())) == [problem]


def test_a_citation_that_resolves_is_left_alone() -> None:
    text = "docs/methods/cas-dm.md, C.2.9, and C.2.5; the spec of a tensor, edgegen/core/spec.py"
    assert list(problems(text, None, headings())) == []
