"""edgegen sign: the site vouches for a bundle with its own key; no network and no third party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, UsageError
from ..workflows import generators
from . import output
from .options import Overwrite


def sign(
    what: Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")],
    key: Annotated[
        Path, typer.Option(help="Private key in PEM, on the curve P-256, P-384 or P-521.")
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line opens the key.")
    ] = None,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Sign a bundle after checking it; devices hold it to the public key with --public-key, and may
    then run its engines.
    """
    from ..core.files import write_bytes
    from ..core.signature import SIGNATURE
    from ..core.signature import sign as signed

    bundle = generators.open_bundle(what)
    path = bundle.root / SIGNATURE
    if path.exists() and not overwrite:
        raise UsageError(
            "E-OUT-EXISTS",
            "the bundle is signed already",
            path=path,
            hint="add --overwrite to sign it anew",
        )
    made, fingerprint = signed(
        bundle.root.resolve().name, bundle.digests(), key, _passphrase(passphrase_file)
    )
    # not inside: a kill would leave a file there that nobody listed
    write_bytes(path, made, bundle.root.resolve().parent)
    output.result("sign", {"bundle": what, "signature": str(path), "key_sha256": fingerprint})
    print(f"{len(bundle.digests())} files signed by key {fingerprint[:16]}...: {path}")


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes().split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise InputError("E-KEY", f"cannot be read: {error.strerror}", path=path) from error
