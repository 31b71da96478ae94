"""A signed bundle is what its signer signed, or it is refused; ours and the OpenSSF's signatures
are the same format.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, Bundle, digest
from edgegen.core.files import read_json, to_json
from edgegen.core.keys import site_keys
from edgegen.core.signature import SIGNATURE
from edgegen.errors import InputError, TrustError
from edgegen.export import runtime

pytest.importorskip("cryptography", reason="signatures need the extra sign")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

GOLDEN = Path(__file__).parent / "golden"
TOY = GOLDEN / "bundle-1-toy"  # with the signature that model-signing 1.1.1 of the OpenSSF made
OPENSSF = GOLDEN / "bundle-1-toy.pub.pem"


def written(folder: Path, name: str, key: Any, passphrase: bytes = b"") -> tuple[Path, Path]:
    """The private key's file and the public one's."""
    pem, locked = (
        serialization.Encoding.PEM,
        serialization.BestAvailableEncryption(passphrase) if passphrase else None,
    )
    (private := folder / f"{name}.key").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, locked or serialization.NoEncryption()
        )
    )
    (public := folder / f"{name}.pem").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, Path]:
    return written(tmp_path, "site", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def unsigned(tmp_path: Path) -> Path:
    shutil.copytree(TOY, root := tmp_path / "bundle")
    (root / SIGNATURE).unlink()
    return root


@pytest.fixture
def signed(unsigned: Path, key: tuple[Path, Path]) -> Path:
    assert run(["sign", str(unsigned), "--key", str(key[0])]) == 0
    return unsigned


def test_a_signature_of_the_openssf_tool_is_accepted() -> None:
    assert (
        Bundle.open(TOY, site_keys(OPENSSF)).signed_by
        == hashlib.sha256(OPENSSF.read_bytes()).hexdigest()
    )


@pytest.mark.parametrize(
    "curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: str(c.name)
)
def test_signed_and_checked(
    curve: ec.EllipticCurve, unsigned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private, public = written(tmp_path, "k", ec.generate_private_key(curve))
    assert Bundle.open(unsigned).signed_by is None and not Bundle.open(unsigned).is_signed
    assert run(["sign", str(unsigned), "--key", str(private), "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    opened = Bundle.open(unsigned, site_keys(public))
    assert opened.signed_by == made["key_sha256"] and opened.digests().keys() == {
        MANIFEST,
        *opened.manifest.files,
    }
    assert Bundle.open(unsigned).is_signed, "and readable without a key"
    assert run(["verify", str(unsigned), "--files-only", "--public-key", str(public)]) == 0
    assert f"signed by key {made['key_sha256'][:16]}" in capfd.readouterr().out
    assert run(["verify", str(unsigned), "--files-only"]) == 0
    assert "Signature not checked: pass --public-key." in capfd.readouterr().out


def test_the_format_is_that_of_openssf_model_signing(signed: Path, key: tuple[Path, Path]) -> None:
    """Field by field as its own signature of the same files; and its own verifier agrees where it
    is installed.
    """
    ours, theirs = (read_json(root / SIGNATURE) for root in (signed, TOY))
    assert ours.keys() == theirs.keys() and ours["mediaType"] == theirs["mediaType"]
    assert ours["verificationMaterial"].keys() == theirs["verificationMaterial"].keys()
    assert ours["dsseEnvelope"].keys() == theirs["dsseEnvelope"].keys()
    mine, its = (json.loads(base64.b64decode(s["dsseEnvelope"]["payload"])) for s in (ours, theirs))
    assert (mine["_type"], mine["predicateType"]) == (its["_type"], its["predicateType"])
    assert mine["subject"][0]["digest"] == its["subject"][0]["digest"]
    assert mine["predicate"] == its["predicate"]
    verifying = pytest.importorskip(
        "model_signing.verifying", reason="the OpenSSF's verifier is not installed"
    )
    verifying.Config().use_elliptic_key_verifier(public_key=key[1]).verify(
        signed, signed / SIGNATURE
    )


def rehashed(root: Path) -> None:
    """What an attacker who can make hashes, but not signatures, writes."""
    data = read_json(root / MANIFEST)
    data["evidence"]["runtimes"]["onnxruntime"]["verdict"] = "outside"
    data["sha256"] = digest(data)
    (root / MANIFEST).write_bytes(to_json(data))


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        data = read_json(root / SIGNATURE)
        change(data)
        (root / SIGNATURE).write_bytes(to_json(data))

    return apply


def repacked(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Another payload under the old signature."""

    def inner(data: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(data["dsseEnvelope"]["payload"]))
        change(payload)
        data["dsseEnvelope"]["payload"] = base64.b64encode(to_json(payload)).decode()

    return changed(inner)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (rehashed, "other files were signed: manifest.json"),
        (lambda root: (root / SIGNATURE).unlink(), "the bundle is not signed"),
        (lambda root: (root / SIGNATURE).write_bytes(b""), "this is no signature of a model"),
        (
            lambda root: (root / SIGNATURE).write_bytes((root / SIGNATURE).read_bytes()[:500]),
            "this is no signature of a model",
        ),
        (lambda root: (root / SIGNATURE).write_text("[]"), "this is no signature of a model"),
        (changed(lambda s: s.update(mediaType="text/plain")), "its type is text/plain"),
        (changed(lambda s: s["dsseEnvelope"].update(payloadType="text/plain")), "text/plain"),
        (
            changed(lambda s: s["dsseEnvelope"].update(signatures=[])),
            "this is no signature of a model",
        ),
        (
            changed(
                lambda s: s["dsseEnvelope"]["signatures"].append(s["dsseEnvelope"]["signatures"][0])
            ),
            "this is no signature",
        ),
        (
            changed(lambda s: s["dsseEnvelope"].update(payload="?")),
            "this is no signature of a model",
        ),
        (
            changed(lambda s: s["dsseEnvelope"]["signatures"][0].update(sig="AAAA")),
            "does not match what it signs",
        ),
        (repacked(lambda p: p["predicate"]["resources"].pop()), "does not match what it signs"),
        (
            repacked(lambda p: p["predicate"]["serialization"].update(ignore_paths=["graphs"])),
            "does not match what it signs",
        ),
    ],
)
def test_anything_else_than_was_signed_is_refused(
    spoil: Callable[[Path], object], said: str, signed: Path, key: tuple[Path, Path]
) -> None:
    spoil(signed)
    with pytest.raises(TrustError, match=said) as caught:
        Bundle.open(signed, site_keys(key[1]))
    assert caught.value.code == "E-SIGNATURE" and caught.value.exit_code == 6


