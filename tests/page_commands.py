"""The shell blocks of a page under docs/, run as a reader would, with fewer steps and images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgegen.cli.main import run

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
FEWER = ((r"--steps \d+", "--steps 2"), (r"-n \d+", "-n 2"), (r"--time \w+", "--time 1s"))


def blocks(page: Path) -> list[list[str]]:
    """Lines of each block."""
    return [match[1].splitlines() for match in BLOCK.finditer(page.read_text("utf-8"))]


def follow(
    lines: Sequence[str],
    more: Mapping[str, Sequence[str]],
    captured: pytest.CaptureFixture[str],
    other: Mapping[str, str] | None = None,
) -> str:
    """Run edgegen's lines in turn, with `more` flags by verb and `other` words in place of some:
    each must end well and leave what it names. Returns all that was said.
    """
    heard = ""
    for line in lines:
        if not line.startswith("edgegen "):
            continue
        for pattern, fewer in FEWER:
            line = re.sub(pattern, fewer, line)
        words = [(other or {}).get(word, word) for word in shlex.split(line, comments=True)[1:]]
        code = run([*words, *more.get(words[0], ())])
        said = captured.readouterr()
        assert code == 0, f"{line}\n{said}"
        heard += said.out + said.err
        if "-o" in words:
            assert Path(words[words.index("-o") + 1]).exists()
    return heard
