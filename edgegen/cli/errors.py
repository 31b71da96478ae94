"""edgegen errors: explain an error code."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

import typer

from ..errors import UsageError
from . import output


def errors(
    code: Annotated[
        str | None,
        typer.Argument(
            help="An error code such as E-DISK-FULL (default: list all codes).", metavar="[CODE]"
        ),
    ] = None,
    json: output.Json = False,
) -> None:
    """Explain an error code: what it means, its exit code, and what to do."""
    from ..core.error_codes import CODES, WARNINGS

    if code is None:
        output.result("errors", {"codes": [entry.to_json() for entry in CODES.values()]})
        rows = [[e.code, _exits(e.exits), e.cause] for e in CODES.values()]
        output.table(["code", "exit", "cause"], rows)
        return
    name = code.upper() if code.upper().startswith(("E-", "W-")) else f"E-{code.upper()}"
    known = {**CODES, **WARNINGS}
    if (entry := known.get(name)) is None:
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "`edgegen errors` lists them all"
        raise UsageError("E-USAGE", f"there is no error code {name}", hint=hint)
    output.result("errors", entry.to_json())
    print(f"{entry.code}  exit {_exits(entry.exits)}\n{entry.cause}\n{entry.remedy}")


def _exits(codes: tuple[int, ...]) -> str:
    return ", ".join(map(str, codes)) or "- (it names a photo in a report)"
