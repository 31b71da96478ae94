"""Benchmarks have one form of result, and what is measured anew takes its own place alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from house import ROOT

from edgegen.machine.describe import measured_on

BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("_result")
    sys.modules.pop("_result", None)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_results_are_of_this_form(form: ModuleType, path: Path) -> None:
    found = form.read(path)
    assert found["benchmark"] == path.stem and (BENCHMARKS / f"{path.stem}.py").is_file()
    for part in found["parts"].values():
        assert part["command"].startswith(f"python -m benchmarks {path.stem}")
        assert part["machine"]["cpu"] and part["seeds"] and part["threads"] >= 1


def test_a_part_measured_anew_leaves_the_others(
    form: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = str(Path.home())
    monkeypatch.setattr(sys, "argv", [f"{home}/benchmarks/x.py", "b", "--data", f"{home}/photos"])
    path = tmp_path / "new" / "x.json"
    form.keep(path, "x", "a", form.Part([{"FD": 1.0}], "from 0 on"))
    form.keep(path, "x", "b", form.Part([{"FD": 2.0}], "from 0 on", 2, {"steps": 4}))
    form.keep(path, "x", "a", form.Part([{"FD": 3.0}], "from 5 on"))
    found = form.read(path)
    assert (found["schema_version"], found["benchmark"], set(found["parts"])) == (
        1,
        "x",
        {"a", "b"},
    )
    assert found["parts"]["a"]["rows"] == [{"FD": 3.0}]
    other = found["parts"]["b"]
    assert (other["threads"], other["settings"]) == (2, {"steps": 4})
    assert other["command"] == "python -m benchmarks x b --data ~/photos"
    assert other["machine"] == measured_on() and other["versions"]["torch"]
    assert form.rows_of(path, "b") == [{"FD": 2.0}]
    assert form.rows_of(path, "c") == form.rows_of(None, "a") == []


@pytest.mark.parametrize(
    "changed",
    [{"schema_version": 2}, {"more": 1}, {"parts": {"a": {"rows": []}}}],
)
def test_a_file_of_another_form_is_not_gone_on_with(
    form: ModuleType, tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "x.json"
    document = {"schema_version": 1, "benchmark": "x", "parts": {}}
    path.write_text(json.dumps({**document, **changed}))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"x\.json"):
        form.keep(path, "x", "a", form.Part([{"FD": 1.0}], "0"))
    assert path.read_bytes() == before


def test_a_table_has_a_column_for_each_name(form: ModuleType) -> None:
    assert form.table([{"a": 1}, {"a": 2, "b": 3}]) == "a | b\n--- | ---\n1 | \n2 | 3"


def test_the_one_form_is_no_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and " solver," in done.stderr and " _result" not in done.stderr
