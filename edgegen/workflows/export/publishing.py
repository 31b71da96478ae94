"""Where an export's files go: whole under the name asked for, or under rejected/ beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.bundle import MANIFEST
from ...core.files import publish, publish_alone
from ...core.temporary import sweep
from ...errors import GateFailed

REJECTED = "rejected"  # folder beside an output, of what a gate refused


@contextmanager
def published(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well; Busy while another export writes it."""
    with publish_alone(out, MANIFEST, overwrite) as folder:
        sweep(out.parent / REJECTED)
        (folder / "graphs").mkdir()
        yield folder


def rejected(folder: Path, out: Path, error: GateFailed) -> GateFailed:
    """The error, after what was made and measured has been kept under rejected/, never under the
    final name.
    """
    if not (folder / MANIFEST).is_file():  # it failed before there was a whole to look at
        return error
    kept = out.parent / REJECTED / out.name
    with publish(kept, MANIFEST, overwrite=True) as other:
        shutil.copytree(folder, other, dirs_exist_ok=True)
    hint = "; ".join(filter(None, [error.hint, "nothing was written under the requested name"]))
    refused = GateFailed(error.code, error.message, path=kept, hint=hint, details=error.details)
    refused.result = error.result
    return refused
