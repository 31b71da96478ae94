"""The hashes of a run's files when they were written, which reveal a faulty copy or disk.

    digests.json   the sha256 of each file that a reader of the run reads, whether it has had a
                   checkpoint, and the sha256 of all that

It is no protection against intent: whoever changes a file can change this one too. Checkpoints hold
their own digests. Runs of older versions have no digests, and are read without them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.files import JsonObject, put, read_json, to_json, write_bytes
from ..core.reader import read_bytes, sha256
from ..errors import InputError, NotFetched, TrustError

FILE = "digests.json"
RUN = "run.json"
SCHEMA = 1
LARGEST = 1 << 20  # most bytes of digests.json
COPY = "copy the run again, or put back a file that is sound"


@dataclass(frozen=True)
class Digests:
    """The content of digests.json.

    files: sha256 by file name, two of them (old and new) while a file is being replaced;
    checkpoint: whether the run has had a checkpoint.
    """

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checkpoint: bool = False

    @classmethod
    def of(cls, run: Path) -> Digests | None:
        """Read a run's digests, or return None if an older version left none.

        TrustError if digests.json is not what was written.
        """
        path = run / FILE
        if not path.exists():
            return None
        try:
            data = read_json(path)
            files = {name: tuple(kept) for name, kept in data["files"].items()}
            read = cls(files, data["checkpoint"])
            if read.to_bytes() == read_bytes(path, LARGEST):
                return read
        except NotFetched:
            raise
        except (InputError, TypeError, KeyError, AttributeError, ValueError):
            pass
        raise TrustError("E-HASH", "not the digests that were written", path=path, hint=COPY)

    def to_bytes(self) -> bytes:
        data: JsonObject = {
            "schema_version": SCHEMA,
            "files": {name: list(kept) for name, kept in self.files.items()},
            "checkpoint": self.checkpoint,
        }
        return to_json({**data, "sha256": _sha256(to_json(data))})


def hold(run: Path, *names: str) -> None:
    """Raise TrustError if one of these files of the run is not what was written.

    A missing file is not an error here; its reader reports it.
    """
    digests = Digests.of(run) or Digests()
    for name in names:
        kept, path = digests.files.get(name), run / name
        if kept and path.is_file() and sha256(path) not in kept:
            raise TrustError(
                "E-HASH", "not the bytes that the run was left with", path=path, hint=COPY
            )


def description(run: Path) -> JsonObject:
    """Read run.json. InputError if it cannot be read, TrustError if it is not what was written."""
    hold(run, RUN)
    about = read_json(run / RUN)
    if not isinstance(about, dict):
        raise InputError("E-RUN", "not a run's description", path=run / RUN)
    return about


def keep(run: Path, files: Mapping[str, bytes]) -> None:
    """Write these files of a run, each in one replace, and their digests."""
    with replacing(run, files):
        for name, data in files.items():
            write_bytes(run / name, data)


@contextlib.contextmanager
def replacing(run: Path, files: Mapping[str, bytes]) -> Iterator[None]:
    """Accept both the old and the new bytes of these files during the block, then only the new."""
    before = Digests.of(run) or Digests()
    new = {name: (_sha256(data),) for name, data in files.items()}
    either = {name: (*kept, *_present(run, name, before) - {*kept}) for name, kept in new.items()}
    for state in (either, new):
        if {**before.files, **state} != before.files:
            before = replace(before, files={**before.files, **state})
            write_bytes(run / FILE, before.to_bytes())
        if state is either:
            yield


def _present(run: Path, name: str, digests: Digests) -> set[str]:
    """Return the digest of the present file as a set, empty if it is missing or damaged."""
    if not (run / name).is_file():
        return set()
    digest = sha256(run / name)
    return {digest} if digest in digests.files.get(name, (digest,)) else set()


def has_had_a_checkpoint(run: Path) -> None:
    """Record in digests.json that the run has had a checkpoint."""
    digests = Digests.of(run) or Digests()
    if not digests.checkpoint:
        write_bytes(run / FILE, replace(digests, checkpoint=True).to_bytes())


def seal(folder: Path) -> None:
    """Write the digests of a complete run in a private folder, before it is published."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: (sha256(folder / name),) for name in names if name != FILE}
    put(folder / FILE, Digests(files).to_bytes())


def unnoticed(run: Path) -> str:
    """Return a warning for a run of an older version without digests, and "" for any other."""
    if not (run / RUN).is_file() or (run / FILE).exists():
        return ""
    return (
        f"W-RUN-DIGESTS: {run} is of an edgegen that kept no digests of its files: a damaged one "
        "would not be noticed"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
