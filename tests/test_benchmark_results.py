"""Benchmarks have one form of result, and what is measured anew takes its own place alone."""

from __future__ import annotations

import ast
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
# makes pages of reports, and measures nothing itself
PAGES = {"bench_results"}
NAMES = sorted({p.stem for p in BENCHMARKS.glob("[!_]*.py")} - PAGES)
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


def test_numbers_have_the_digits_of_a_reader_and_what_is_unknown_is_empty(form: ModuleType) -> None:
    rows = [{"FD": 72.912345, "n": 1_000_000, "sd": None, "range": [0.5, 1.0]}]
    assert form.table(rows).splitlines()[-1] == "72.912 | 1000000 |  | 0.5, 1"


def test_rows_are_told_as_they_come_and_kept_as_they_are(
    form: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows() -> Iterator[dict[str, float]]:
        yield {"FD": 72.912345}
        assert capsys.readouterr().err == "FD 72.912\n"
        yield {"FD": 3.0}

    part, path = form.Part(form.followed(rows()), "from 0 on"), tmp_path / "x.json"
    form.report(path, "x", "a", part)
    assert form.rows_of(path, "a") == [{"FD": 72.912345}, {"FD": 3.0}]
    assert capsys.readouterr().out == "\na\n\nFD\n---\n72.912\n3\n"


def test_nothing_measured_is_no_result(form: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="x: there was nothing to measure for a"):
        form.report(tmp_path / "x.json", "x", "a", form.Part([], "from 0 on"))
    assert not (tmp_path / "x.json").exists()


def test_calls_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    seen: list[tuple[str, int]] = []
    calls = {name: lambda turn, name=name: seen.append((name, turn)) for name in "ab"}
    spent = __import__("_measure").in_turns(calls, 2, warm_up=1)
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(times) for times in spent.values()] == [2, 2]
    seen.clear()
    __import__("_measure").in_turns(calls, 1, is_twice=True)
    assert seen == [("a", 0), ("a", 0), ("b", 0), ("b", 0)]


def test_the_one_form_is_no_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and " solver," in done.stderr and " _result" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_the_one_parser_and_keeps_its_result(name: str) -> None:
    tree = ast.parse((BENCHMARKS / f"{name}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = {ast.unparse(call) for call in calls}
    assert "arguments_of(__doc__)" in made
    assert not any("ArgumentParser(" in call for call in made)
    reports = [call for call in calls if ast.unparse(call.func) == "report"]
    given = {tuple(map(ast.unparse, call.args[:2])) for call in reports}
    assert given == {("given.json", repr(name))}


@pytest.mark.parametrize("name", NAMES)
def test_help_says_in_sentences_what_is_measured(form: ModuleType, name: str) -> None:
    about = ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text()))
    assert about is not None and f"python -m benchmarks {name}" in about
    assert about.split("\n\n")[0].endswith(".") and "python benchmarks/" not in about
    said = form.arguments_of(about).format_help()
    assert about in said and "--json" in said
