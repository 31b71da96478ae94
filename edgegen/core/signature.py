"""model.sig: a site's own signature over a bundle, made and checked offline with an elliptic-curve
key.

The format is that of OpenSSF model signing 1.0: a sigstore bundle (v0.3) around a DSSE envelope
around an in-toto statement that lists the sha256 of every file. `model_signing verify key` of the
OpenSSF accepts ours, and we accept its (docs/decisions/0009-signature.md).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import TrustError, UsageError
from .files import JsonObject, parse_json, to_json
from .keys import NEWEST, SiteKeys, fingerprint, private_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

SIGNATURE = "model.sig"
SIGNATURE_BYTES = 16 << 20
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT, _PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
# The keys of the document, its envelope, its material, the key in that, and the one signature.
_KEYS = (
    {"mediaType", "verificationMaterial", "dsseEnvelope"},
    {"payload", "payloadType", "signatures"},
    {"publicKey", "tlogEntries"},
    {"hint"},
    {"sig", "keyid"},
)
# the hash that is signed, by curve
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def sign(
    name: str,
    digests: Mapping[str, str],
    key_file: Path,
    passphrase: bytes | None = None,
    release: int | None = None,
) -> tuple[bytes, str]:
    """Sign a bundle, and return the bytes of model.sig and the key's fingerprint.

    name: the bundle's name, for people; digests: sha256 by path in the bundle; release: a number
    for which sites may require a minimum. UsageError for a release out of range.
    """
    if release is not None and not 0 <= release <= NEWEST:
        raise UsageError("E-USAGE", f"a release is a number from 0 to {NEWEST}, got {release}")
    key = private_key(key_file, passphrase)
    payload = to_json(
        {
            "_type": _STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": _root(digests)}}],
            "predicateType": _PREDICATE,
            "predicate": _predicate(digests, release),
        }
    )
    signed = key.sign(_encoded(payload), _algorithm(key.public_key()))
    made_by = fingerprint(key.public_key())
    return to_json(
        {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": made_by}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
            },
        }
    ), made_by


def _predicate(digests: Mapping[str, str], release: int | None) -> JsonObject:
    """Return the predicate that is signed; only `release` is not part of OpenSSF's format."""
    return {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [SIGNATURE],
        },
        "resources": [
            {"name": n, "algorithm": "sha256", "digest": digests[n]} for n in sorted(digests)
        ],
        **({} if release is None else {"release": release}),
    }


@dataclass(frozen=True)
class Signed:
    """The fingerprint of the key that signed, and the signed release number, if there is one."""

    fingerprint: str
    release: int | None


def check(data: bytes, path: Path, digests: Mapping[str, str], keys: SiteKeys) -> Signed:
    """Check that an accepted key signed exactly these files, and return who signed them.

    data: the signature, read from `path`; digests: sha256 by path in the bundle. TrustError says
    why a signature is not accepted.
    """
    payload, signature, hint = _opened(data, path)
    signer = _signer(payload, signature, keys)
    if signer is None:
        if why := keys.refusal(hint):
            raise TrustError("E-KEY-REVOKED", f"it says key {hint[:16]}...: {why}", path=path)
        other = hint not in ("", *keys.public)
        why = (
            f"it was signed with another key ({hint[:16]}...)"
            if other
            else "the signature does not match what it signs"
        )
        raise TrustError("E-SIGNATURE", why, path=path)
    if hint not in ("", signer):
        what = "it names another key than the one that signed it"
        raise TrustError("E-SIGNATURE", what, path=path)
    if why := keys.refusal(signer):
        raise TrustError("E-KEY-REVOKED", f"it was signed by {signer[:16]}...: {why}", path=path)
    signed, release = _statement(payload, path)
    if signed != dict(digests):
        names = sorted(n for n in {*signed, *digests} if signed.get(n) != digests.get(n))
        raise TrustError(
            "E-SIGNATURE", f"other files were signed: {', '.join(names[:5])}", path=path
        )
    if (release or 0) < keys.least_release:
        found = "without a release number" if release is None else f"as release {release}"
        raise TrustError(
            "E-RELEASE",
            f"it was signed {found}, and this site takes {keys.least_release} or newer",
            path=path,
            hint="take the newer bundle",
        )
    return Signed(signer, release)


def _signer(payload: bytes, signature: bytes, keys: SiteKeys) -> str | None:
    """Return the fingerprint of the site's key that made this signature, or None.

    The key that the signature file names is not considered.
    """
    from cryptography.exceptions import InvalidSignature

    for name, key in keys.public.items():
        with contextlib.suppress(InvalidSignature):
            key.verify(signature, _encoded(payload), _algorithm(key))
            return name
    return None


def _opened(data: bytes, path: Path) -> tuple[bytes, bytes, str]:
    """Return the payload, the signature and the key's hint in a signature file."""
    try:
        document = parse_json(data)
        envelope, material = document["dsseEnvelope"], document["verificationMaterial"]
        (signature_entry,) = envelope["signatures"]
        held = (document, envelope, material, material["publicKey"], signature_entry)
        # These parts are not signed, so they must have their exact form, to reveal damage.
        if any(set(part) != names for part, names in zip(held, _KEYS, strict=True)):
            raise ValueError("it holds other keys than a signature has")
        if (material["tlogEntries"], signature_entry["keyid"]) != ([], ""):
            raise ValueError("it holds entries of a log, or the id of a key")
        if (document["mediaType"], envelope["payloadType"]) != (_BUNDLE, _PAYLOAD):
            raise ValueError(f"its type is {document['mediaType']} of {envelope['payloadType']}")
        payload, signature = (
            base64.b64decode(x, validate=True)
            for x in (envelope["payload"], signature_entry["sig"])
        )
        return payload, signature, str(material["publicKey"]["hint"] or "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-SIGNATURE", f"this is no signature of a model: {error}", path=path
        ) from error


def _statement(payload: bytes, path: Path) -> tuple[dict[str, str], int | None]:
    """Return the signed sha256 by file, and the release.

    The paths that the signer lists to be ignored are not ignored.
    """
    try:
        statement = parse_json(payload)
        predicate = statement["predicate"]
        resources, method = predicate["resources"], predicate["serialization"]["method"]
        digests = {r["name"]: r["digest"] for r in resources if r["algorithm"] == "sha256"}
        if (
            (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE)
            or method != "files"
            or len(digests) != len(resources)
            or not all(isinstance(word, str) for pair in digests.items() for word in pair)
        ):
            raise ValueError(f"{statement['predicateType']} over {method}")
        release = predicate.get("release")
        if release is not None and (type(release) is not int or not 0 <= release <= NEWEST):
            raise ValueError(f"the release {release!r} is no number")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-SIGNATURE", f"what it signs is no list of files: {error}", path=path
        ) from error
    return digests, release


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol 1.0): type and length are signed too."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _root(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digests[n]) for n in sorted(digests))).hexdigest()


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])())
