"""What is code follows from the runtime and the file, whatever a manifest says of itself; what is
compiled here is found by its seal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attacks.attack import GOLDEN, attacked, copy, generated, listed, resealed
from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Compiling
from edgegen.errors import EdgegenError, TrustError
from edgegen.export import RUNTIMES, cache, runtime
from edgegen.machine.probe import TINY

Captured = pytest.CaptureFixture[str]
BUILT: dict[str, Any] = {"version": "1.0", "device": "CPU", "until": {}}


def with_files(root: Path, name: str, suffix: str, code: bool, data: bytes = b"engine") -> Path:
    """Files of that suffix for runtime `name`, beside the ONNX files of another."""
    changes = [
        listed(root, f"int8/{name}/{g}{suffix}", data + g.encode()) for g in ("theta", "phi")
    ]

    def change(manifest: dict[str, Any]) -> None:
        for one in changes:
            one(manifest)
        onnx = manifest["runtimes"]["onnxruntime"]["onnx"]
        load = {g: f"int8/{name}/{g}{suffix}" for g in ("theta", "phi")}
        manifest["runtimes"] = {name: {**BUILT, "load": load, "onnx": onnx, "code": code}}

    return resealed(root, change)


@pytest.mark.parametrize("code", [False, True])
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("tensorrt-rtx", ".SM86.engine"),
        ("tensorrt-rtx-fp16", ".SM86.engine"),
        ("tensorrt", ".engine"),
        ("tensorrt", ".plan"),
        ("tensorrt-fp16", ".cached"),
        ("openvino", ".cached"),
        ("openvino", ".blob"),
        ("onnxruntime", ".ort"),
        ("onnxruntime", ".so"),
        ("onnxruntime-tensorrt", ".engine"),
        ("onnxruntime-openvino", ".xml"),
        ("onnxruntime", ""),
    ],
)
def test_nothing_but_graphs_reaches_a_runtime(
    name: str,
    suffix: str,
    code: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine where everything runs: not a byte is given to a runtime."""
    kind = type(runtime(name))
    monkeypatch.setattr(kind, "cannot_run", lambda self: None)
    for method in ("load", "session", "admit", "compiled"):
        given = lambda *_: pytest.fail("a runtime was given the file")  # noqa: E731
        monkeypatch.setattr(kind, method, given, raising=False)
    monkeypatch.setattr(kind, "compiled", lambda *_: None, raising=False)
    root = with_files(copy(tmp_path), name, suffix, code)
    with pytest.raises(TrustError) as caught:
        Bundle.open(root).pipeline(runtime(name))
    assert caught.value.code in ("E-MANIFEST", "E-ENGINE-UNTRUSTED")


@pytest.mark.parametrize("verb", ["generate", "verify", "bench", "build", "lint"])
@pytest.mark.parametrize(("name", "code"), [("tensorrt-rtx", False), ("onnxruntime", True)])
def test_a_manifest_that_says_otherwise_what_is_code_is_refused(
    verb: str, name: str, code: bool, tmp_path: Path, capfd: Captured
) -> None:
    root = with_files(copy(tmp_path), name, ".SM86.engine", code)
    flags = {"generate": ["-o", str(tmp_path / "o.png")], "verify": ["--files-only"]}
    said = attacked([verb, str(root), *flags.get(verb, [])], capfd, (6,))
    assert f"runtimes.{name}.code" in said


def test_an_engine_of_an_unsigned_bundle_is_not_executed(tmp_path: Path, capfd: Captured) -> None:
    root = with_files(copy(tmp_path), "tensorrt-rtx", ".SM86.engine", True)
    assert "E-ENGINE-UNTRUSTED" in generated(root, capfd, "--runtime", "tensorrt-rtx", codes=(6,))


def test_a_blob_in_a_bundle_is_data_and_never_imported(tmp_path: Path, capfd: Captured) -> None:
    if why := runtime("openvino").cannot_run():
        pytest.skip(why)
    root = with_files(copy(tmp_path), "openvino", ".cached", False, b"{}\n")
    said = generated(root, capfd, "--runtime", "openvino", codes=(6,))
    assert "a file that is to be loaded must be .xml or .onnx" in said


def test_a_runtime_that_nobody_knows_is_refused(tmp_path: Path, capfd: Captured) -> None:
    root = copy(tmp_path)
    resealed(
        root, lambda m: m["runtimes"].update(evil={**m["runtimes"]["onnxruntime"], "code": True})
    )
    assert "which edgegen does not know" in generated(root, capfd, codes=(6,))
    assert "evil" not in RUNTIMES


def test_engines_of_the_golden_bundle_are_as_they_were(capfd: Captured, tmp_path: Path) -> None:
    arguments = ["generate", str(GOLDEN / "bundle-1"), "-o", str(tmp_path / "o.png")]
    assert "E-ENGINE-UNTRUSTED" in attacked([*arguments, "--runtime", "tensorrt-rtx"], capfd, (6,))


FACTS = {"runtime": "test", "version": "1"}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    return cache.store(FACTS, b"what was built here")


def spoiled(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def sealed_as_before(path: Path) -> None:
    """What an attacker can write who knows the format and not the secret: a hash, not a seal."""
    import hashlib
    import json

    payload = b"a blob of mine"
    head = {"runtime": "test", "sha256": hashlib.sha256(payload).hexdigest()}
    head["seal"] = head["sha256"]
    path.write_bytes(json.dumps(head).encode() + b"\n" + payload)


def of_another(path: Path) -> None:
    other = cache.store({**FACTS, "version": "2"}, b"something else that was built here")
    path.write_bytes(other.read_bytes())


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "spoil",
    [
        spoiled(lambda data: data[:-1]),
        spoiled(lambda data: data + b"x"),
        spoiled(lambda data: b""),
        spoiled(lambda data: b"{}\nabc"),
        spoiled(lambda data: b"[" * 100_000),
        spoiled(lambda data: data.replace(b"built", b"BUILT")),
        spoiled(lambda data: data.replace(b"seal", b"sael")),
        sealed_as_before,
        of_another,
        lambda path: path.chmod(0o666),
        lambda path: path.parent.chmod(0o777),
        a_pipe,
        lambda path: (path.parent / cache.SECRET).chmod(0o644),
        lambda path: (path.parent / cache.SECRET).write_bytes(b"short"),
    ],
)
def test_a_blob_that_was_not_built_here_is_refused(
    spoil: Callable[[Path], object], kept: Path
) -> None:
    assert cache.find(FACTS) == kept and cache.read(kept) == b"what was built here"
    spoil(kept)
    with pytest.raises(EdgegenError) as caught:
        cache.find(FACTS)
    assert caught.value.code == "E-CACHE" and caught.value.exit_code in (4, 6)


def test_the_secret_is_the_users_own_and_without_it_nothing_is_found(kept: Path) -> None:
    secret = kept.parent / cache.SECRET
    assert secret.stat().st_mode & 0o777 == kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    before = secret.read_bytes()
    secret.unlink()
    assert cache.find(FACTS) is None
    assert cache.store(FACTS, b"again") != kept and secret.read_bytes() != before
    assert sorted(p.suffix for p in kept.parent.iterdir()) == ["", ".cached", ".cached"]


def test_looking_for_a_blob_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "none"))
    assert cache.find(FACTS) is None
    target = runtime("openvino")
    if isinstance(target, Compiling) and target.cannot_run() is None:
        assert target.compiled(GraphFile.of(Path("g.onnx"), TINY)) is None
    assert list(tmp_path.iterdir()) == []
