"""Sign a bundle with the owner's own key; this needs no network and no third party."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Busy, UsageError
from .bundles import read_bundle


@dataclass(frozen=True)
class SignResult:
    """Say where the signature is, over how many files, and the sha256 of the public key."""

    bundle: str
    signature: Path
    files: int
    key_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen sign --json` prints, without its outer frame."""
        return {
            "bundle": self.bundle,
            "signature": str(self.signature),
            "key_sha256": self.key_sha256,
        }


def sign_bundle(
    bundle: str | Path,
    key: str | Path,
    passphrase: bytes | None = None,
    overwrite: bool = False,
    release: int | None = None,
) -> SignResult:
    """Check a bundle and sign it with a private key in PEM, on the curve P-256, P-384 or
    P-521.

    `release` is a number that grows, by which an owner refuses older bundles. Devices check the
    bundle with the public key and may then run its engines. Raises TrustError for a damaged bundle,
    InputError for a key that cannot be used, UsageError for an existing signature without
    `overwrite`, and Busy if another bundle was published meanwhile.
    """
    from ..core.files import write_bytes
    from ..core.signature import SIGNATURE, sign

    opened = read_bundle(bundle)
    path = opened.root / SIGNATURE
    if path.exists() and not overwrite:
        raise UsageError(
            "E-OUT-EXISTS",
            "the bundle is signed already",
            path=path,
            hint="add --overwrite to sign it again",
        )
    digests, folder = opened.digests(), opened.root.resolve()
    signature, key_sha256 = sign(folder.name, digests, Path(key), passphrase, release)
    # the temporary file lies outside the bundle: a kill would leave it there, listed by no manifest
    write_bytes(path, signature, folder.parent)
    if not opened.files.is_current():
        raise Busy(
            "E-LOCKED",
            "meanwhile another bundle was published here: sign that one",
            path=opened.root,
        )
    return SignResult(str(bundle), path, len(digests), key_sha256)
