"""manifest.json as a file: it is written with its own hash, refused if that hash is wrong, and
compared with the files in its folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from ..errors import EdgegenError, InputError, NotFetched, TrustError, UsageError
from ..version import __version__
from .bundle_files import MOST, BundleFiles
from .files import JsonObject, parse_json, put, to_json
from .manifest import Manifest
from .reader import sha256
from .signature import SIGNATURE

MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 << 20
UNLISTED = (MANIFEST, SIGNATURE)  # cannot be listed: the manifest, and the signature over it
SCHEMA = 2


def write_manifest(root: Path, manifest: JsonObject) -> Manifest:
    """List and hash every file under `root`, check the manifest, and write manifest.json last.

    EdgegenError if the manifest does not fit the schema.
    """
    names = sorted(
        name
        for p in root.rglob("*")
        if p.is_file() and (name := p.relative_to(root).as_posix()) not in UNLISTED
    )
    files = {
        name: {"sha256": sha256(root / name), "bytes": (root / name).stat().st_size}
        for name in names
    }
    schema = 2 if "conditions" in manifest["start"] else 1
    data = {"schema_version": schema, "edgegen": __version__, "files": files, **manifest}
    data["sha256"] = digest(data)
    try:
        checked = Manifest.model_validate(data)
    except ValidationError as error:
        raise EdgegenError(
            "E-MANIFEST", f"edgegen made a manifest it would refuse: {error}"
        ) from error
    put(root / MANIFEST, to_json(data))
    return checked


def digest(data: JsonObject) -> str:
    """Return the value that a manifest's own "sha256" entry must have."""
    return hashlib.sha256(to_json({k: v for k, v in data.items() if k != "sha256"})).hexdigest()


def read_manifest(files: BundleFiles) -> tuple[Manifest, str]:
    """Read and check the manifest, and return it with the sha256 of its bytes.

    InputError if there is none, TrustError if it is not the file that was written, UsageError for a
    newer schema.
    """
    path = files.root / MANIFEST
    try:
        files.hold(MANIFEST)
    except NotFetched as error:
        error.path = str(path)
        raise
    except InputError as error:
        raise InputError(
            "E-BUNDLE",
            f"this folder is not a bundle: it has no manifest.json ({error.message})",
            path=files.root,
        ) from error
    written, found = files.read(MANIFEST, MANIFEST_BYTES)
    try:
        data = parse_json(written)
        whole = (
            isinstance(data, dict)
            and data.get("sha256") == digest(data)
            and written == to_json(data)
        )
    except ValueError as error:
        raise TrustError("E-MANIFEST", f"not usable JSON: {error}", path=path) from error
    if not whole:
        raise TrustError(
            "E-HASH",
            "manifest.json is not the file that was written",
            path=path,
            hint="copy the bundle again",
        )
    schema = data.get("schema_version")
    if type(schema) is int and schema > SCHEMA:
        raise UsageError(
            "E-SCHEMA",
            f"the bundle has schema {schema}; edgegen {__version__} reads up to {SCHEMA}",
            path=path,
        )
    try:
        return Manifest.model_validate(data), found
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TrustError("E-MANIFEST", f"{where}: {first['msg']}", path=path) from error


def check_last_steps(manifest: Manifest, path: Path) -> None:
    """Raise TrustError if a runtime's FP32 last steps name an unknown graph, or use engines."""
    for name, built in manifest.runtimes.items():
        if unknown := sorted(built.until.keys() - manifest.graphs.keys()):
            raise TrustError(
                "E-MANIFEST",
                f"runtimes.{name}.until: there is no graph {unknown[0]}",
                path=path,
            )
        if built.until and built.code:
            raise TrustError(
                "E-MANIFEST",
                f"runtimes.{name}.until: engines cannot change to FP32 between steps",
                path=path,
            )


def check_files(files: BundleFiles, manifest: Manifest) -> None:
    """Open every listed file and check its size and hash.

    TrustError for a name that is not allowed, and for any difference from the list.
    """
    root = files.root
    if len(manifest.files) > MOST:
        raise TrustError(
            "E-MANIFEST",
            f"it lists {len(manifest.files)} files, and {MOST} are the most",
            path=root / MANIFEST,
        )
    for name in manifest.files:
        pure = PurePosixPath(name)
        if (
            pure.is_absolute()
            or pure.as_posix() != name
            or name in UNLISTED
            or not name.isprintable()
            or any(part in ("..", ".") or "\\" in part for part in pure.parts)
        ):
            raise TrustError(
                "E-MANIFEST", f"the file name {name!r} is not allowed", path=root / MANIFEST
            )
    files.hold_all(manifest.files, UNLISTED)
    for name, file in manifest.files.items():
        if files.size(name) != file.bytes or files.sha256(name) != file.sha256:
            raise TrustError(
                "E-HASH",
                f"{name} is not the file that was exported",
                path=root,
                hint="copy the bundle again",
            )
