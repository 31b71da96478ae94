"""Signatures and keys as they live: several, revoked, replaced, damaged, of the wrong kind; and an
older bundle in place of a newer one.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.attack import TOY, attacked, copy, resealed
from edgegen.core.bundle import Bundle
from edgegen.core.files import read_json, to_json
from edgegen.core.keys import POLICY, site_keys
from edgegen.core.signature import SIGNATURE, _encoded
from edgegen.errors import InputError, TrustError, UsageError
from edgegen.workflows.bundles import open_bundle

pytest.importorskip("cryptography", reason="signatures need the extra sign")
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519

Captured = pytest.CaptureFixture[str]
Spoil = Callable[[Path], object]
PEM = serialization.Encoding.PEM
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def written(folder: Path, name: str, key: Any) -> Path:
    """NAME.pem in the folder, and NAME.key beside it; the public file."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / f"{name}.pem").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """old.pem, new.pem and other.pem; the bundle "signed" by old, "newer" by new as release 7."""
    from edgegen.workflows.signing import sign_bundle

    place = tmp_path_factory.mktemp("site")
    for name in ("old", "new", "other"):
        written(place / "keys", name, ec.generate_private_key(ec.SECP256R1()))
    for name, key, release in (("signed", "old", None), ("newer", "new", 7)):
        copy(place / name)
        sign_bundle(place / name / "bundle", place / "keys" / f"{key}.key", release=release)
    return place


def print_of(path: Path) -> str:
    (key,) = site_keys([path]).public  # type: ignore[union-attr]
    return key


def key_folder(site: Path, place: Path, names: str, **policy: Any) -> Path:
    """A folder of these keys with this keys.json, if it says anything."""
    place.mkdir()
    for name in names.split():
        shutil.copyfile(site / "keys" / f"{name}.pem", place / f"{name}.pem")
    if policy:
        (place / POLICY).write_bytes(to_json({"schema_version": 1, **policy}))
    return place


def test_one_of_several_keys_is_enough(site: Path, tmp_path: Path) -> None:
    keys = [site / "keys" / f"{name}.pem" for name in ("other", "old", "new")]
    for name in ("signed", "newer"):
        assert open_bundle(site / name / "bundle", keys).signed_by is not None
    folder = key_folder(site, tmp_path / "keys", "other old new")
    assert open_bundle(site / "newer" / "bundle", folder).release == 7
    assert open_bundle(site / "signed" / "bundle", [keys[0], folder]).release is None
    joined = tmp_path / "all.pem"
    joined.write_bytes(b"# keys of the site\n".join(key.read_bytes() for key in keys))
    assert open_bundle(site / "signed" / "bundle", joined).signed_by == print_of(keys[1])
    with pytest.raises(TrustError, match="it was signed with another key"):
        open_bundle(site / "signed" / "bundle", [keys[0], keys[2]])


@pytest.mark.parametrize("verb", ["generate", "verify", "bench", "build"])
def test_every_verb_takes_several_keys_and_a_least_release(
    verb: str, site: Path, tmp_path: Path, capfd: Captured
) -> None:
    flags = {
        "generate": ["-o", str(tmp_path / "o.png"), "-n", "1"],
        "verify": ["--files-only"],
        "bench": ["--rounds", "5", "--batch", "1"],
    }.get(verb, [])
    keys = [f"--public-key={site / 'keys' / name}.pem" for name in ("other", "new")]
    bundle = str(site / "newer" / "bundle")
    attacked([verb, bundle, *flags, *keys, "--least-release", "7"], capfd, (0,))
    said = attacked([verb, bundle, *flags, *keys, "--least-release", "8"], capfd, (6,))
    assert "E-RELEASE] it was signed as release 7, and this site takes 8 or newer" in said
    said = attacked([verb, bundle, *flags, "--least-release", "7"], capfd, (2,))
    assert "add --public-key" in said


def test_a_bundle_without_a_number_is_older_than_any(site: Path) -> None:
    old, bundle = site / "keys" / "old.pem", site / "signed" / "bundle"
    assert open_bundle(bundle, old, 0).release is None
    with pytest.raises(TrustError, match="signed without a release number"):
        open_bundle(bundle, old, 1)


def test_a_site_pins_its_least_release_in_a_file(site: Path, tmp_path: Path) -> None:
    folder = key_folder(site, tmp_path / "keys", "old new", least_release=7)
    assert open_bundle(site / "newer" / "bundle", folder).release == 7
    with pytest.raises(TrustError, match="E-RELEASE"):
        open_bundle(site / "signed" / "bundle", folder)
    with pytest.raises(TrustError, match="takes 8 or newer"):
        open_bundle(site / "newer" / "bundle", folder, 8)
    open_bundle(site / "newer" / "bundle", folder, 6)  # the flag takes nothing back


@pytest.mark.parametrize("names", ["new old", "new"])
@pytest.mark.parametrize("how", ["revoked", "replaced"])
def test_a_key_that_counts_no_more(how: str, names: str, site: Path, tmp_path: Path) -> None:
    """Whether its file is still there or not; the others count as before."""
    old, new = (print_of(site / "keys" / f"{name}.pem") for name in ("old", "new"))
    said = {"revoked": {old: "the laptop was stolen"}, "replaced": {old: new}}[how]
    folder = key_folder(site, tmp_path / "keys", names, **{how: said})
    with pytest.raises(TrustError) as caught:
        open_bundle(site / "signed" / "bundle", folder)
    assert caught.value.code == "E-KEY-REVOKED" and caught.value.exit_code == 6
    assert ("stolen" if how == "revoked" else new[:16]) in str(caught.value)
    assert open_bundle(site / "newer" / "bundle", folder).signed_by == new
    alone = site / "keys" / "old.pem"  # named beside the folder it is revoked all the same
    with pytest.raises(TrustError, match="E-KEY-REVOKED"):
        open_bundle(site / "signed" / "bundle", [alone, folder])


def test_what_a_signature_says_of_its_key_decides_nothing(site: Path, tmp_path: Path) -> None:
    """The hint is not signed: a revoked key without it, or under another's name, stays revoked."""
    shutil.copytree(site / "signed" / "bundle", root := tmp_path / "bundle")
    old, new = (print_of(site / "keys" / f"{name}.pem") for name in ("old", "new"))
    folder = key_folder(site, tmp_path / "keys", "old new", revoked={old: ""})
    for hint, alone, revoked in (
        ("", None, r"E-KEY-REVOKED.*no reason given"),
        (new, "it names another key", "E-"),
        ("x" * 64, "it names another key", "E-"),
    ):
        document = read_json(root / SIGNATURE)
        document["verificationMaterial"]["publicKey"]["hint"] = hint
        (root / SIGNATURE).write_bytes(to_json(document))
        if alone is None:
            assert Bundle.open(root, site_keys(site / "keys" / "old.pem")).signed_by == old
        else:
            with pytest.raises(TrustError, match=alone):
                Bundle.open(root, site_keys(site / "keys" / "old.pem"))
        with pytest.raises(TrustError, match=revoked):
            Bundle.open(root, site_keys(folder))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (b"", "not usable JSON"),
        (b"[]", "Input should be a valid dictionary"),
        (b"{}", "schema_version: Field required"),
        (b'{"schema_version": 2}', "schema_version"),
        (b'{"schema_version": true}', "schema_version"),
        (b'{"schema_version": 1, "revoke": {}}', "revoke: Extra inputs"),
        (b'{"schema_version": 1, "revoked": []}', "revoked"),
        (b'{"schema_version": 1, "revoked": {"short": ""}}', "revoked"),
        (b'{"schema_version": 1, "revoked": {"' + b"a" * 64 + b'": 1}}', "revoked"),
        (b'{"schema_version": 1, "replaced": {"' + b"a" * 64 + b'": "b"}}', "replaced"),
        (b'{"schema_version": 1, "least_release": -1}', "least_release"),
        (b'{"schema_version": 1, "least_release": 1.5}', "least_release"),
        (b'{"schema_version": 1, "least_release": "7"}', "least_release"),
        (b'{"schema_version": 1, "least_release": 99999999999}', "least_release"),
        (b'{"schema_version": 1, "schema_version": 1}', "a key appears twice"),
        (b"[" * 50_000, "nested too deeply"),
    ],
    ids=range(16),
)
def test_a_policy_that_cannot_be_read_is_not_passed_over(
    policy: bytes, said: str, site: Path, tmp_path: Path
) -> None:
    folder = key_folder(site, tmp_path / "keys", "old")
    (folder / POLICY).write_bytes(policy)
    with pytest.raises(InputError, match=said) as caught:
        open_bundle(site / "signed" / "bundle", folder)
    assert caught.value.code == "E-KEY"


