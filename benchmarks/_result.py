"""Define the one form of a benchmark's result: parts that were measured at different times, each
with the rows of one table.

    {"schema_version": 1, "benchmark": "solver",
     "parts": {"cas-dm": {"command": "python -m benchmarks solver --models cas-dm", "threads": 1,
                          "machine": {"cpu": ...}, "versions": {"torch": ...},
                          "seeds": "from 1,000,000 on", "settings": {}, "rows": [{"FD": 72.9}]}}}

A new measurement replaces the part of that name; the other parts stay. What was not recorded at the
time is empty in older files.
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
    """Hold the rows of one table; `seeds` says in words which images or draws they use, `settings`
    what else they depend on.
    """

    rows: Sequence[Row]
    seeds: str
    threads: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the part with the command, the machine and the libraries that it was measured
        with.
        """
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
    """Return the command as it is typed, with ~ in place of the home folder."""
    script, *given = (word.replace(str(Path.home()), "~") for word in words)
    return " ".join(["python -m benchmarks", Path(script).stem, *given])


def versions() -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read(path: Path) -> dict[str, Any]:
    """Read a result's document. Raises ValueError if the file has another schema."""
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
    """Return the rows of an earlier run; none without a file or a part of that name."""
    if path is None or not path.is_file():
        return []
    return list(read(path)["parts"].get(part, {}).get("rows", []))


def keep(path: Path, benchmark: str, name: str, part: Part) -> None:
    """Write a part into the file beside the parts that it has. A failure leaves the old file."""
    parts = dict(read(path)["parts"]) if path.is_file() else {}
    parts[name] = part.to_json()
    document = {"schema_version": SCHEMA, "benchmark": benchmark, "parts": parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def report(path: Path | None, benchmark: str, name: str, part: Part) -> None:
    """Print a part as a table for people, and keep it in the file if one is named. Ends the program
    if nothing was measured.
    """
    if not part.rows:
        sys.exit(f"{benchmark}: there was nothing to measure for {name}")
    print(f"\n{name}\n\n{table(part.rows)}", flush=True)
    if path is not None:
        keep(path, benchmark, name, part)


def followed(rows: Iterable[Row]) -> list[Row]:
    """Return all rows, and print each as soon as it exists, because some benchmarks take hours."""
    found = []
    for row in rows:
        said = " | ".join(f"{name} {_shown(value)}" for name, value in row.items())
        print(said, file=sys.stderr, flush=True)
        found.append(row)
    return found


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table with a column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_shown(row.get(name)) for name in names] for row in rows]
    return "\n".join(" | ".join(line) for line in [names, ["---"] * len(names), *lines])


def _shown(value: Any) -> str:
    """Format a value: empty if it is unknown, a number with five digits."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def arguments_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a benchmark's parser, with its docstring as help and the option --json FILE for
    `keep`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the result there, in one form for all")
    return parser
