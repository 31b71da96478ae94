"""Run descriptions, adapter configs and plans, with every value replaced by one
that nobody wrote there: read as meant, or refused with the exit code of its class.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adapters
import pytest
from adapting import PEFT

from edgegen.core.plan import Plan
from edgegen.errors import EdgegenError
from edgegen.training.adapt.files import CONFIG, Adapter
from edgegen.workflows.generators import load_generator

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1e308, 10**30, "", "x", "../x", "\0", "\x1b[2J"),
    *([], [1], [[1]], {}, {"a": 1}),
)
PLAN = {
    "schema_version": 1,
    "unit": "",
    "last": 1,
    "model": "",
    "rules": [["g/*", "int8"]],
    "ranges": {"g": {"x": [-1.0, 1.0]}},
    "layers": [],
}


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value of a document, itself included."""
    yield at
    for key in data if isinstance(data, dict) else range(len(data)) if type(data) is list else ():
        yield from places(data[key], (*at, key))


def changed(data: Any, at: tuple[Any, ...], change: Callable[[Any, Any], object]) -> Any:
    """A copy with the value there changed."""
    made = copy.deepcopy(data)
    outer = made
    for key in at[:-1]:
        outer = outer[key]
    change(outer, at[-1])
    return made


def replacing(value: Any) -> Callable[[Any, Any], object]:
    return lambda outer, key: outer.__setitem__(key, value)


def mutants(data: Any) -> Iterator[tuple[str, bytes]]:
    """The document with one value replaced, dropped or added, and as no document at all."""
    for at in places(data):
        for value in VALUES:
            made = value if not at else changed(data, at, replacing(value))
            yield f"{at} = {value!r}", json.dumps(made).encode()
        if at:
            yield f"{at} dropped", json.dumps(changed(data, at, lambda o, k: o.pop(k))).encode()
        if at and isinstance(at[-1], str):
            made = changed(data, at, lambda o, k: o.update({"unknown": 1}))
            yield f"{at} beside unknown", json.dumps(made).encode()
    text = json.dumps(data)
    yield "twice the key", (text[:-1] + ", " + text[1:]).encode()
    yield "NaN", text.replace("1", "NaN", 1).encode()
    yield "nested", b"[" * 200_000
    yield "UTF-16", text.encode("utf-16")
    yield "byte order mark", b"\xef\xbb\xbf" + text.encode()
    yield "cut", text[: len(text) // 2].encode()
    yield "empty", b""
    yield "zero", b"\0" * 100


def attacked(path: Path, read: Callable[[], object], every: int) -> int:
    """How many of the file's mutants were refused; each in words, with its class's exit code.

    every: one of so many is tried.
    """
    before, refused = path.read_bytes(), 0
    tried = list(mutants(json.loads(before)))
    for what, data in [*tried[:-8:every], *tried[-8:]]:
        path.write_bytes(data)
        try:
            read()
        except EdgegenError as error:
            refused += 1
            assert error.exit_code in (2, 4, 6), f"{what}: {error}"
            assert len(str(error).splitlines()) == 1
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    path.write_bytes(before)
    read()
    return refused


SOME_OR_ALL = pytest.mark.parametrize(
    "every", [37, pytest.param(1, marks=pytest.mark.reliability)], ids=["some", "all"]
)


@SOME_OR_ALL
def test_descriptions_of_runs(every: int, tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert attacked(run / "run.json", lambda: load_generator(run), every) > (
        50 if every == 1 else 6
    )


@SOME_OR_ALL
@PEFT
def test_configs_of_adapters(every: int, tmp_path: Path) -> None:
    adapters.shaken("cas-dm").adapter("ab" * 32).write(tmp_path / "adapter")
    path = tmp_path / "adapter" / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "target_modules": config["target_modules"][:2]}))
    assert attacked(path, lambda: Adapter.read(tmp_path / "adapter"), every) > (
        10 if every == 1 else 6
    )


@SOME_OR_ALL
def test_plans(every: int, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    assert attacked(path, lambda: Plan.read(path), every) > (100 if every == 1 else 6)
