"""Publish an export's files: whole under the requested name, or under rejected/ beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...core.bundle import MANIFEST
from ...core.files import publish, publish_alone
from ...core.temporary import sweep
from ...errors import GateFailed

REJECTED = "rejected"  # folder beside an output that keeps what a gate refused


@contextmanager
def published(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder that becomes `out` if the block ends well. Raises Busy while another export
    writes.
    """
    with publish_alone(out, MANIFEST, overwrite) as folder:
        sweep(out.parent / REJECTED)
        (folder / "graphs").mkdir()
        yield folder


def rejected(folder: Path, out: Path, error: GateFailed) -> GateFailed:
    """Keep what was made and measured under rejected/, never under the final name, and return the
    error with that place in it.
    """
    # it failed before the bundle was whole, so there is nothing to look at
    if not (folder / MANIFEST).is_file():
        return error
    kept = out.parent / REJECTED / out.name
    with publish(kept, MANIFEST, overwrite=True) as other:
        shutil.copytree(folder, other, dirs_exist_ok=True)
    hint = "; ".join(filter(None, [error.hint, "nothing was written under the requested name"]))
    refused = GateFailed(error.code, error.message, path=kept, hint=hint, details=error.details)
    refused.result = error.result
    return refused
