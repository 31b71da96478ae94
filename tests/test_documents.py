"""Documents name only what is there: every edgegen command line in them has known verbs and flags,
every link leads somewhere.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from edgegen.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path for place in (".", ".github", "docs/**") for path in ROOT.glob(f"{place}/*.md")
)
LINK = re.compile(r"\]\(([^)#]+)\)")


def command_lines(text: str) -> Iterator[str]:
    """Of the code blocks: lines that start with edgegen, also behind a prompt, without their
    comments.
    """
    for block in re.findall(
        r"^```[a-z]*\n(.*?)^```", text.replace("\\\n", " "), re.DOTALL | re.MULTILINE
    ):
        for line in block.splitlines():
            if found := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )?(edgegen [a-z].*)", line):
                yield found[1]


def unknown(line: str) -> list[str]:
    """What edgegen would not know in it."""
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return [words[0]]
        command = command.commands[words.pop(0)]
    flags = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "-vv"}
    given = [word.partition("=")[0] for word in words if word.startswith("-")]
    return [flag for flag in given if flag not in flags]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_command_lines_are_edgegens(path: Path) -> None:
    wrong = {line: found for line in command_lines(path.read_text()) if (found := unknown(line))}
    assert wrong == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    targets = [t for t in LINK.findall(path.read_text()) if "://" not in t]
    assert [t for t in targets if not (path.parent / t).exists()] == []


def test_a_wrong_command_line_is_found() -> None:
    text = (
        "```\n$ edgegen verify out/a --files-only\nedgegen verifi x\nedgegen photos check P "
        "--what #\n```\nedgegen nothing"
    )
    assert [unknown(line) for line in command_lines(text)] == [[], ["verifi"], ["--what"]]