def test_a_folder_without_keys_and_a_policy_that_is_a_link_to_nothing(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="this folder holds no public key"):
        site_keys(tmp_path / "none")
    folder = key_folder(site, tmp_path / "keys", "old")
    (folder / POLICY).symlink_to("nothing")
    with pytest.raises(InputError, match="E-KEY"):
        site_keys(folder)


def test_keys_and_releases_that_mean_nothing() -> None:
    assert site_keys(None) is None and site_keys([]) is None
    with pytest.raises(UsageError, match="add --public-key"):
        site_keys(None, 3)


KEYS: dict[str, Any] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "x25519": x25519.X25519PrivateKey.generate,
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "secp224r1": lambda: ec.generate_private_key(ec.SECP224R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_other_kinds(kind: str, site: Path, tmp_path: Path, capfd: Captured) -> None:
    public = written(tmp_path / "k", kind, KEYS[kind]())
    bundle = str(site / "signed" / "bundle")
    verify = ["verify", bundle, "--files-only", "--public-key", str(public)]
    assert "the key must be on secp256r1" in attacked(verify, capfd, (4,))
    sign = ["sign", bundle, "--overwrite", "--key", str(public.with_suffix(".key"))]
    assert "the key must be on secp256r1" in attacked(sign, capfd, (4,))


def cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda d: b"",
    "text": lambda d: b"hello",
    "cut": cut,
    "without its end": lambda d: d.replace(b"-----END PUBLIC KEY-----", b""),
    "other letters": lambda d: d.replace(b"M", b"!"),
    "zeros": lambda d: bytes(1000),
    "another label": lambda d: d.replace(b"PUBLIC KEY", b"CERTIFICATE"),
    "a private label": lambda d: d.replace(b"PUBLIC KEY", b"PRIVATE KEY"),
    "der": lambda d: base64.b64decode(b"".join(d.splitlines()[1:-1])),
    "two, of which one is cut": lambda d: d + cut(d) + b"\n-----END PUBLIC KEY-----\n",
    "UTF-16": lambda d: d.decode().encode("utf-16"),
    "large": lambda d: d + b"\n" * (1 << 20),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_key_that_is_damaged(case: str, site: Path, tmp_path: Path, capfd: Captured) -> None:
    for suffix in (".pem", ".key"):
        path = tmp_path / f"k{suffix}"
        path.write_bytes(SPOILT[case]((site / "keys" / f"old{suffix}").read_bytes()))
    if case in ("another label", "a private label", "without its end"):  # of a public key alone
        shutil.copyfile(site / "keys" / "old.pem", tmp_path / "k.key")
    bundle = str(site / "signed" / "bundle")
    verify = ["verify", bundle, "--files-only", "--public-key", str(tmp_path / "k.pem")]
    assert "E-KEY]" in attacked(verify, capfd, (4,))
    sign = ["sign", bundle, "--overwrite", "--key", str(tmp_path / "k.key")]
    if case != "two, of which one is cut":  # a private file's first key is the one
        assert "E-KEY]" in attacked(sign, capfd, (4,))


def edited(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """The signature's document changed."""

    def apply(root: Path) -> None:
        data = read_json(root / SIGNATURE)
        change(data)
        (root / SIGNATURE).write_bytes(to_json(data))

    return apply


def signed_payload(key: Path, payload: bytes) -> Spoil:
    """What the owner of the key would sign who signs anything."""

    def apply(root: Path) -> None:
        private: Any = serialization.load_pem_private_key(key.read_bytes(), None)
        signature = private.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))
        data = read_json(root / SIGNATURE)
        envelope = data["dsseEnvelope"]
        envelope["payload"] = base64.b64encode(payload).decode()
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        (root / SIGNATURE).write_bytes(to_json(data))

    return apply


