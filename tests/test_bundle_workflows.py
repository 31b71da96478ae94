"""The workflows of a bundle and of this machine as a program calls them: results in, nothing
printed, the same answers as the verbs give.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.images import to_uint8
from edgegen.core.signature import SIGNATURE
from edgegen.errors import GateFailed, InputError, RuntimeMissing, TrustError, UsageError
from edgegen.export import runtime
from edgegen.machine.probe import TINY
from edgegen.workflows.bundles import Execution, open_bundle
from edgegen.workflows.doctor import MachineReport
from edgegen.workflows.engines import EngineSettings, build_engines
from edgegen.workflows.generate import GenerateSettings, generate_images, grid_columns
from edgegen.workflows.generators import load_generator, zoo_models
from edgegen.workflows.lint import LintResult, lint_model
from edgegen.workflows.plans import read_plan
from edgegen.workflows.sampling_choices import SamplingChoices
from edgegen.workflows.signing import sign_bundle
from edgegen.workflows.verify import VerifyResult, VerifySettings, verify_bundle

Captured = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parent / "golden"
TOY = GOLDEN / "bundle-1-toy"  # signed, with ONNX files for onnxruntime alone
KEY = GOLDEN / "bundle-1-toy.pub.pem"
VERIFY = VerifySettings(
    runtimes=("onnxruntime",),
    threads=1,
    fid_budget=1.0,
    min_psnr_db=0.0,
    max_ruined=0.02,
    max_moved=0.5,
    max_apart=0.2,
)


@pytest.fixture(autouse=True)
def nothing_printed(capfd: Captured) -> Any:
    """Not by native code either; what a test prints on purpose, it reads itself."""
    yield
    assert capfd.readouterr() == ("", "")


def document(capfd: Captured, *arguments: str) -> dict[str, Any]:
    """What the verb says with --json, without its frame."""
    assert run([*arguments, "--json"]) == 0
    shown: dict[str, Any] = json.loads(capfd.readouterr().out)
    return {k: v for k, v in shown.items() if k not in ("schema_version", "ok", "verb")}


def test_an_opened_bundle_makes_the_images_of_its_pipeline() -> None:
    opened = open_bundle(TOY)
    images = opened.generate(range(5, 9))
    pipeline = Bundle.open(TOY).pipeline(runtime("onnxruntime"))
    np.testing.assert_array_equal(images, to_uint8(pipeline(range(5, 9))))
    assert images.dtype == np.uint8 and images.shape[0] == 4 and images.shape[3] == 3
    np.testing.assert_array_equal(opened.generate([7, 5]), images[[2, 0]])
    assert opened.manifest.family == "cas-dm" and opened.signed_by is None
    assert open_bundle(str(TOY), KEY).signed_by is not None


def test_several_threads_may_share_an_opened_bundle() -> None:
    opened, made = open_bundle(TOY), {}

    def work(first: int) -> None:
        made[first] = opened.generate(range(first, first + 8))

    threads = [Thread(target=work, args=(first,)) for first in (0, 8, 16, 24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = np.concatenate([made[first] for first in (0, 8, 16, 24)])
    np.testing.assert_array_equal(together, open_bundle(TOY).generate(range(32)))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda b: b.generate(range(2), runtime="tensorrt"), UsageError, "no INT8 files for tenso"),
        (lambda b: b.generate(range(2), precision="int4"), UsageError, "must be int8 or fp32"),
        (lambda b: b.generate(range(2), label=99), UsageError, "label 99: this generator has"),
        (lambda b: b.generate([]), UsageError, "there are no seeds"),
        (lambda _: open_bundle(GOLDEN / "nowhere"), InputError, "there is no such folder"),
        (lambda _: open_bundle(GOLDEN / "bundle-1", KEY), TrustError, "the bundle is not signed"),
    ],
)
def test_what_a_bundle_cannot_do_is_an_error(
    call: Callable[[Any], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call(open_bundle(TOY))


def test_a_trained_generator_makes_images_too(tiny_run: Path) -> None:
    images = load_generator(tiny_run).generate(range(3, 6))
    np.testing.assert_array_equal(images, to_uint8(tiny.torch_images()(range(3, 6))))
    assert [entry.name for entry in zoo_models()] == sorted(e.name for e in zoo_models())
    assert zoo_models()[0].to_json()["grid"].endswith("grid.png")


def test_generate_writes_a_folder_or_a_grid(
    tmp_path: Path, tiny_run: Path, capfd: Captured
) -> None:
    settings = GenerateSettings(first_seed=5, count=2)
    result = generate_images(TOY, tmp_path / "images", settings)
    wanted = open_bundle(TOY).generate([5, 6])
    for seed, image in zip((5, 6), wanted, strict=True):
        with Image.open(result.out / f"{seed:08d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)
    out = str(tmp_path / "verb")
    said = document(capfd, "generate", str(TOY), "--seed", "5", "-n", "2", "-o", out)
    assert said == {**result.to_json(), "out": out}
    made = generate_images(tiny_run, tmp_path / "grid.png", GenerateSettings(count=4))
    assert made.executed_by == "torch" and made.out.is_file()
    for source, bad in (
        (TOY, GenerateSettings(choices=SamplingChoices(steps=3))),
        (tiny_run, GenerateSettings(execution=Execution(runtime="openvino"))),
        (TOY, GenerateSettings(first_seed=2**63 - 1)),
    ):
        with pytest.raises(UsageError):
            generate_images(source, tmp_path / "no.png", bad)
    assert not (tmp_path / "no.png").exists()


def test_a_grid_keeps_each_choice_to_its_columns_and_is_about_square() -> None:
    found = {
        (count, choices): grid_columns(count, choices)
        for count, choices in ((64, 4), (64, 10), (64, 2), (12, 12), (200, 100), (9, 4))
    }
    assert list(found.values()) == [8, 10, 8, 12, 100, 4]
    assert grid_columns(9, 1) is None and grid_columns(3, 4) is None


def test_a_file_that_is_no_generator_is_not_called_a_folder(
    tmp_path: Path, capfd: Captured
) -> None:
    picture = tmp_path / "grid.png"
    picture.write_bytes(b"a picture")
    out = ["-o", str(tmp_path / "out")]
    for verb, more in (("inspect", []), ("generate", out), ("export", ["--int8", *out])):
        assert run([verb, str(picture), *more]) == 2
        said = capfd.readouterr().err
        assert (
            "E-SOURCE] this file is not a generator: the only files accepted are ONNX models"
            in said
        )
        assert "this folder" not in said and "grid.png" in said


def test_verify_files_and_images(tiny_bundle: Path, capfd: Captured) -> None:
    files = verify_bundle(TOY, VerifySettings("files", public_key=KEY))
    assert files.is_signed and files.signed_by and files.images is None and files.proof is None
    said = document(capfd, "verify", str(TOY), "--files-only", "--public-key", str(KEY))
    assert said == files.to_json()
    settings = VerifySettings("images", ("onnxruntime",), threads=1)
    result = verify_bundle(tiny_bundle, settings)
    assert [one.name for one in result.images or ()] == ["onnxruntime FP32", "onnxruntime INT8"]
    flags = ["--images-only", "--runtime", "onnxruntime", "--threads", "1"]
    assert document(capfd, "verify", str(tiny_bundle), *flags) == result.to_json()


def test_a_gate_that_fails_has_the_result(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    """Other images than the kept ones: those of the next seed."""
    from edgegen.evidence import golden_images

    parsed = golden_images.parsed

    def later(data: bytes, path: Path) -> golden_images.Kept:
        kept = parsed(data, path)
        return golden_images.Kept(kept.first_seed + 1, kept.sets)

    monkeypatch.setattr(golden_images, "parsed", later)
    with pytest.raises(GateFailed, match=r"E-PARITY\] this machine makes other images") as caught:
        verify_bundle(tiny_bundle, VerifySettings("images", ("onnxruntime",), threads=1))
    assert isinstance(caught.value.result, VerifyResult) and caught.value.exit_code == 3
    assert run(["verify", str(tiny_bundle), "--images-only", "--runtime", "onnxruntime"]) == 3
    assert "OTHER IMAGES" in capfd.readouterr().out, "the table is shown all the same"


@pytest.mark.slow
def test_verify_recomputes_the_verdict(tiny_bundle: Path) -> None:
    pytest.importorskip("torch")
    result = verify_bundle(tiny_bundle, VERIFY)
    assert result.proof is not None and result.proof.passed
    assert abs(result.to_json()["drift"]["onnxruntime"]) < 1e-3


def test_engines_are_built_once(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why := runtime("openvino").cannot_run():
        pytest.skip(why)
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    settings = EngineSettings(("openvino", "onnxruntime"))
    first = build_engines(tiny_bundle, settings)
    assert {engine.state for engine in first.engines} == {"built"}
    assert first.skipped == {"onnxruntime": "this runtime loads its files directly"}
    again = build_engines(tiny_bundle, settings)
    assert {(e.state, e.seconds) for e in again.engines} == {("there", 0.0)}
    with pytest.raises(RuntimeMissing, match="cannot build for this machine"):
        monkeypatch.setattr(type(runtime("openvino")), "cannot_run", lambda _: "no")
        build_engines(tiny_bundle, settings)


def test_a_bundle_is_signed(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="signatures need the extra sign")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    shutil.copytree(TOY, bundle := tmp_path / "bundle")
    (bundle / SIGNATURE).unlink()
    with pytest.raises(InputError, match="E-KEY"):
        sign_bundle(bundle, tmp_path / "key.pem", b"wrong")
    result = sign_bundle(bundle, tmp_path / "key.pem", b"open sesame")
    assert result.signature == bundle / SIGNATURE and result.files == len(
        Bundle.open(bundle).digests()
    )
    with pytest.raises(UsageError, match="E-OUT-EXISTS"):
        sign_bundle(bundle, tmp_path / "key.pem", b"open sesame")


def test_lint_and_plans(tmp_path: Path, tiny_bundle: Path, capfd: Captured) -> None:
    (file := tmp_path / "tiny.onnx").write_bytes(TINY)
    assert lint_model(file, ["openvino"]).findings == []
    assert lint_model(tiny_bundle).to_json() == document(capfd, "lint", str(tiny_bundle))
    with pytest.raises(UsageError, match="an ONNX file can only be checked for a named runtime"):
        lint_model(file)
    result = read_plan(tiny_bundle, "onnxruntime")
    assert result.to_json() == document(capfd, "plan", "show", str(tiny_bundle))
    with pytest.raises(UsageError, match="the bundle has no plan for tensorrt"):
        read_plan(tiny_bundle, "tensorrt")


def test_what_lint_minds_is_in_the_result(tmp_path: Path) -> None:
    from graphs import one_conv

    from edgegen.export.onnx import write

    file = write(one_conv(bias="int32"), tmp_path / "m.onnx")
    with pytest.raises(GateFailed, match="E-LINT") as caught:
        lint_model(file, ["tensorrt"])
    result = caught.value.result
    assert isinstance(result, LintResult) and [e.finding.node for e in result.errors] == ["b.DQ"]


def test_a_report_of_a_machine_is_a_document_or_a_fault() -> None:
    report = MachineReport({"edgegen": "1"}, {}, {}, {"onnxruntime": {"state": "ok", "why": ""}})
    assert report.fault() is None
    assert report.to_json() == {
        "edgegen": "1",
        "packages": {},
        "broken": {},
        "runtimes": {"onnxruntime": {"state": "ok", "why": ""}},
    }


@pytest.mark.slow
def test_this_machine_is_examined() -> None:
    from edgegen.workflows.doctor import DoctorSettings, examine_machine

    report = examine_machine(DoctorSettings(bundle=TOY))
    assert report.runtimes["onnxruntime"]["bundle"] == "made an image"
    assert report.machine["cpu"]["usable"] >= 1 and report.airgap is None
