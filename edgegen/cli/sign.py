"""edgegen sign: the site vouches for a bundle with its own key; no network and no third party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.reader import KEY_BYTES, read_bytes
from . import output
from .options import BundleFolder, Overwrite


def sign(
    bundle: BundleFolder,
    key: Annotated[
        Path, typer.Option(help="Private key in PEM, on the curve P-256, P-384 or P-521.")
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line opens the key.")
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(
            help="Number of this release, larger each time: devices refuse less with "
            "--least-release.",
            min=0,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Check a bundle and sign it; devices check the signature with --public-key, and may then run
    its engines.
    """
    from ..workflows.signing import sign_bundle

    result = sign_bundle(bundle, key, _passphrase(passphrase_file), overwrite, release)
    output.result("sign", result.to_json())
    print(f"{result.files} files signed by key {result.key_sha256[:16]}...: {result.signature}")


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return read_bytes(path, KEY_BYTES, "E-KEY").split(b"\n")[0].removesuffix(b"\r")
