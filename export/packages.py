"""Is a backend's package here: answered without importing it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def absent(module: str, extra: str) -> str | None:
    """None if `module` can be imported, else the sentence with the command that installs it."""
    if find_spec(module) is not None:
        return None
    return f'{module} is not installed: pip install "edgegen[{extra}]"'


def installed(distributions: Sequence[str]) -> str:
    """Version of the first of these distributions that is installed, or "not installed"."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
