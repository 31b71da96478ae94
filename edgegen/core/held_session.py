"""A session of a bundle's graph whose output is checked against what the graph declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import EdgegenError, InputError, ResourceError
from .declared import Shape
from .rehearsal import fits
from .runtime import Placed, Session
from .spec import Array

# Runtimes share no exception class, so running out of memory is recognised by its message.
MEMORY = re.compile(r"bad_alloc|[Ff]ail\w* to alloc|out of memory|[Cc]annot alloc|OOM")


def translated(error: Exception, what: str, path: Path) -> EdgegenError:
    """Return a runtime's exception as an EdgegenError; what: for example "cannot be run"."""
    if isinstance(error, EdgegenError):
        return error
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, MemoryError) or MEMORY.search(said):
        return ResourceError("E-OOM", f"not enough memory: it {what}", path=path)
    return InputError("E-GRAPH-RUN", f"it {what}: {said}", path=path)


@dataclass(frozen=True)
class HeldSession:
    """A session that is called like the one inside it, with its output and its errors checked.

    InputError for an output of another shape or type than declared, and for the runtime's own
    exceptions; ResourceError if memory runs out.
    """

    session: Session
    output: Shape
    path: Path  # for messages

    def __call__(self, **inputs: Array) -> Array:
        try:
            found = self.session(**inputs)
        except Exception as error:  # each runtime has its own
            raise translated(error, "cannot be run", self.path) from error
        if not fits(self.output, found.shape) or found.dtype != np.float32:
            raise InputError(
                "E-GRAPH-RUN",
                f"it answers {found.dtype} {found.shape}, which is not what it declares",
                path=self.path,
            )
        return found

    def placement(self) -> Mapping[str, int]:
        """Return the session's placement, or {} if it does not report one."""
        return self.session.placement() if isinstance(self.session, Placed) else {}


def loaded_by(load: Callable[[], Session], path: Path) -> Session:
    """Call `load` for the file at `path`, and translate the exceptions of the runtime."""
    try:
        return load()
    except Exception as error:
        raise translated(error, "cannot be loaded", path) from error
