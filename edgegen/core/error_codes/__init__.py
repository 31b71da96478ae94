"""The table of all error codes, which are a public contract: a code keeps its meaning and its exit
code, and a removed code is never used again.

`edgegen errors E-...` shows one code, and docs/errors.md lists them all. Tests compare both with
this table, and the table with what the sources raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import files, models, photos, usage, warnings

EXITS = {
    1: "bug or unclassified failure",
    2: "usage or configuration",
    3: "a gate failed",
    4: "bad input",
    5: "the machine lacks something",
    6: "trust",
    7: "disk, memory or time",
    8: "another run holds the lock",
    130: "interrupted (143 by SIGTERM, 129 by SIGHUP)",
}


@dataclass(frozen=True)
class ErrorCode:
    """One error code with its cause and remedy, which are sentences.

    exits: its exit codes; empty if the code only describes a photo in a report.
    """

    code: str
    exits: tuple[int, ...]
    cause: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "exits": list(self.exits),
            "cause": self.cause,
            "remedy": self.remedy,
        }


CODES: dict[str, ErrorCode] = {
    row[0]: ErrorCode(*row)
    for row in sorted((*usage.ROWS, *photos.ROWS, *models.ROWS, *files.ROWS))
}
# codes for work that was done but whose result is doubtful
WARNINGS: dict[str, ErrorCode] = {row[0]: ErrorCode(*row) for row in sorted(warnings.ROWS)}


def page() -> str:
    """Return the text of docs/errors.md."""
    lines = [
        "# Error codes",
        "",
        "edgegen reports every failure as one sentence on stderr, `error[E-CODE] what is wrong "
        "(file) - what to do`, and as an exit code;",
        "with `--json` it also writes the same as a document to stdout. Codes and exit codes are "
        "a contract: they keep their meaning, and a removed code is",
        "never used again. `edgegen errors E-CODE` shows one of them. A dash means that the code "
        "names a photo in a report and is not a failure by itself.",
        "",
        "| exit | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in {0: "done", **EXITS}.items()),
        "",
        "| code | exit | cause | what to do |",
        "|---|---|---|---|",
        *(
            f"| `{e.code}` | {', '.join(map(str, e.exits)) or '-'} | {e.cause} | {e.remedy} |"
            for e in CODES.values()
        ),
        "",
        "Warnings are lines on stderr that begin with a code. The work was done, and the exit "
        "code is 0. `edgegen errors` explains these too:",
        "",
        "| code | cause | what to do |",
        "|---|---|---|",
        *(f"| `{e.code}` | {e.cause} | {e.remedy} |" for e in WARNINGS.values()),
        "",
    ]
    return "\n".join(lines)
