"""Our own files as tests of the house read them: what they import, and where they stand."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgegen.core.offline import OFFLINE

ROOT = Path(__file__).resolve().parents[1]


SEAMS = {"export", "calibrate"}  # top-level folders whose packages live under edgegen.


def python_files() -> list[Path]:
    """Every .py file once, links not followed."""
    places = ("edgegen", "export", "calibrate", "tests", "benchmarks", "scripts", "docs")
    return sorted(
        Path(top, f)
        for p in places
        for top, _, files in os.walk(ROOT / p)
        for f in files
        if f.endswith(".py")
    )


def dotted(path: Path) -> str:
    """edgegen/core/spec.py and export/qdq.py -> edgegen.core.spec and edgegen.export.qdq"""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = ["edgegen", *parts] if parts[0] in SEAMS else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_modules() -> dict[str, Path]:
    return {
        dotted(p): p for p in python_files() if p.relative_to(ROOT).parts[0] in {"edgegen", *SEAMS}
    }


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of what a module imports, wherever in the file; `from a import b` gives
    a.b.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = module.split(".")[: len(module.split(".")) - node.level + is_package]
            base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def git(*arguments: str) -> str | None:
    """What git prints; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 and (ROOT / ".git").exists() else None


def python(
    code: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in the checkout."""
    offline = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    env = {**(os.environ if environment is None else offline), **(environment or {})}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
