"""Machines without a development environment: the wheel, chosen distributions of this environment,
no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# What a machine without `unshare` gets instead of an empty network: a connection ends the process.
GUARD = (
    "import socket, sys, runpy\ndef no(*a): sys.exit(f'a connection to "
    "{a[1:]}')\nsocket.socket.connect = no\n"
    "sys.argv[0] = 'edgegen'\nrunpy.run_module('edgegen', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Device:
    """A virtual environment of its own, and the distributions in it."""

    python: Path
    names: frozenset[str]

    def edgegen(
        self, home: Path, *arguments: str, path: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`edgegen` there, outside the checkout, without a network; path: one more folder to import
        from.
        """
        command = [str(self.python), "-P", "-m", "edgegen", *arguments]
        cut = ["unshare", "-n"] if can_unshare() else []
        if not cut:
            command[2:4] = ["-c", GUARD]
        env = environment(home, path)
        return subprocess.run(
            [*cut, *command], cwd=home, env=env, capture_output=True, text=True, timeout=300
        )

    def run(self, home: Path, code: str) -> subprocess.CompletedProcess[str]:
        """A line of Python there."""
        command = [str(self.python), "-P", "-c", code]
        return subprocess.run(
            command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=60
        )


def environment(home: Path, path: Path | None = None) -> dict[str, str]:
    """Nothing of this process's own but where the programs are."""
    more = {"PYTHONPATH": str(path)} if path else {}
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **more}


@cache
def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    )


def wheel(folder: Path) -> Path:
    """Built from a copy, since building writes into the source."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edgegen", "export", "calibrate"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    flags = ["--no-build-isolation"] if find_spec("setuptools") else []
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        *flags,
        "-w",
        str(folder),
    ]
    done = subprocess.run([*command, "."], cwd=source, capture_output=True, text=True, timeout=300)
    if done.returncode and not flags and "setuptools" in done.stderr:
        pytest.skip("setuptools is neither installed nor can it be fetched: no wheel was built")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("edgegen-*.whl")
    return built


def device(folder: Path, built: Path, extras: Sequence[str]) -> Device:
    """The wheel with its core dependencies and those of `extras`, and nothing else."""
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    names = closure(needed(built, extras))
    _link(names, site)
    return Device(folder / "venv" / "bin" / "python", frozenset(names))


def needed(built: Path, extras: Sequence[str]) -> list[Requirement]:
    """What the wheel says it needs, with these extras."""
    with zipfile.ZipFile(built) as archive:
        metadata = archive.read(
            next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        ).decode()
    lines = [
        line.partition(": ")[2]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    found = [r for extra in ("", *extras) for r in _requirements(lines, extra)]
    return list({str(r): r for r in found}.values())


def closure(wanted: Sequence[Requirement]) -> set[str]:
    """The distributions that pip would install for these, by what each declares."""
    found: set[str] = set()
    todo = [(r.name, extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        name = _normal(name)
        try:
            found.add(name)
            more = _requirements(distribution(name).requires or [], extra)
        except PackageNotFoundError:
            pytest.skip(f"{name}, which the device needs, is not installed here")
        todo += [(r.name, e) for r in more for e in ("", *r.extras) if _normal(r.name) not in found]
    return found


def size(names: set[str]) -> int:
    """Bytes that these distributions take once installed, compiled modules included."""
    paths = (Path(str(d.locate_file(f))) for d in map(distribution, names) for f in d.files or [])
    return sum(p.stat().st_size for p in paths if p.is_file())


def _requirements(lines: Sequence[str], extra: str) -> list[Requirement]:
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def _link(names: set[str], site: Path) -> None:
    """These distributions of this environment, and nothing else of it."""
    for name in names:
        here = distribution(name)
        for top in {
            Path(str(f)).parts[0] for f in here.files or [] if ".." not in Path(str(f)).parts
        }:
            if top != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(Path(str(here.locate_file(top))).resolve())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
