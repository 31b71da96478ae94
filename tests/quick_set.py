"""What makes `make quick` worth its name: how many tests, and every package of edgegen imported by
one of them.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
FEWEST = 700
MARKS = "not slow and not export and not gpu"
CASES = 3  # of a test with more parameters than that a quick run takes the first
NO_CODE = {"edgegen"}  # every import of a package below imports it


@cache
def packages() -> set[str]:
    """Every package that is installed, as pyproject.toml lists them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    return set(project["tool"]["setuptools"]["packages"]) - NO_CODE


def touched(files: Iterable[str]) -> set[str]:
    """The packages that these test files, or helpers of theirs in this folder, import from."""
    todo, seen, modules = set(files), set[str](), set[str]()
    while todo:
        name = todo.pop()
        seen.add(name)
        for module in _imports(HERE / name):
            helper = f"{module}.py"
            if (HERE / helper).is_file():
                todo |= {helper} - seen
            modules.add(module)
    return {p for p in packages() if any(m == p or m.startswith(f"{p}.") for m in modules)}


def beyond_the_first_cases(tests: Iterable[str]) -> set[str]:
    """Of these node ids the ones that are a test's fourth case, or a later one."""
    seen = Counter[str]()
    left = set()
    for test in tests:
        name = test.partition("[")[0]
        seen[name] += 1
        if seen[name] > CASES:
            left.add(test)
    return left


def shortfall(tests: int, seen: Collection[str]) -> list[str]:
    """A sentence for each thing that a quick run has too little of."""
    said = []
    if tests < FEWEST:
        said.append(f"a quick run has at least {FEWEST} tests, this one had {tests}")
    if missing := sorted(packages() - set(seen)):
        said.append(f"no quick test imports from {', '.join(missing)}")
    return said


def _imports(path: Path) -> set[str]:
    """Full names of what a file imports, at its top and inside its functions."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
