"""Files that are exchanged while a bundle is opened, or after: what is loaded are the bytes that
were hashed, and a bundle is one version from open to close.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from attacks.attack import TOY, copy, resealed
from edgegen.core.bundle import MANIFEST, Bundle
from edgegen.core.bundle_files import BundleFiles
from edgegen.core.files import publish
from edgegen.core.keys import site_keys
from edgegen.errors import Busy, TrustError
from edgegen.export import runtime
from edgegen.export.ort import OnnxRuntime
from edgegen.workflows.signing import sign_bundle

pytest.importorskip("cryptography", reason="signatures need the extra sign")
GOLDEN_KEY = TOY.with_name("bundle-1-toy.pub.pem")
THETA = "int8/onnxruntime/theta.onnx"
SWAPPED = (THETA, "graphs/phi.onnx", "evidence/images.safetensors", "README.md")


def at(monkeypatch: pytest.MonkeyPatch, point: str, act: Callable[[], object]) -> None:
    """`act` once, right after that method of the bundle's files returns for the first time, or for
    the file named behind a colon.
    """
    method, _, name = point.partition(":")
    real = getattr(BundleFiles, method)
    waiting = [act]

    def hooked(self: BundleFiles, *arguments: Any) -> Any:
        found = real(self, *arguments)
        if waiting and (not name or name in arguments):
            waiting.pop()()
        return found

    monkeypatch.setattr(BundleFiles, method, hooked)


def evil(root: Path, name: str) -> Path:
    """What an attacker would rather have loaded, beside the folder."""
    (other := root.parent / "evil").write_bytes(b"evil" + (root / name).read_bytes())
    return other


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", SWAPPED)
def test_a_file_that_is_exchanged_after_its_hash_changes_nothing(
    name: str, signed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TOY, root := tmp_path / "bundle")
    wanted, other = (root / name).read_bytes(), evil(root, name)
    at(monkeypatch, f"sha256:{name}", lambda: os.replace(other, root / name))
    opened = Bundle.open(root, site_keys(GOLDEN_KEY) if signed else None)
    assert (root / name).read_bytes() != wanted and opened.read(name) == wanted


@pytest.mark.parametrize("signed", [False, True])
def test_a_runtime_is_given_the_bytes_that_were_hashed(
    signed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TOY, root := tmp_path / "bundle")
    opened = Bundle.open(root, site_keys(GOLDEN_KEY) if signed else None)
    wanted = opened.pipeline(runtime("onnxruntime"))(range(2))
    for name in (THETA, "int8/onnxruntime/phi.onnx"):
        os.replace(evil(root, name), root / name)
    made = opened.pipeline(runtime("onnxruntime"))(range(2))
    assert made.tobytes() == wanted.tobytes()
    given: list[bytes] = []
    session = OnnxRuntime.session

    def seen(self: OnnxRuntime, file: Any, threads: int) -> Any:
        given.append(file.data())
        return session(self, file, threads)

    monkeypatch.setattr(OnnxRuntime, "session", seen)
    opened.pipeline(runtime("onnxruntime"))
    assert given == [(TOY / f"int8/onnxruntime/{g}.onnx").read_bytes() for g in ("phi", "theta")]


@pytest.mark.parametrize("name", SWAPPED)
def test_a_file_that_is_written_over_is_found(name: str, tmp_path: Path) -> None:
    """The same file with other bytes, by somebody who may write it."""
    opened = Bundle.open(root := copy(tmp_path))
    whole = (root / name).read_bytes()
    with open(root / name, "r+b") as file:
        file.write(b"evil")
    with pytest.raises(TrustError, match="it was changed while the bundle was open"):
        opened.read(name)
    with open(root / name, "r+b") as file:
        file.write(whole[:4])
    assert opened.read(name) == whole


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle, and the next version of it, of which every file is another."""
    old = copy(tmp_path / "old")
    new = copy(tmp_path / "new")
    for path in new.rglob("*.onnx"):
        model = onnx.load(path)
        model.doc_string = "new"
        path.write_bytes(model.SerializeToString())
    (new / "README.md").write_bytes(b"new")
    resealed(new, lambda manifest: manifest.update(scheme="new"))
    return old, new


