"""Bundles as an attacker makes them, every hash right, and what must come of an attack."""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, digest
from edgegen.core.files import read_json, to_json

GOLDEN = Path(__file__).parents[1] / "golden"
TOY = GOLDEN / "bundle-1-toy"
SECONDS = 300  # which only a hang meets
MEMORY = 3 << 20  # KiB that a process may grow by, libraries included
Change = Callable[[dict[str, Any]], object]
REFUSED = (4, 6, 7)


def copy(folder: Path) -> Path:
    """The toy bundle without its signature."""
    shutil.copytree(TOY, root := folder / "bundle")
    (root / "model.sig").unlink()
    return root


def resealed(root: Path, change: Change = lambda manifest: None) -> Path:
    """The manifest edited, and every hash made right again."""
    manifest = read_json(root / MANIFEST)
    for name in list(manifest["files"]):
        if (path := root / name).is_file():
            data = path.read_bytes()
            entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            manifest["files"][name] = entry
    change(manifest)
    manifest["sha256"] = digest(manifest)
    (root / MANIFEST).write_bytes(to_json(manifest))
    return root


def at(manifest: dict[str, Any], path: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    for key in path[:-1]:
        manifest = manifest[key]
    return manifest, path[-1]


def removed(path: tuple[str, ...]) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        holder, key = at(manifest, path)
        del holder[key]

    return change


def put(path: tuple[str, ...], value: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        holder, key = at(manifest, path)
        holder[key] = value

    return change


def listed(root: Path, name: str, data: bytes) -> Change:
    """A file more in the folder, and how the manifest comes to list it."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return lambda manifest: manifest["files"].update({name: entry})


@contextmanager
def no_hang() -> Iterator[None]:
    def hang(*_: object) -> None:
        pytest.fail(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attacked(
    arguments: list[str], capfd: pytest.CaptureFixture[str], codes: tuple[int, ...] = REFUSED
) -> str:
    """The one sentence that is said, of an attack that ends with one of these exit codes."""
    capfd.readouterr()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with no_hang():
        code = run(arguments)
    said = capfd.readouterr().err
    assert code in codes, f"exit code {code}: {said}"
    assert "Traceback" not in said and "E-BUG" not in said
    if code:
        assert len([line for line in said.splitlines() if line.startswith("error[E-")]) == 1, said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < MEMORY
    return said


def generated(
    root: Path, capfd: pytest.CaptureFixture[str], *flags: str, codes: tuple[int, ...] = REFUSED
) -> str:
    """The same of `generate`, which leaves no image behind where it is refused."""
    out = root.parent / "image.png"
    said = attacked(
        ["generate", str(root), "-o", str(out), "-n", "1", "--threads", "1", *flags], capfd, codes
    )
    assert out.exists() == (0 in codes and not said)
    assert sorted(p.name for p in root.parent.iterdir()) == sorted(
        {root.name, *(["image.png"] if out.exists() else [])}
    )
    return said
