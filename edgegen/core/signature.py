"""model.sig: a site's own signature over a bundle, made and checked offline with an elliptic-curve
key.

The format is that of OpenSSF model signing 1.0: a sigstore bundle (v0.3) around a DSSE envelope
around an in-toto statement that lists the sha256 of every file. `model_signing verify key` of the
OpenSSF accepts ours, and we accept its (docs/decisions/0009-signature.md).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, RuntimeMissing, TrustError
from .files import read_json, to_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

SIGNATURE = "model.sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT, _PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
# curve -> what is signed
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def sign(
    name: str, digests: Mapping[str, str], private_key: Path, passphrase: bytes | None = None
) -> tuple[bytes, str]:
    """The file's bytes and the key's fingerprint. digests: sha256 by path in the bundle; name: of
    the bundle, for people.
    """
    key = _private(private_key, passphrase)
    payload = to_json(
        {
            "_type": _STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": _root(digests)}}],
            "predicateType": _PREDICATE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURE],
                },
                "resources": [
                    {"name": n, "algorithm": "sha256", "digest": digests[n]}
                    for n in sorted(digests)
                ],
            },
        }
    )
    signed = key.sign(_encoded(payload), _algorithm(key.public_key()))
    fingerprint = _fingerprint(key.public_key())
    return to_json(
        {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": fingerprint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
            },
        }
    ), fingerprint


def check(root: Path, digests: Mapping[str, str], public_key: Path) -> str:
    """Fingerprint of the key, if it signed exactly these files; else TrustError with the reason."""
    path = root / SIGNATURE
    key = _public(public_key)
    if not path.is_file():
        raise TrustError(
            "E-SIGNATURE",
            "the bundle is not signed",
            path=root,
            hint="edgegen sign BUNDLE --key KEY",
        )
    payload, signature, hint = _opened(path)
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, _encoded(payload), _algorithm(key))
    except InvalidSignature as error:
        other = hint not in ("", _fingerprint(key))
        why = (
            f"it was signed with another key ({hint[:16]}...)"
            if other
            else "the signature does not match what it signs"
        )
        raise TrustError("E-SIGNATURE", why, path=path) from error
    signed = _resources(payload, path)
    if signed != dict(digests):
        names = sorted(n for n in {*signed, *digests} if signed.get(n) != digests.get(n))
        raise TrustError(
            "E-SIGNATURE", f"other files were signed: {', '.join(names[:5])}", path=path
        )
    return _fingerprint(key)


def _opened(path: Path) -> tuple[bytes, bytes, str]:
    """Payload, signature, and hint of the key."""
    try:
        data = read_json(path)
        envelope = data["dsseEnvelope"]
        (signature_entry,) = envelope["signatures"]
        if (data["mediaType"], envelope["payloadType"]) != (_BUNDLE, _PAYLOAD):
            raise ValueError(f"its type is {data['mediaType']} of {envelope['payloadType']}")
        payload, signature = (
            base64.b64decode(x, validate=True)
            for x in (envelope["payload"], signature_entry["sig"])
        )
        return payload, signature, str(data["verificationMaterial"]["publicKey"]["hint"] or "")
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-SIGNATURE", f"this is no signature of a model: {error}", path=path
        ) from error


def _resources(payload: bytes, path: Path) -> dict[str, str]:
    """sha256 by file, as signed; paths that the signer asked to ignore are not ignored."""
    try:
        statement = json.loads(payload)
        resources = statement["predicate"]["resources"]
        digests = {r["name"]: r["digest"] for r in resources if r["algorithm"] == "sha256"}
        method = statement["predicate"]["serialization"]["method"]
        if (
            statement["predicateType"] != _PREDICATE
            or method != "files"
            or len(digests) != len(resources)
        ):
            raise ValueError(f"{statement['predicateType']} over {method}")
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-SIGNATURE", f"what it signs is no list of files: {error}", path=path
        ) from error
    return digests


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol 1.0): type and length are signed too."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _root(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digests[n]) for n in sorted(digests))).hexdigest()


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    """sha256 of the public key's PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(
        key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _HASHES[key.curve.name])())


def _private(path: Path, passphrase: bytes | None) -> EllipticCurvePrivateKey:
    from_pem = _library().load_pem_private_key
    try:
        key = from_pem(path.read_bytes(), passphrase)
    # TypeError: a passphrase is missing, or one was given for a key that has none
    except (TypeError, ValueError) as error:
        raise InputError(
            "E-KEY", f"this is no private key in PEM that opens: {error}", path=path
        ) from error
    except OSError as error:
        raise InputError("E-KEY", f"cannot be read: {error.strerror}", path=path) from error
    return _curved(key, path)


def _public(path: Path) -> EllipticCurvePublicKey:
    from_pem = _library().load_pem_public_key
    try:
        key = from_pem(path.read_bytes())
    except ValueError as error:
        raise InputError("E-KEY", "this is no public key in PEM", path=path) from error
    except OSError as error:
        raise InputError("E-KEY", f"cannot be read: {error.strerror}", path=path) from error
    return _curved(key, path)


def _curved(key: Any, path: Path) -> Any:
    """The key, whichever kind PEM held, if it is on a curve that we sign with."""
    name = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if name not in _HASHES:
        raise InputError(
            "E-KEY", f"the key must be on {', '.join(_HASHES)}, and this is {name}", path=path
        )
    return key


def _library() -> ModuleType:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        what = 'signatures need cryptography, which is not installed: pip install "edgegen[sign]"'
        raise RuntimeMissing("E-BACKEND", what) from error
    return serialization
