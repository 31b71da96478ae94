"""Every error code: a public contract. A code keeps its meaning and its exit code, and one that is
gone is never used again.

`edgegen errors E-...` shows one, docs/errors.md has them all; tests hold both to this table, and
the table to what the sources raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import files, models, photos, usage, warnings

EXITS = {
    1: "bug or unclassified failure",
    2: "usage or configuration",
    3: "a gate said no",
    4: "bad input",
    5: "the machine lacks something",
    6: "trust",
    7: "disk, memory or time",
    8: "another run holds the lock",
    130: "interrupted (143 by SIGTERM, 129 by SIGHUP)",
}


@dataclass(frozen=True)
class ErrorCode:
    """exits: exit codes that go with it, none where it names a photo in a report; cause and remedy
    are sentences.
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
# of work that was done, and is doubtful
WARNINGS: dict[str, ErrorCode] = {row[0]: ErrorCode(*row) for row in sorted(warnings.ROWS)}


def page() -> str:
    """docs/errors.md."""
    lines = [
        "# Error codes",
        "",
        "Every failure of edgegen is one sentence on stderr, `error[E-CODE] what is wrong (file) - "
        "what to do`, and an exit code;",
        "with `--json` the same is a document on stdout. Codes and exit codes are a contract: they "
        "keep their meaning, and a code that is gone is",
        "never used again. `edgegen errors E-CODE` shows one of them. A dash: the code names a "
        "photo in a report, and is no failure by itself.",
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
        "Warnings are lines on stderr that begin with their code, of work that was done, exit code "
        "0. `edgegen errors` knows these:",
        "",
        "| code | cause | what to do |",
        "|---|---|---|",
        *(f"| `{e.code}` | {e.cause} | {e.remedy} |" for e in WARNINGS.values()),
        "",
    ]
    return "\n".join(lines)
