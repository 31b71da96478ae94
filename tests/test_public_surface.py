"""Flags, error codes and public names change only on purpose, with a line in the CHANGELOG."""

from __future__ import annotations

import re

import public_surface
import pytest

import edgegen

GROUPED = {"edgegen", "edgegen photos", "edgegen plan"}  # their sentence is their verbs' list


def difference(was: list[str], now: list[str]) -> str:
    """What to do about it, after the lines that went and came; empty where nothing did."""
    went = [f"- {line}" for line in was if line not in now]
    came = [f"+ {line}" for line in now if line not in was]
    if not went + came:
        return ""
    return "\n".join(
        (
            "What users build on has changed:",
            *went,
            *came,
            "If that is wanted, run `make public-names` and write the line in CHANGELOG.md that "
            "tells a user; a line that went or changed belongs under Changed or Removed.",
        )
    )


def test_flags_codes_and_names_are_the_frozen_ones() -> None:
    frozen = public_surface.FILE.read_text("utf-8").splitlines()
    said = difference(frozen, public_surface.lines())
    assert not said, said


def test_a_difference_names_its_lines_and_what_to_do() -> None:
    assert difference(["a", "b"], ["a", "b"]) == ""
    said = difference(["a", "b"], ["b", "c"])
    assert "\n- a\n+ c\n" in said and "make public-names" in said and "CHANGELOG.md" in said


def test_every_verb_and_option_has_help() -> None:
    bare = []
    for words, verb in public_surface.verbs():
        bare += [words] if words not in GROUPED and not verb.help else []
        bare += [f"{words} {o.name}" for o in verb.params if not o.help]
    assert bare == []


def test_every_public_name_has_lines_and_no_line_an_address() -> None:
    lines = public_surface.lines()
    for name in edgegen.__all__:
        assert any(re.match(rf"python {name}\b", line) for line in lines), name
    assert [line for line in lines if " at 0x" in line or "<factory>" in line] == []


@pytest.mark.parametrize(
    "line",
    [
        "shell  edgegen export -o, --out  Path, required",
        "shell  edgegen photos check PHOTOS",
        "shell  edgegen damage SOURCE BUNDLE",
        "shell  edgegen damage --seeds  int, at least 1, at most 1000, default 16",
        "code   E-HASH  exit 6",
        "python ExportSettings.fid_budget: float = 0.02",
        "python OpenedBundle(bundle: Bundle, listen: Listener = Silent()) -> None",
    ],
)
def test_what_a_line_says(line: str) -> None:
    assert line in public_surface.lines()
