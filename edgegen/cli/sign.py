"""edgegen sign: sign a bundle with the owner's own key, without a network and without a third
party.
"""

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
        Path, typer.Option(help="Private key as a PEM file, on the curve P-256, P-384 or P-521.")
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the passphrase of the key.")
    ] = None,
    release: Annotated[
        int | None,
        typer.Option(
            help="Number of this release, which must grow with each release: with "
            "--least-release, devices refuse lower numbers.",
            min=0,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Check a bundle and sign it. Devices check the signature with --public-key and may then run
    the bundle's engines.
    """
    from ..workflows.signing import sign_bundle

    result = sign_bundle(bundle, key, _passphrase(passphrase_file), overwrite, release)
    output.result("sign", result.to_json())
    print(f"{result.files} files signed by key {result.key_sha256[:16]}...: {result.signature}")


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return read_bytes(path, KEY_BYTES, "E-KEY").split(b"\n")[0].removesuffix(b"\r")
