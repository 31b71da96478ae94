"""What comes from outside is shown, never acted on: not by a terminal, not by a browser."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from edgegen.cli import exit_contract, output, streams
from edgegen.errors import ESCAPES, InputError, escaped
from edgegen.explain import page

# written by their numbers, and once more by what Unicode says of them
SAMPLES = [0x00, 0x07, 0x08, 0x09, 0x0A, 0x0D, 0x1B, 0x7F, 0x85, 0x9B, 0x9D, 0x61C, 0x200E, 0x2028]
SAMPLES += [0x2029, 0x202A, 0x202E, 0x2066, 0x2069, 0xDC80]
EVIL = "cat\x1b]0;owned\x07\x1b[2J\r\n\x9b31merror[E-OK]\u202egnp.\u2066\x00\x7f\udc9b"


def unsafe(text: str) -> list[str]:
    return [hex(ord(c)) for c in text if ord(c) in ESCAPES and c not in "\n"]


def test_every_control_and_mark_of_direction_is_escaped() -> None:
    marks = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        acts = unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")
        turns = unicodedata.bidirectional(char) in marks
        if acts or turns:
            assert code in ESCAPES, hex(code)
    assert set(SAMPLES) <= ESCAPES.keys()
    assert not any(chr(code).isprintable() for code in ESCAPES)


@pytest.mark.parametrize("code", SAMPLES)
def test_an_escape_shows_what_was_there(code: int) -> None:
    shown = escaped(f"a{chr(code)}b")
    assert shown.isascii() and shown.isprintable() and shown.startswith("a\\")
    assert shown.encode().decode("unicode_escape") == f"a{chr(code)}b"


def test_words_of_any_language_stay() -> None:
    for text in ("naïve \\ [red]", "写真 фото תמונה صورة", "👩‍🔬", "a\u00a0b"):
        assert escaped(text) == text


def fails(_: list[str]) -> None:
    raise InputError("E-X", f"{EVIL} cannot be read", path=Path("a") / EVIL[:-6], hint=EVIL)


def prints(_: list[str]) -> None:
    print(EVIL)
    sys.stderr.write(EVIL)


def notes(_: list[str]) -> None:
    output.terminal.note(EVIL)


def tables(_: list[str]) -> None:
    output.table(["name", "why"], [[EVIL, EVIL]])


def progresses(_: list[str]) -> None:
    with output.progress(EVIL, 3) as advance:
        advance(1)


def breaks(_: list[str]) -> None:
    raise RuntimeError(EVIL)


def asks(_: list[str]) -> None:
    import typer

    raise typer.BadParameter(EVIL)


@pytest.mark.parametrize("flags", [[], ["--json"], ["-vv"]])
@pytest.mark.parametrize("says", [fails, prints, notes, tables, progresses, breaks, asks])
def test_nothing_that_is_said_commands_a_terminal(
    says: Callable[[list[str]], None],
    flags: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    exit_contract.call(says, flags)
    shown = capfd.readouterr()
    assert unsafe(shown.out.replace("\t", "")) == [] and unsafe(shown.err.replace("\t", "")) == []
    assert "owned" in shown.out + shown.err
    if says not in (prints, breaks, asks) and not flags:
        assert not any(
            line.startswith(("error[E-OK]", "\\x9b")) for line in shown.err.splitlines()
        ), "no line of its own"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("says", [tables, progresses])
def test_a_terminal_s_own_colours_pass_and_the_cells_are_escaped(
    says: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with streams.patient():
        says([])
    shown = out.getvalue() + err.getvalue()
    assert "\x1b[" in shown, "rich draws"
    for char in "\x07\x9b\u202e\u2066\x00\x7f\udc9b":
        assert char not in shown
    assert "\x1b]0" not in shown and "\x1b[2J" not in shown and "owned" in shown


def test_pages_show_it() -> None:
    parts = [
        page.heading(EVIL),
        page.words(EVIL + "<script>"),
        page.table([EVIL], [[EVIL]]),
        page.facts({EVIL: EVIL}),
        page.matrix([EVIL], [(EVIL, [1.0])], EVIL),
    ]
    text = page.page(EVIL, parts).decode()
    assert unsafe(text) == [] and "<script>" not in text and "owned" in text
