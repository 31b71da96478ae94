"""A site vouches for a bundle with its own key; no network and no third party."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Busy, UsageError
from .bundles import read_bundle


@dataclass(frozen=True)
class SignResult:
    """Where the signature is, over how many files, and the sha256 of the public key."""

    bundle: str
    signature: Path
    files: int
    key_sha256: str

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen sign --json`, but for its frame."""
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
    """Check a bundle and sign it with a private key in PEM, on the curve P-256, P-384 or P-521.

    release: a number that grows, by which a site refuses older bundles. Devices hold the bundle to
    the public key, and may then run its engines. Raises TrustError for a damaged bundle, InputError
    for a key that cannot be used, UsageError where there is a signature that may not be
    overwritten.
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
    # not inside: a kill would leave a file there that nobody listed
    write_bytes(path, signature, folder.parent)
    if not opened.files.is_current():
        raise Busy(
            "E-LOCKED",
            "meanwhile another bundle was published here: sign that one",
            path=opened.root,
        )
    return SignResult(str(bundle), path, len(digests), key_sha256)