SIGNATURES: dict[str, Spoil] = {
    "empty": lambda root: (root / SIGNATURE).write_bytes(b""),
    "null": lambda root: (root / SIGNATURE).write_bytes(b"null"),
    "a number": lambda root: (root / SIGNATURE).write_bytes(b"7"),
    "deep": lambda root: (root / SIGNATURE).write_bytes(b"[" * 100_000),
    "17 MB": lambda root: (root / SIGNATURE).write_bytes(b" " * (17 << 20)),
    "a key twice": lambda root: (root / SIGNATURE).write_bytes(b'{"a": 1, "a": 2}'),
    "UTF-16": lambda root: (root / SIGNATURE).write_bytes("{}".encode("utf-16")),
    "no envelope": edited(lambda d: d.pop("dsseEnvelope")),
    "an envelope of text": edited(lambda d: d.update(dsseEnvelope="x")),
    "an envelope of numbers": edited(lambda d: d.update(dsseEnvelope=[1])),
    "signatures by name": edited(lambda d: d["dsseEnvelope"].update(signatures={"a": 1})),
    "a signature of text": edited(lambda d: d["dsseEnvelope"].update(signatures=["x"])),
    "a signature of nothing": edited(lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="")),
    "a signature of a number": edited(lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=1)),
    "a payload of a number": edited(lambda d: d["dsseEnvelope"].update(payload=1)),
    "a payload with spaces": edited(lambda d: d["dsseEnvelope"].update(payload="a b c d")),
    "no material": edited(lambda d: d.pop("verificationMaterial")),
    "material of text": edited(lambda d: d.update(verificationMaterial="x")),
    "a key of a list": edited(lambda d: d["verificationMaterial"].update(publicKey=[])),
    "a key too many": edited(lambda d: d.update(more=1)),
    "an entry of a log": edited(lambda d: d["verificationMaterial"].update(tlogEntries=[{}])),
    "the id of a key": edited(lambda d: d["dsseEnvelope"]["signatures"][0].update(keyid="a")),
    "another media type": edited(lambda d: d.update(mediaType=1)),
    "the signature of another bundle": lambda root: shutil.copyfile(
        TOY / SIGNATURE, root / SIGNATURE
    ),
    "another file's bytes": lambda root: (
        (root / "README.md").write_bytes(b"x"),
        resealed(root),
    ),
    "a hash of the manifest alone": lambda root: resealed(
        root, lambda manifest: manifest.update(scheme="x")
    ),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_a_signature_that_is_none(case: str, site: Path, tmp_path: Path, capfd: Captured) -> None:
    shutil.copytree(site / "signed" / "bundle", root := tmp_path / "bundle")
    SIGNATURES[case](root)
    key = str(site / "keys" / "old.pem")
    attacked(["verify", str(root), "--files-only", "--public-key", key], capfd, (6,))


