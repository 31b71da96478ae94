"""Error codes are a contract: one table holds what the sources raise, what a verb shows and what
the documents say.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from functools import cache

import pytest
from house import ROOT, our_modules

from edgegen import errors
from edgegen.cli import main
from edgegen.core.error_codes import CODES, EXITS, WARNINGS, page

CODE = re.compile(r"E-[A-Z0-9]+(-[A-Z0-9]+)*")
CLASSES = {
    name: value.exit_code
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.EdgegenError)
}


@cache
def constants() -> list[tuple[str, str | None]]:
    """Every error code in the sources, with the class that is called with it, where one is."""
    found = []
    for name, path in our_modules().items():
        if name.startswith("edgegen.core.error_codes") or '"E-' not in path.read_text():
            continue
        called = {}
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                called[node.args[0]] = node.func.id
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and CODE.fullmatch(str(node.value)):
                found.append((str(node.value), called.get(node)))
    return found


def test_the_table_holds_the_codes_that_the_sources_raise() -> None:
    raised = {code for code, _ in constants()}
    missing, gone = raised - CODES.keys(), CODES.keys() - raised
    assert (missing, gone) == (set(), set()), "add them to, or take them from, core/error_codes"


def test_the_table_holds_the_exit_codes() -> None:
    """Of the classes that are raised by name; a code that only names photos has none."""
    found = defaultdict(set)
    for code, called in constants():
        if called in CLASSES:
            found[code].add(CLASSES[called])
    wrong = {c: (exits, CODES[c].exits) for c, exits in found.items() if exits - {*CODES[c].exits}}
    assert wrong == {} or set(wrong) == {"E-INTERRUPTED"}, "the exit code of a signal is its own"
    assert {code for entry in CODES.values() for code in entry.exits} <= {*EXITS, 129, 143}


def test_causes_and_remedies_are_sentences() -> None:
    for entry in (*CODES.values(), *WARNINGS.values()):
        for text in (entry.cause, entry.remedy):
            assert re.fullmatch(r"[A-Za-z`].*[.]", text) and "|" not in text, entry


def test_the_document_is_the_table() -> None:
    assert (ROOT / "docs" / "errors.md").read_text("utf-8") == page(), (
        "python scripts/errors_page.py"
    )


@pytest.mark.parametrize("typed", ["E-DISK-FULL", "e-disk-full", "disk-full"])
def test_the_verb_shows_one(typed: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["errors", typed]) == 0
    assert capfd.readouterr().out.startswith(
        "E-DISK-FULL  exit 7\nThe disk is full.\nFree some space"
    )
    assert main.run(["errors", typed, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["code"] == "E-DISK-FULL" and shown["exits"] == [7]


def test_warnings_of_the_table_are_given_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    sources = [
        path.read_text()
        for name, path in our_modules().items()
        if not name.startswith("edgegen.core.error_codes")
    ]
    for code in WARNINGS:
        assert any(f"{code}: " in source for source in sources), code
        assert main.run(["errors", code.lower()]) == 0
        assert capfd.readouterr().out.startswith(f"{code}  exit 0\n{WARNINGS[code].cause}\n")


def test_the_verb_lists_all_and_suggests_the_right_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["errors", "--json"]) == 0
    assert [e["code"] for e in json.loads(capfd.readouterr().out)["codes"]] == list(CODES)
    assert main.run(["errors"]) == 0
    assert "E-IMG-EMPTY" in capfd.readouterr().out
    assert main.run(["errors", "E-DISK-FUL"]) == 2
    assert "did you mean E-DISK-FULL?" in capfd.readouterr().err
