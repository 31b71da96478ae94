"""Keep what this machine built for itself from ONNX files: one authenticated file each, named by
everything that it depends on.

Engines and compiled models are code, and those found here run because they were built here. So the
folder belongs to its user, nobody else may write into it, and a secret that only the user can read
names and seals every entry: a file that somebody puts there without the secret is never found.

A file is one line of JSON (the payload's seal, and what it was built from and for) followed by the
payload.
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

SUFFIX = ".cached"  # suffix of what a runtime loads
NOTE = ".note"  # suffix of what only records a fact
SECRET = "secret"
SECRET_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder() -> Path:
    """Return the folder of entries, made for the user alone if it is missing."""
    return own(cache() / "built")


def is_there() -> bool:
    """Return whether this user has a cache, made by `edgegen build` or by hand."""
    return cache().is_dir()


def own(place: Path) -> Path:
    """Return a folder that only its user can write into, made if it is missing. Raises TrustError
    if others can.
    """
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
    """Read the secret. Raises TrustError if it is damaged or others could have read it."""
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
    """Make the secret once, for this user alone; it is whole from the moment that it exists.

    If two processes make one at the same time, what was sealed with the first is built again.
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
    """Return the seal of an entry; it covers the name too, so that no entry can replace another."""
    return hmac.new(_secret(), name.encode() + b"\0" + payload, "sha256").hexdigest()


def of(onnx: GraphFile, facts: Mapping[str, str]) -> dict[str, str]:
    """Return what an entry that is built from this ONNX file under these facts depends on."""
    apart = {} if onnx.weights is None else {"weights": onnx.weights.sha256()}
    return {**facts, "onnx": hashlib.sha256(onnx.data()).hexdigest(), **apart}


def _named(facts: Mapping[str, str], suffix: str) -> Path:
    name = hmac.new(_secret(), _line(facts), "sha256").hexdigest()
    return cache() / "built" / f"{name}{suffix}"


def find(facts: Mapping[str, str], suffix: str = SUFFIX) -> Path | None:
    """Return the entry that depends on these facts, or None.

    Raises TrustError for a damaged one, or one that others could have written.
    """
    if not os.access(cache() / "built" / SECRET, os.R_OK):  # this user has built nothing here
        return None
    path = _named(facts, suffix)
    if not path.exists():
        return None
    read(path)
    return path


def read(path: Path) -> bytes:
    """Return the payload of an entry. Raises TrustError if it is not what was stored."""
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
    """Write the entry that depends on these facts, whole or not at all and readable by the user
    alone; return its path.
    """
    _make_secret()
    path = _named(facts, suffix)
    write_bytes(path, _line({**facts, "seal": _seal(path.name, payload)}) + b"\n" + payload)
    path.chmod(0o600)
    return path


def _line(facts: Mapping[str, str]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode("ascii")
