"""Where a run computes: named, refused by name where it is not there, and the same when it
resumes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import PHOTOS, TOY, failed, go, nothing, settings
from staged import staged
from toys import generator, shapes

from edgegen.cli.main import run
from edgegen.core.files import to_json
from edgegen.errors import RuntimeMissing, UsageError
from edgegen.families.isc_gan.family import FAMILY
from edgegen.training import digests
from edgegen.training import run as training
from edgegen.training.device import device_of, precision_on
from edgegen.training.loop import Trainer, TrainerOptions
from edgegen.training.record import pipeline
from edgegen.training.recorded import Recorded

pytestmark = pytest.mark.slow

DATA = str(Path(__file__).parent / "data" / "photos")


def test_a_device_is_named() -> None:
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match=r"E-DEVICE. unknown device 'tpu'; known: cpu, cuda"):
        device_of("tpu")


def test_bf16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        assert precision_on("cpu", "bf16") == ("bf16" if has else "fp32")
        assert precision_on("cpu", "fp32") == "fp32"
        assert precision_on("cuda", "bf16") == "bf16"


def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with other arithmetic, too."""
    notes: list[str] = []
    options = training.RunOptions(note=notes.append)
    out, plan = tmp_path / "run", settings(steps=4)
    for resume, has in ((False, False), (True, True)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        training.train(plan, PHOTOS, out, resume, 2, nothing, options)
        assert Recorded.of(out).precision == "fp32"
    said = "W-PRECISION: this processor has no arithmetic for bf16: the run computes in fp32"
    assert notes == [said]


def test_a_gpu_that_is_not_there_is_told_before_photos_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run"
    assert (
        run(
            [
                "train",
                "cas-dm",
                "--data",
                str(tmp_path / "nowhere"),
                "--out",
                str(out),
                "--device",
                "cuda",
            ]
        )
        == 5
    )
    told = capfd.readouterr().err
    assert (
        "error[E-DEVICE] device cuda cannot be used here: torch " in told
        and "--device cpu" in told
        and not out.exists()
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        RuntimeMissing,
        match="GPU 1 is asked for, torch sees 1 - start as many processes as there are GPUs",
    ):
        device_of("cuda", 1)


@pytest.mark.parametrize(("key", "then"), [("device", "cuda"), ("compiled", True)])
def test_a_run_of_another_device_is_not_resumed(tmp_path: Path, key: str, then: object) -> None:
    half = failed(tmp_path / "run", 11)
    about = json.loads((half / "run.json").read_text())
    digests.keep(half, {"run.json": to_json({**about, key: then})})
    with pytest.raises(UsageError, match=rf"started with another {key} .* - then {then!r}, now"):
        go(half, resume=True)


def test_networks_and_batches_are_laid_out_channels_last() -> None:
    made, trainer = staged()
    weight = made.networks["first"].get_parameter("0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert trainer.feed.batch(0, 0).images.is_contiguous(memory_format=torch.channels_last)
    next(trainer.run())
    assert trainer.optimizers[0].state[weight]["exp_avg"].stride() == weight.stride()


def test_what_a_gradient_s_layout_is_does_not_matter() -> None:
    """The fused step reads weights and gradients element by element as they lie in memory."""

    def run(transposed: bool) -> torch.Tensor:
        made, trainer = staged(steps=4)
        weight = made.networks["first"].get_parameter("0.weight")
        if transposed:
            hook = weight.register_post_accumulate_grad_hook
            hook(lambda p: setattr(p, "grad", p.grad.contiguous()))  # type: ignore[no-untyped-call]
        next(trainer.run())
        return weight.detach()

    assert torch.equal(run(False), run(True))


def test_compiling_is_refused_where_losses_differentiate_twice() -> None:
    recipe = FAMILY.recipes["tiny"]()
    with pytest.raises(
        UsageError,
        match=r"E-COMPILE. torch.compile cannot differentiate this family's networks twice",
    ):
        Trainer.start(
            FAMILY.build(recipe.config), recipe, shapes(16), 0, TrainerOptions(compiled=True)
        )


def test_compiled_networks_train_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: real(self, backend="eager", **options)
    )
    plan = settings(steps=2, precision="fp32").recipe

    def results(compiled: bool) -> tuple[list[dict[str, float]], bytes]:
        made = Trainer.start(generator(TOY), plan, PHOTOS, 0, TrainerOptions(compiled=compiled))
        # graphs are copies of networks that are compiled
        return list(made.run()), pipeline(made)(range(2)).tobytes()

    assert results(True) == results(False)
