"""What this machine built for itself out of ONNX files: one file each, named by all that it depends
on.

The folder is the user's own and nobody else may write into it, which is why engines found there
need nobody to vouch for them. A file begins with one line of JSON (its payload's sha256, and what
it was built of and for) and goes on with the payload.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from edgegen.core.answer_cache import cache
from edgegen.core.disk import disk_error
from edgegen.core.files import write_bytes
from edgegen.errors import TrustError

SUFFIX = ".cached"


def folder() -> Path:
    """Where entries are: made, if need be, for the user alone."""
    place = cache() / "built"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise disk_error(error, place) from error
    return place


def entry(onnx: Path, facts: Mapping[str, str]) -> Path:
    """Where what is built of this ONNX file in this situation belongs, whether or not it is
    there.
    """
    key = {**facts, "onnx": hashlib.sha256(onnx.read_bytes()).hexdigest()}
    return cache() / "built" / f"{hashlib.sha256(_line(key)).hexdigest()}{SUFFIX}"


def found(path: Path) -> Path | None:
    """`path` if it is there and whole. TrustError for a damaged file, or one that others could have
    written.
    """
    if not path.exists():
        return None
    read(path)
    return path


def read(path: Path) -> bytes:
    """The payload of an entry; TrustError if it is not what was stored."""
    for owned in (path.parent, path):
        facts = owned.stat()
        if facts.st_uid not in (os.getuid(), 0) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise TrustError(
                "E-CACHE",
                "others can write where engines are kept",
                path=owned,
                hint="chmod go-w, or build again",
            )
    head, _, payload = path.read_bytes().partition(b"\n")
    try:
        wanted = json.loads(head)["sha256"]
    except (ValueError, KeyError, TypeError):
        wanted = None
    if hashlib.sha256(payload).hexdigest() != wanted:
        raise TrustError(
            "E-CACHE",
            "what was built here before is damaged",
            path=path,
            hint="run edgegen build again",
        )
    return payload


def store(path: Path, payload: bytes, facts: Mapping[str, str]) -> Path:
    """Write an entry whole or not at all, readable by the user alone."""
    write_bytes(
        folder() / path.name,
        _line({**facts, "sha256": hashlib.sha256(payload).hexdigest()}) + b"\n" + payload,
    )
    path.chmod(0o600)
    return path


def _line(facts: Mapping[str, str]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode("ascii")
