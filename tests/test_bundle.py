"""A bundle is exactly what was written, or it is refused by the name of the file that is not."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, Bundle, digest, write_manifest
from edgegen.core.files import read_json, to_json
from edgegen.core.manifest import Built, File, Manifest, Start, schema
from edgegen.core.samplers import CascadeSampler, sampler_to_json
from edgegen.errors import EdgegenError, InputError, TrustError, UsageError
from edgegen.export import runtime
from edgegen.machine.probe import TINY

GOLDEN = Path(__file__).parent / "golden" / "bundle-1"
TOY = GOLDEN.with_name("bundle-1-toy")
ABOUT: dict[str, Any] = {
    "family": "cas-dm",
    "source": {
        "name": "golden",
        "weights_sha256": "0" * 64,
        "data": {"images": 3},
        "licence": "Apache-2.0",
    },
    "embeds_training_data": "none",
    "start": {"shape": [3, 16, 16], "classes": 0},
    "sampler": sampler_to_json(CascadeSampler((100, 50), (0.1, 0.5))),
    "graphs": {"theta": "graphs/theta.onnx"},
    "scheme": "static INT8",
    "calibration": {"samples": 32},
    "runtimes": {
        "onnxruntime": {
            "version": "1.0",
            "device": "CPU",
            "load": {"theta": "int8/onnxruntime/theta.onnx"},
            "onnx": {"theta": "int8/onnxruntime/theta.onnx"},
            "until": {"theta": 75.0},
            "code": False,
        },
        "tensorrt-rtx": {
            "version": "1.0",
            "device": "GPU",
            "load": {"theta": "int8/tensorrt-rtx/theta.SM80.engine"},
            "onnx": {"theta": "int8/tensorrt-rtx/theta.onnx"},
            "until": {},
            "code": True,
        },
    },
    "evidence": {
        "runtimes": {"onnxruntime": {"change": {"value": 0.001, "low": -0.01, "high": 0.012}}}
    },
}
FILES = (
    "graphs/theta.onnx",
    "int8/onnxruntime/theta.onnx",
    "int8/tensorrt-rtx/theta.onnx",
    "int8/tensorrt-rtx/theta.SM80.engine",
    "evidence/same-seeds.png",
    "plan.json",
)


def bundle(root: Path) -> Path:
    for k, name in enumerate(FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(TINY + bytes([k]) * 20 * k)
    write_manifest(root, ABOUT)
    return root


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """What somebody who can make hashes writes."""
    data = read_json(root / MANIFEST)
    change(data)
    data["sha256"] = digest(data)
    (root / MANIFEST).write_bytes(to_json(data))


def test_an_untouched_bundle_opens_and_gives_back_what_was_written(tmp_path: Path) -> None:
    opened = Bundle.open(bundle(tmp_path))
    assert sorted(opened.manifest.files) == sorted(FILES)
    dumped = opened.manifest.model_dump(exclude={"schema_version", "sha256", "edgegen", "files"})
    assert json.loads(to_json(dumped)) == json.loads(to_json(ABOUT))
    assert opened.path("plan.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


def test_the_first_released_format_opens() -> None:
    """The golden bundle stays as it is: every later version must read it."""
    opened = Bundle.open(GOLDEN)
    assert opened.manifest.schema_version == 1 and opened.manifest.source["name"] == "golden"
    assert run(["verify", str(GOLDEN), "--files-only"]) == 0


def test_a_bundle_of_the_first_released_format_still_makes_its_images(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A toy of two graphs with the images that it made then: pinned, on every machine, for ever."""
    assert run(["verify", str(TOY), "--images-only", "--threads", "1", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["images"]
    assert set(found) == {"onnxruntime FP32", "onnxruntime INT8"}
    assert found["onnxruntime FP32"]["within_one_level"] >= 0.999 and all(
        a["same"] for a in found.values()
    )


def test_the_schema_for_other_programs_is_what_is_checked() -> None:
    """After a change: to_json(edgegen.core.manifest.schema()) into that file."""
    assert read_json(GOLDEN.parents[2] / "docs" / "manifest.schema.json") == schema()


def test_every_part_of_the_manifest_is_documented() -> None:
    document = (GOLDEN.parents[2] / "docs" / "bundle.md").read_text()
    named = [f for model in (Manifest, Built, Start, File) for f in model.model_fields]
    assert [name for name in named if f"`{name}`" not in document] == []


def test_a_manifest_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    made = [bundle(tmp_path / part) / MANIFEST for part in ("a", "b")]
    assert made[0].read_bytes() == made[1].read_bytes()
    write_manifest(tmp_path / "a", ABOUT)
    assert made[0].read_bytes() == made[1].read_bytes(), (
        "written over itself, it does not list itself"
    )


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_and_its_file_named(tmp_path: Path) -> None:
    root, rng = bundle(tmp_path), random.Random(7)
    names = [MANIFEST, *FILES]
    for k in range(200):
        path = root / (MANIFEST if k < 100 else rng.choice(names))
        whole = path.read_bytes()
        spoiled = bytearray(whole)
        spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        with pytest.raises(TrustError) as caught:
            Bundle.open(root)
        assert (
            path.relative_to(root).as_posix() in str(caught.value) and caught.value.exit_code == 6
        )
        path.write_bytes(whole)
    Bundle.open(root)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_file_cut_anywhere_is_found_and_named(name: str, tmp_path: Path) -> None:
    root = bundle(tmp_path)
    whole = (root / name).read_bytes()
    for part in range(16):
        (root / name).write_bytes(whole[: len(whole) * part // 16])
        with pytest.raises(TrustError) as caught:
            Bundle.open(root)
        assert name in str(caught.value)


def linked(root: Path) -> None:
    shutil.move(root / "plan.json", root / "../plan")
    (root / "plan.json").symlink_to("../plan")


def swapped(root: Path) -> None:
    (root / FILES[0]).rename(root / "x")
    (root / FILES[1]).rename(root / FILES[0])
    (root / "x").rename(root / FILES[1])


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda root: (root / "plan.json").unlink(), "plan.json is missing"),
        (
            lambda root: (root / "int8" / "extra.so").write_bytes(b"x"),
            "int8/extra.so is not listed",
        ),
        (lambda root: (root / ".hidden").write_bytes(b"x"), ".hidden is not listed"),
        (linked, "plan.json is a link"),
        (lambda root: (root / "more").symlink_to("/etc"), "more is a link or a device"),
        (lambda root: os.mkfifo(root / "pipe"), "pipe is a link or a device"),
        (
            lambda root: (root / "plan.json").unlink() or (root / "plan.json").mkdir(),
            "plan.json is missing",
        ),
        (swapped, "is not the file that was exported"),
        (
            lambda root: (root / MANIFEST).write_text("[]"),
            "manifest.json is not the file that was written",
        ),
        (lambda root: (root / MANIFEST).write_text('{"a": 1, "a": 1}'), "a key appears twice"),
        (lambda root: (root / MANIFEST).write_text("[" * 100_000), "not usable JSON"),
        (lambda root: (root / MANIFEST).write_text('{"a": NaN}'), "NaN is not a number"),
        (
            lambda root: (root / MANIFEST).write_bytes((root / MANIFEST).read_bytes() + b" "),
            "not the file that was written",
        ),
    ],
)
def test_another_folder_than_was_written_is_refused(
    spoil: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    root = bundle(tmp_path / "b")
    spoil(root)
    with pytest.raises(TrustError, match=said) as caught:
        Bundle.open(root)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/../plan.json",
        "./plan.json",
        "a//b",
        "",
        "a\\b",
        "a\nb",
        "a\0b",
        MANIFEST,
        "graphs/",
    ],
)
def test_a_listed_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    root = bundle(tmp_path / "b")
    (tmp_path / "secret").write_bytes(TINY)
    rewrite(root, lambda data: data["files"].update({name: data["files"]["plan.json"]}))
    with pytest.raises(TrustError, match="is not allowed"):
        Bundle.open(root)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda m: m.update(surprise=1), "surprise: Extra inputs"),
        (lambda m: m.pop("sampler"), "sampler: Field required"),
        (lambda m: m.update(schema_version="1"), "schema_version"),
        (lambda m: m.update(schema_version=0), "schema_version"),
        (
            lambda m: m["files"]["plan.json"].update(bytes=1.0),
            "bytes: Input should be a valid integer",
        ),
        (lambda m: m["files"]["plan.json"].update(sha256="0" * 64), "plan.json is not the file"),
        (lambda m: m["files"]["plan.json"].update(md5="0"), "md5: Extra inputs"),
        (
            lambda m: m["sampler"].update(kind="os.system"),
            "the sampler in the manifest cannot be used",
        ),
        (lambda m: m["sampler"].update(signal=[0.5, 0.1]), "signal levels must rise"),
        (
            lambda m: m["graphs"].update(theta="../theta.onnx"),
            "../theta.onnx is used but not listed",
        ),
        (
            lambda m: m["runtimes"]["onnxruntime"]["load"].update(theta="/etc/passwd"),
            "/etc/passwd is used but not listed",
        ),
        (lambda m: m["runtimes"]["onnxruntime"].update(load={}), "other graphs than theta"),
        (lambda m: m["start"].update(shape=[3, -16, 16]), "start: cannot begin from"),
        (lambda m: m.update(embeds_training_data="some"), "embeds_training_data"),
    ],
)
def test_a_manifest_that_edgegen_would_not_write_is_refused(
    change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    root = bundle(tmp_path)
    rewrite(root, change)
    with pytest.raises(TrustError, match=said):
        Bundle.open(root)


def test_a_newer_schema_asks_for_a_newer_edgegen(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    rewrite(root, lambda m: m.update(schema_version=3))
    with pytest.raises(
        UsageError, match=r"E-SCHEMA\] the bundle has schema 3; edgegen .* reads up to 2"
    ):
        Bundle.open(root)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / MANIFEST).symlink_to(GOLDEN / MANIFEST)
    with pytest.raises(InputError, match=r"it has no manifest\.json"):
        Bundle.open(tmp_path)


def test_engines_are_refused_without_trust_before_they_are_loaded(tmp_path: Path) -> None:
    opened, target = Bundle.open(bundle(tmp_path)), runtime("tensorrt-rtx")
    with pytest.raises(
        TrustError, match=r"E-ENGINE-UNTRUSTED\] tensorrt-rtx engines are executable code"
    ):
        opened.pipeline(target)
    with pytest.raises(EdgegenError) as caught:
        opened.pipeline(target, trust_engines=True)
    assert caught.value.exit_code == 5
    with pytest.raises(
        UsageError,
        match="tensorrt-rtx executes engines, and the full-precision graphs of a bundle are ONNX",
    ):
        opened.pipeline(target, "fp32")


def test_a_runtime_the_bundle_was_not_built_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match="the bundle has no INT8 files for openvino; it has onnxruntime, tensorrt-rtx",
    ):
        Bundle.open(bundle(tmp_path)).pipeline(runtime("openvino"))


def test_nan_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises((EdgegenError, ValueError)):
        write_manifest(tmp_path, {**ABOUT, "evidence": {"fid": float("nan")}})
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    "runtimes, code", [({}, 6), ({"onnxruntime": {"budget": 0.02}}, 6), ([], 6)]
)
def test_verify_refuses_a_bundle_without_evidence(runtimes: Any, code: int, tmp_path: Path) -> None:
    root = bundle(tmp_path)
    rewrite(root, lambda m: m["evidence"].update(runtimes=runtimes))
    assert run(["verify", str(root)]) == code
