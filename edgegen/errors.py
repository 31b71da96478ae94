"""Everything edgegen reports on purpose: one tree, one exit code and one stable code per error.

EdgegenError          1  bug or unclassified failure
  UsageError          2  a flag, a config or an output folder that cannot be used
  GateFailed          3  quality or parity is outside its budget
  InputError          4  a photo, weight file or graph that cannot be read
    ReferenceMismatch 4  statistics of another feature network, count or projection
    NotFetched        4  a pointer of Git LFS or git-annex in the place of a file
  RuntimeMissing      5  a runtime, driver or package is not on this machine
  TrustError          6  hash, manifest, signature, pickle or path escape
  ResourceError       7  disk, memory or time
  Busy                8  another run holds the lock
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a terminal acts on, or shows in another order than it is written: control characters, line
# breaks, marks of direction, and halves of characters (bytes of a file name that are no text).
ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for part in (
        range(0x20),
        range(0x7F, 0xA0),
        (0x61C, 0x200E, 0x200F),
        range(0x2028, 0x202F),
        range(0x2066, 0x206A),
        range(0xD800, 0xE000),
    )
    for code in part
}


def escaped(text: str) -> str:
    """Text of unknown origin as one line that any terminal or page shows as it is: a line break is
    \\n, an escape \\x1b.
    """
    return text.translate(ESCAPES)


class EdgegenError(Exception):
    """One sentence for the user: what is wrong, in which file, what to do.

    code: stable name such as "E-PICKLE"; path: the file meant, if any; hint: the next step, if it
    is not in the sentence; details: numbers for machines, shown by --json (finite JSON values).
    """

    exit_code = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        path: object = None,
        hint: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = dict(details or {})
        self.code, self.message, self.path, self.hint = (
            code,
            message,
            None if path is None else str(path),
            hint,
        )

    def __str__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        hint = f" - {self.hint}" if self.hint else ""
        return escaped(f"error[{self.code}] {self.message}{where}{hint}")


class UsageError(EdgegenError):
    exit_code = 2


class GateFailed(EdgegenError):
    """result: what the workflow found before the gate said no, such as an ExportResult."""

    exit_code = 3
    result: Any = None


class InputError(EdgegenError):
    exit_code = 4


class ReferenceMismatch(InputError):
    pass


class NotFetched(InputError):
    """What lies there says where the file's content is kept, and is not the content."""


class RuntimeMissing(EdgegenError):
    exit_code = 5


class TrustError(EdgegenError):
    exit_code = 6


class ResourceError(EdgegenError):
    exit_code = 7


class Busy(EdgegenError):
    exit_code = 8
