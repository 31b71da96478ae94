"""What this machine built for itself out of ONNX files: one file each, named by all that it depends
on, and authentic.

Engines and compiled models are code, and those found here run because they were built here. So the
folder is its user's own, nobody else may write into it, and a secret that only the user reads
names and seals every entry: whoever put a file there without it made a file that nobody finds.

A file begins with one line of JSON (the payload's seal, and what it was built of and for) and goes
on with the payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from edgegen.core.answer_cache import cache
from edgegen.core.disk import disk_error
from edgegen.core.files import write_bytes
from edgegen.core.graph_file import GraphFile
from edgegen.core.reader import opened
from edgegen.errors import TrustError

SUFFIX = ".cached"  # of what a runtime loads
NOTE = ".note"  # of what is only to be known
SECRET = "secret"
SECRET_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path:
    """Where entries are: made, if need be, for the user alone."""
    return own(cache() / "built")


def is_there() -> bool:
    """Whether this user has a cache, made by `edgegen build` or by hand."""
    return cache().is_dir()


def own(place: Path) -> Path:
    """A folder that only its user writes into: made, if need be. TrustError for one of others."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise disk_error(error, place) from error
    _check_owner(place, os.stat(place), _OTHERS_WRITE)
    return place


def _check_owner(place: Path, facts: os.stat_result, forbidden: int) -> None:
    if facts.st_uid not in (os.getuid(), 0) or facts.st_mode & forbidden:
        raise TrustError(
            "E-CACHE",
            "others can write where engines are kept",
            path=place,
            hint="chmod go-w, or build again",
        )


def _secret() -> bytes:
    """TrustError where others could have read it."""
    path = cache() / "built" / SECRET
    with opened(path, "E-CACHE") as file:
        _check_owner(path, os.fstat(file.fileno()), 0o077)
        secret = file.read(SECRET_BYTES)
    if len(secret) != SECRET_BYTES:
        raise TrustError(
            "E-CACHE",
            "the secret of the cache is damaged",
            path=path,
            hint="delete it, and run edgegen build again",
        )
    return secret


def _make_secret() -> None:
    """Once, for this user alone: whole from the moment it is there. Where two processes make one at
    once, what was sealed with the first is built again.
    """
    path = folder() / SECRET
    if path.exists():
        return
    new = path.with_name(f"{SECRET}-{secrets.token_hex(8)}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def _seal(name: str, payload: bytes) -> str:
    """Of an entry: its name too, so that none can stand in another's place."""
    return hmac.new(_secret(), name.encode() + b"\0" + payload, "sha256").hexdigest()


def of(onnx: GraphFile, facts: Mapping[str, str]) -> dict[str, str]:
    """What an entry that is built of this ONNX file in this situation depends on."""
    apart = {} if onnx.weights is None else {"weights": onnx.weights.sha256()}
    return {**facts, "onnx": hashlib.sha256(onnx.data()).hexdigest(), **apart}


def _named(facts: Mapping[str, str], suffix: str) -> Path:
    name = hmac.new(_secret(), _line(facts), "sha256").hexdigest()
    return cache() / "built" / f"{name}{suffix}"


def find(facts: Mapping[str, str], suffix: str = SUFFIX) -> Path | None:
    """The entry that depends on these facts, None if there is none. TrustError for a damaged one,
    or one that others could have written.
    """
    if not os.access(cache() / "built" / SECRET, os.R_OK):  # nothing was built here by this user
        return None
    path = _named(facts, suffix)
    if not path.exists():
        return None
    read(path)
    return path


def read(path: Path) -> bytes:
    """The payload of an entry; TrustError if it is not what was stored."""
    _check_owner(path.parent, os.stat(path.parent), _OTHERS_WRITE)
    with opened(path, "E-CACHE") as file:
        _check_owner(path, os.fstat(file.fileno()), _OTHERS_WRITE)
        head, _, payload = file.read().partition(b"\n")
    try:
        wanted = str(json.loads(head)["seal"])
    except (ValueError, KeyError, TypeError, RecursionError):
        wanted = ""
    if not hmac.compare_digest(_seal(path.name, payload).encode(), wanted.encode()):
        raise TrustError(
            "E-CACHE",
            "what was built here before is damaged",
            path=path,
            hint="run edgegen build again",
        )
    return payload


def store(facts: Mapping[str, str], payload: bytes, suffix: str = SUFFIX) -> Path:
    """The entry that depends on these facts, written whole or not at all, readable by the user
    alone.
    """
    _make_secret()
    path = _named(facts, suffix)
    write_bytes(path, _line({**facts, "seal": _seal(path.name, payload)}) + b"\n" + payload)
    path.chmod(0o600)
    return path


def _line(facts: Mapping[str, str]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode("ascii")