def published(old: Path, new: Path) -> None:
    """As an export does: exchanged, and the old one removed."""
    os.rename(old, aside := old.with_name("aside"))
    os.rename(new, old)
    shutil.rmtree(aside)


POINTS = (
    "__init__",
    f"hold:{MANIFEST}",
    f"read:{MANIFEST}",
    "hold_all",
    "sha256:README.md",
    f"sha256:{THETA}",
    "size:graphs/theta.onnx",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_bundle_that_is_published_anew_while_it_is_opened_is_one_version(
    point: str, versions: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = versions
    whole = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for root in (old, new)
        for path in root.rglob("*")
        if path.is_file()
    }
    at(monkeypatch, point, lambda: published(old, new))
    opened = Bundle.open(old)
    assert not new.exists()
    is_new = opened.manifest.scheme == "new"
    read = {name: opened.read(name) for name in opened.manifest.files}
    assert (read["README.md"] == b"new") == is_new
    if is_new:
        assert all(read[name] == whole[name] for name in read)
    opened.pipeline(runtime("onnxruntime"))


def test_a_folder_that_is_exchanged_again_and_again_ends_with_a_sentence(
    versions: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = versions
    monkeypatch.setattr(BundleFiles, "is_current", lambda self: False)
    (old / "README.md").write_bytes(b"damaged")
    with pytest.raises(TrustError, match=r"README\.md is not the file"):
        Bundle.open(old)


def test_a_signature_is_over_what_was_checked(
    versions: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanged before it is signed, a file is one that nobody signed; a folder is said."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    old, new = versions
    with monkeypatch.context() as patched:
        at(patched, f"sha256:{THETA}", lambda: os.replace(evil(old, THETA), old / THETA))
        sign_bundle(old, tmp_path / "key")
    with pytest.raises(TrustError, match=f"{THETA} is not the file"):
        Bundle.open(old, site_keys(tmp_path / "pub"))
    shutil.copyfile(TOY / THETA, old / THETA)
    assert Bundle.open(old, site_keys(tmp_path / "pub")).signed_by
    with monkeypatch.context() as patched:
        at(patched, f"sha256:{THETA}", lambda: published(old, new))
        with pytest.raises(Busy, match="meanwhile another bundle was published here"):
            sign_bundle(old, tmp_path / "key", overwrite=True)
    with pytest.raises(TrustError, match="E-SIGNATURE"):
        Bundle.open(old, site_keys(tmp_path / "pub"))


def test_readers_beside_a_publisher_read_one_version_each(
    versions: tuple[Path, Path], tmp_path: Path
) -> None:
    """The real thing: nobody gets an error, and nobody a mixture."""
    old, new = versions
    target, stop = tmp_path / "target", threading.Event()

    def write(source: Path, overwrite: bool) -> None:
        with publish(target, MANIFEST, overwrite) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)

    def keep_publishing() -> None:
        while not stop.is_set():
            for source in (new, old):
                write(source, True)

    write(old, False)
    publisher = threading.Thread(target=keep_publishing)
    publisher.start()
    seen = set()
    try:
        for _ in range(60):
            opened = Bundle.open(target)
            is_new = opened.manifest.scheme == "new"
            source = new if is_new else old
            for name in opened.manifest.files:
                assert opened.read(name) == (source / name).read_bytes()
            seen.add(is_new)
    finally:
        stop.set()
        publisher.join()
    assert seen == {True, False}


def test_what_was_opened_is_closed(tmp_path: Path) -> None:
    root = copy(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    opened = [Bundle.open(root) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) > before
    del opened
    for _ in range(3):
        with pytest.raises(TrustError):
            (root / "README.md").write_bytes(b"x")
            Bundle.open(root)
    assert len(os.listdir("/proc/self/fd")) == before
