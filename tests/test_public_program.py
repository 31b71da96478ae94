"""A program that imports only edgegen does everything that the README's commands do."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapting import PEFT
from sites import photo_files

PROGRAM = Path(__file__).with_name("public_program.py")

pytestmark = [PEFT, pytest.mark.slow, pytest.mark.export]


def test_it_imports_nothing_of_edgegen_but_edgegen() -> None:
    names = [
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(PROGRAM.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert {n for n in names if n and n.startswith("edgegen")} == {"edgegen"}


def test_it_does_all_and_edgegen_prints_nothing(tiny_run: Path, tmp_path: Path) -> None:
    (photos := tmp_path / "photos").mkdir()
    photo_files(photos)
    (place := tmp_path / "place").mkdir()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(photos), str(tiny_run)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "the silent and the program's own listener print nothing"
