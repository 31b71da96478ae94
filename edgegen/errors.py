"""The exceptions that edgegen raises on purpose, each with an exit code and a stable error code.

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

# Characters that a terminal obeys or that change the order of the text: control characters, line
# breaks, direction marks, and lone surrogates (bytes of a file name that are not valid text).
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
    """Return text of unknown origin as one line that is safe to show on a terminal or a page.

    Control characters become visible: a line break becomes \\n and an escape becomes \\x1b.
    """
    return text.translate(ESCAPES)


class EdgegenError(Exception):
    """An error whose message tells the user what is wrong, in which file, and what to do.

    code: stable name such as "E-PICKLE"; path: the file concerned, if any; hint: the next step, if
    the message does not give it; details: finite JSON values for programs, shown by --json.
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
    """A result is outside its budget; `result` keeps what the workflow produced before it failed.

    result: for example an ExportResult.
    """

    exit_code = 3
    result: Any = None


class InputError(EdgegenError):
    exit_code = 4


class ReferenceMismatch(InputError):
    pass


class NotFetched(InputError):
    """The file is only a pointer (Git LFS or git-annex) to content that was not downloaded."""


class RuntimeMissing(EdgegenError):
    exit_code = 5


class TrustError(EdgegenError):
    exit_code = 6


class ResourceError(EdgegenError):
    exit_code = 7


class Busy(EdgegenError):
    exit_code = 8