def test_files_are_checked_before_the_signature(signed: Path, key: tuple[Path, Path]) -> None:
    (signed / "README.md").write_bytes(b"x")
    with pytest.raises(TrustError, match=r"E-HASH\] README.md is not the file that was exported"):
        Bundle.open(signed, site_keys(key[1]))
    (signed / SIGNATURE).unlink()
    (signed / SIGNATURE).symlink_to(key[1])
    with pytest.raises(TrustError, match=r"model\.sig is a link"):
        Bundle.open(signed, site_keys(key[1]))


def test_another_keys_owner_did_not_sign_it(
    signed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, other = written(tmp_path, "other", ec.generate_private_key(ec.SECP256R1()))
    flags = ["--public-key", str(other)]
    out = str(tmp_path / "o.png")
    for command in (
        ["verify", str(signed)],
        ["generate", str(signed), "-o", out],
        ["bench", str(signed)],
    ):
        assert run([*command, *flags]) == 6
        assert "E-SIGNATURE] it was signed with another key (" in capfd.readouterr().err
    assert not Path(out).exists()


def test_engines_of_a_signed_bundle_need_no_further_trust(tmp_path: Path) -> None:
    """They are refused without a key though there is a signature; with it, only a GPU is
    missing.
    """
    shutil.copytree(GOLDEN / "bundle-1", root := tmp_path / "b")
    private, public = written(tmp_path, "k", ec.generate_private_key(ec.SECP256R1()))
    assert run(["sign", str(root), "--key", str(private)]) == 0
    engines = runtime("tensorrt-rtx")
    with pytest.raises(
        TrustError, match=r"nobody vouches for this bundle .* give its signer's --public-key"
    ):
        Bundle.open(root).pipeline(engines)
    flags = ["--runtime", "tensorrt-rtx", "--public-key", str(public)]
    assert run(["generate", str(root), *flags, "-o", str(tmp_path / "o.png")]) == 5


def test_a_bundle_is_signed_once(signed: Path, key: tuple[Path, Path], tmp_path: Path) -> None:
    before = (signed / SIGNATURE).read_bytes()
    assert run(["sign", str(signed), "--key", str(key[0])]) == 2
    assert (signed / SIGNATURE).read_bytes() == before
    private, public = written(tmp_path, "next", ec.generate_private_key(ec.SECP256R1()))
    assert run(["sign", str(signed), "--key", str(private), "--overwrite"]) == 0
    assert Bundle.open(signed, site_keys(public)).signed_by
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_damaged_bundle_is_not_signed(unsigned: Path, key: tuple[Path, Path]) -> None:
    (unsigned / "README.md").write_bytes(b"x")
    assert run(["sign", str(unsigned), "--key", str(key[0])]) == 6
    assert not (unsigned / SIGNATURE).exists()


def test_a_key_with_a_passphrase(
    unsigned: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private, public = written(
        tmp_path, "locked", ec.generate_private_key(ec.SECP256R1()), b"open sesame"
    )
    assert run(["sign", str(unsigned), "--key", str(private)]) == 4
    assert "E-KEY] this is no private key in PEM that opens" in capfd.readouterr().err
    (tmp_path / "phrase").write_bytes(b"open sesame\r\n")
    assert (
        run(
            [
                "sign",
                str(unsigned),
                "--key",
                str(private),
                "--passphrase-file",
                str(tmp_path / "phrase"),
            ]
        )
        == 0
    )
    assert Bundle.open(unsigned, site_keys(public)).signed_by


def test_keys_that_cannot_be_used_are_said_so(
    signed: Path, key: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = written(tmp_path, "ed", ed25519.Ed25519PrivateKey.generate())
    for path, said in (
        (
            public,
            "the key must be on secp256r1, secp384r1, secp521r1, and this is Ed25519PublicKey",
        ),
        (key[0], "this is no public key in PEM"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            Bundle.open(signed, site_keys(path))
        assert caught.value.code == "E-KEY"
    assert run(["sign", str(signed), "--key", str(private), "--overwrite"]) == 4
    assert run(["sign", str(signed), "--key", str(key[1]), "--overwrite"]) == 4


def test_a_disk_that_refuses_leaves_the_bundle_as_it_was(
    signed: Path, key: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (signed / SIGNATURE).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run(["sign", str(signed), "--key", str(key[0]), "--overwrite"]) == 7
    monkeypatch.undo()
    assert (signed / SIGNATURE).read_bytes() == before and Bundle.open(
        signed, site_keys(key[1])
    ).signed_by
    assert not [p for p in signed.parent.iterdir() if p.name.startswith(".edgegen")]
