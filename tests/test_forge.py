"""What stands beside the code for people and programs of a forge: it parses, and names what is
there.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from house import ROOT

import edgegen

FORGE = ROOT / ".github"
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = parsed(FORGE / "workflows" / "check.yml")["jobs"]
    return found


def steps() -> Iterator[dict[str, Any]]:
    for job in jobs().values():
        yield from job["steps"]


def project() -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return settings


def test_the_workflow_runs_make_and_nothing_of_its_own() -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    said = [step["run"] for step in steps() if "run" in step]
    assert {"lint", "quick", "test", "docs", "wheel", "airgap"} <= {s.split()[-1] for s in said}
    assert [s for s in said if not (s.startswith("make ") and set(s.split()[1:]) <= targets)] == []


def test_documents_of_the_forge_name_targets_that_are_there() -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    named = {
        word
        for path in (*FORGE.rglob("*.md"), *FORGE.rglob("*.yml"), ROOT / ".pre-commit-config.yaml")
        for word in re.findall(r"`make ([a-z-]+)`", path.read_text())
    }
    assert named and named <= targets


def test_actions_are_pinned_by_commit() -> None:
    text = (FORGE / "workflows" / "check.yml").read_text()
    used = re.findall(r"uses: (.*)", text)
    assert used and [line for line in used if not PINNED.fullmatch(line)] == []


def test_the_workflow_asks_for_nothing_but_reading_and_ends() -> None:
    assert parsed(FORGE / "workflows" / "check.yml")["permissions"] == {"contents": "read"}
    assert [name for name, job in jobs().items() if "timeout-minutes" not in job] == []


def test_it_runs_the_pythons_that_the_package_names_on_two_systems() -> None:
    matrix = jobs()["quick"]["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.removeprefix(prefix) for c in project()["project"]["classifiers"] if prefix in c]
    assert [f"3.{minor}" for minor in named] == matrix["python"]
    assert project()["project"]["requires-python"] == f">={matrix['python'][0]}"
    assert len(set(matrix["image"])) == 2


@pytest.mark.parametrize("path", sorted(FORGE.rglob("*.yml")), ids=lambda path: path.name)
def test_a_file_of_the_forge_parses(path: Path) -> None:
    assert isinstance(parsed(path), dict)


def test_issue_forms_ask_for_what_is_needed_once() -> None:
    for path in sorted((FORGE / "ISSUE_TEMPLATE").glob("*.yml")):
        if path.stem == "config":
            continue
        form = parsed(path)
        assert form["name"] and form["description"]
        asked = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert asked and len(asked) == len(set(asked))


def test_the_citation_is_of_this_version() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert citation["version"] == edgegen.__version__
    assert citation["license"] == project()["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_hooks_are_the_linters_of_make_lint() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    wanted = re.findall(r"\$\(BIN\)/(ruff \w+|mypy)", recipe)
    (local,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    run = [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]]
    assert len(run) == len(wanted)
    for entry, name in zip(run, wanted, strict=True):
        assert entry.startswith(name)


def test_editors_keep_the_linter_s_lines() -> None:
    said = configparser.ConfigParser()
    said.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    assert int(said["*.py"]["max_line_length"]) == project()["tool"]["ruff"]["line-length"]
