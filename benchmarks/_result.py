"""The one form of a benchmark's result: parts that were measured each at a time of its own, and
rows of one table in each.

    {"schema_version": 1, "benchmark": "solver",
     "parts": {"cas-dm": {"command": "python -m benchmarks solver --models cas-dm", "threads": 1,
                          "machine": {"cpu": ...}, "versions": {"torch": ...},
                          "seeds": "from 1,000,000 on", "settings": {}, "rows": [{"FD": 72.9}]}}}

What is measured anew takes the place of the part of that name; the others stay as they are. What
nobody wrote down at the time is empty in files of before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgegen.core.files import write_bytes
from edgegen.machine.describe import measured_on

SCHEMA = 1
LIBRARIES = ("edgegen", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "openvino", "diffusers")
KEYS = {"command", "threads", "machine", "versions", "seeds", "settings", "rows"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """seeds: in words, which images or draws; settings: what else the rows depend on."""

    rows: Sequence[Row]
    seeds: str
    threads: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """With the command that measured it, on which machine, by which libraries."""
        return {
            "command": command(sys.argv),
            "threads": self.threads,
            "machine": measured_on(),
            "versions": versions(),
            "seeds": self.seeds,
            "settings": dict(self.settings),
            "rows": list(self.rows),
        }


def command(words: Sequence[str]) -> str:
    """As it is typed, without what only one machine calls its home."""
    script, *given = (word.replace(str(Path.home()), "~") for word in words)
    return " ".join(["python -m benchmarks", Path(script).stem, *given])


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read(path: Path) -> dict[str, Any]:
    """A result's document; ValueError where the file holds none of this schema."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if found.get("schema_version") != SCHEMA or set(found) != {
        "schema_version",
        "benchmark",
        "parts",
    }:
        raise ValueError(f"{path} holds no benchmark's result of schema {SCHEMA}")
    for name, part in found["parts"].items():
        if set(part) != KEYS or not part["rows"]:
            raise ValueError(f"{path}: part {name} has other keys than a result, or no rows")
    return found


def rows_of(path: Path | None, part: str) -> list[Row]:
    """Of an earlier run; none where there is no file or part."""
    if path is None or not path.is_file():
        return []
    return list(read(path)["parts"].get(part, {}).get("rows", []))


def keep(path: Path, benchmark: str, name: str, part: Part) -> None:
    """Into the file, beside the other parts that are in it. The file is the old one or the new one,
    whatever goes wrong.
    """
    parts = dict(read(path)["parts"]) if path.is_file() else {}
    parts[name] = part.to_json()
    document = {"schema_version": SCHEMA, "benchmark": benchmark, "parts": parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def report(path: Path | None, benchmark: str, name: str, part: Part) -> None:
    """A part as a table for people, kept in the file where one is named; ends the program where
    nothing was measured.
    """
    if not part.rows:
        sys.exit(f"{benchmark}: there was nothing to measure for {name}")
    print(f"\n{name}\n\n{table(part.rows)}", flush=True)
    if path is not None:
        keep(path, benchmark, name, part)


def followed(rows: Iterable[Row]) -> list[Row]:
    """All of them, each told as soon as it is there: some benchmarks take hours."""
    found = []
    for row in rows:
        said = " | ".join(f"{name} {_shown(value)}" for name, value in row.items())
        print(said, file=sys.stderr, flush=True)
        found.append(row)
    return found


def table(rows: Sequence[Row]) -> str:
    """As Markdown has it; a column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_shown(row.get(name)) for name in names] for row in rows]
    return "\n".join(" | ".join(line) for line in [names, ["---"] * len(names), *lines])


def _shown(value: Any) -> str:
    """What is not known is empty, and a number has the digits that a reader wants."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser: its docstring as help, and --json FILE, which `keep` is given."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the result there, in one form for all")
    return parser