def statement(root: Path) -> dict[str, Any]:
    payload = read_json(root / SIGNATURE)["dsseEnvelope"]["payload"]
    found: dict[str, Any] = json.loads(base64.b64decode(payload))
    return found


STATEMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "of another type": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "of another predicate": lambda s: s.update(predicateType="x"),
    "without a predicate": lambda s: s.pop("predicate"),
    "over shards": lambda s: s["predicate"]["serialization"].update(method="shards"),
    "without a method": lambda s: s["predicate"].pop("serialization"),
    "over no files": lambda s: s["predicate"].update(resources=[]),
    "over a file less": lambda s: s["predicate"]["resources"].pop(),
    "over a file twice": lambda s: s["predicate"]["resources"].append(
        s["predicate"]["resources"][0]
    ),
    "by another hash": lambda s: s["predicate"]["resources"][0].update(algorithm="md5"),
    "over a name that is none": lambda s: s["predicate"]["resources"][0].update(name=7),
    "over a name that is a list": lambda s: s["predicate"]["resources"][0].update(name=[1]),
    "with a digest that is none": lambda s: s["predicate"]["resources"][0].update(digest=None),
    "as a release in words": lambda s: s["predicate"].update(release="7"),
    "as a release that is true": lambda s: s["predicate"].update(release=True),
    "as a release below nothing": lambda s: s["predicate"].update(release=-1),
    "as a release beyond all": lambda s: s["predicate"].update(release=10**30),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_a_statement_that_is_signed_and_says_nothing(case: str, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "signed" / "bundle", root := tmp_path / "bundle")
    said = statement(root)
    STATEMENTS[case](said)
    signed_payload(site / "keys" / "old.key", to_json(said))(root)
    with pytest.raises(TrustError, match="E-SIGNATURE"):
        Bundle.open(root, site_keys(site / "keys" / "old.pem"))
    for payload in (b"", b"null", b"[" * 100_000, b'{"a": 1, "a": 1}'):
        signed_payload(site / "keys" / "old.key", payload)(root)
        with pytest.raises(TrustError, match="what it signs is no list of files"):
            Bundle.open(root, site_keys(site / "keys" / "old.pem"))


def test_a_release_is_signed_and_shown(site: Path, tmp_path: Path, capfd: Captured) -> None:
    from edgegen.cli.main import run

    root, key = copy(tmp_path), site / "keys" / "new.key"
    assert run(["sign", str(root), "--key", str(key), "--release", "3"]) == 0
    capfd.readouterr()
    verify = ["verify", str(root), "--files-only", "--public-key", str(key.with_suffix(".pem"))]
    assert run(verify) == 0 and "as release 3" in capfd.readouterr().out
    assert run([*verify, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["release"] == 3
    said = statement(root)
    said["predicate"]["release"] = 99  # by somebody without the key
    edited(lambda d: d["dsseEnvelope"].update(payload=base64.b64encode(to_json(said)).decode()))(
        root
    )
    assert "does not match what it signs" in attacked(verify, capfd, (6,))
    too_large = ["sign", str(root), "--key", str(key), "--overwrite", "--release", str(2**31)]
    assert "a release is a number from 0 to" in attacked(too_large, capfd, (2,))
