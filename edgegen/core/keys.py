"""The keys of a site: whose signatures it accepts, which keys are revoked or replaced, and the
oldest release it accepts.

A site names public keys one by one, or keeps them as NAME.pem in a folder, with an optional
keys.json that revokes or replaces keys (docs/guides/signing.md).

    {"schema_version": 1, "least_release": 12,
     "revoked": {"FINGERPRINT": "the laptop was stolen"},
     "replaced": {"FINGERPRINT OF THE OLD": "FINGERPRINT OF THE NEW"}}
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import InputError, RuntimeMissing, UsageError
from .files import read_json
from .manifest import whole
from .reader import KEY_BYTES, Places, read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

POLICY = "keys.json"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
NEWEST = 2**31 - 1  # largest release number
_PEM = re.compile(rb"-----BEGIN [^\n]*-----.*?-----END [^\n]*-----[ \t\r]*\n?", re.DOTALL)
Fingerprint = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Release = Annotated[int, Field(ge=0, le=NEWEST)]


class KeyPolicy(BaseModel):
    """The content of keys.json."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: Annotated[Literal[1], BeforeValidator(whole)]
    revoked: dict[Fingerprint, str] = {}  # fingerprint -> why
    replaced: dict[Fingerprint, Fingerprint] = {}  # fingerprint of the old key -> of the new one
    least_release: Release = 0


@dataclass(frozen=True)
class SiteKeys:
    """The public keys of a site and its rules for them.

    public: keys by fingerprint; revoked: reason by fingerprint; replaced: new fingerprint by old;
    least_release: a bundle of an older release is refused, and 0 accepts all.
    """

    public: Mapping[str, EllipticCurvePublicKey]
    revoked: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)
    least_release: int = 0

    def refusal(self, fingerprint: str) -> str | None:
        """Return why signatures of that key are no longer accepted, or None if they are."""
        if fingerprint in self.revoked:
            return f"the site revoked this key: {self.revoked[fingerprint] or 'no reason given'}"
        if fingerprint in self.replaced:
            return f"the site replaced this key by {self.replaced[fingerprint][:16]}..."
        return None


def site_keys(places: Places, least_release: int | None = None) -> SiteKeys | None:
    """Read the keys in the named files and folders, and return None if none are named.

    InputError for a key that cannot be used, UsageError for a least release without any key,
    because only a signature proves the release.
    """
    named = [places] if isinstance(places, Path | str) else list(places or ())
    if not named:
        if least_release is not None:
            raise UsageError(
                "E-USAGE",
                "--least-release is held to what a signature says: add --public-key",
            )
        return None
    public: dict[str, EllipticCurvePublicKey] = {}
    revoked: dict[str, str] = {}
    replaced: dict[str, str] = {}
    least = [least_release or 0]
    for place in map(Path, named):
        for path in _files(place):
            for key in _public(path):
                public[fingerprint(key)] = key
        if os.path.lexists(place / POLICY):
            policy = _policy(place / POLICY)
            revoked |= policy.revoked
            replaced |= policy.replaced
            least.append(policy.least_release)
    return SiteKeys(public, revoked, replaced, max(least))


def _files(place: Path) -> list[Path]:
    if not os.path.isdir(place):
        return [place]
    try:
        found = sorted(path for path in place.iterdir() if path.suffix == ".pem")
    except OSError as error:
        raise InputError("E-KEY", f"cannot be read: {error.strerror}", path=place) from error
    if not found:
        raise InputError("E-KEY", "this folder holds no public key, NAME.pem", path=place)
    return found


def _policy(path: Path) -> KeyPolicy:
    try:
        return KeyPolicy.model_validate(read_json(path, KEY_BYTES))
    except InputError as error:
        raise InputError("E-KEY", error.message, path=path) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise InputError("E-KEY", f"{where}: {first['msg']}", path=path) from error


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the sha256 of the public key in PEM format, in hexadecimal."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def private_key(path: Path, passphrase: bytes | None) -> EllipticCurvePrivateKey:
    """Read a private key from a PEM file.

    InputError if the file is not a private key in PEM, or the passphrase does not open it.
    """
    from_pem = _library().load_pem_private_key
    data = read_bytes(path, KEY_BYTES, "E-KEY")
    try:
        key = from_pem(data, passphrase)
    # TypeError: a passphrase is missing, or one was given for a key that has none
    except (TypeError, ValueError, _unsupported()) as error:
        raise InputError(
            "E-KEY", f"this is no private key in PEM that opens: {error}", path=path
        ) from error
    return _curved(key, path)


def _public(path: Path) -> list[EllipticCurvePublicKey]:
    """Read all public keys of a PEM file, one or more."""
    from_pem = _library().load_pem_public_key
    data = read_bytes(path, KEY_BYTES, "E-KEY")
    try:
        keys = [from_pem(part) for part in _PEM.findall(data) or [data]]
    except (ValueError, _unsupported()) as error:
        raise InputError("E-KEY", "this is no public key in PEM", path=path) from error
    return [_curved(key, path) for key in keys]


def _curved(key: Any, path: Path) -> Any:
    """Return the key if it is on one of CURVES; otherwise raise InputError."""
    name = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if name not in CURVES:
        raise InputError(
            "E-KEY", f"the key must be on {', '.join(CURVES)}, and this is {name}", path=path
        )
    return key


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm


def _library() -> ModuleType:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        what = 'signatures need cryptography, which is not installed: pip install "edgegen[sign]"'
        raise RuntimeMissing("E-BACKEND", what) from error
    return serialization
