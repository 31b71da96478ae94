"""Old spellings name the new one, whatever else stands on the line."""

from __future__ import annotations

import pytest

from edgegen.cli import main, moved


@pytest.mark.parametrize(
    "line", [["--old"], ["--old=5", "--no-such"], ["bundle", "--old", "5", "--json"]]
)
def test_an_old_spelling_names_the_new_one(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(moved._MOVED, "lint", {"--old": "edgegen renew MODEL"})
    assert main.run(["lint", *line]) == 2
    assert (
        "error[E-MOVED] edgegen lint no longer has the option --old - use edgegen renew MODEL"
        in (capsys.readouterr().err)
    )


def test_what_follows_two_dashes_is_no_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(moved._MOVED, "lint", {"--old": "edgegen renew MODEL"})
    main.run(["lint", "--", "--old"])
    assert "E-MOVED" not in capsys.readouterr().err


def test_the_decorator_returns_the_verb_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "_MOVED", {})

    def verb() -> None: ...

    assert moved.moved({"--old": "edgegen renew"})(verb) is verb
    assert moved._MOVED == {"verb": {"--old": "edgegen renew"}}
