"""Two processes (gloo) train what one does: the same losses up to rounding, the same photos, the
same files, one error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import DATA, STEPS
from runs import HERE, PHOTOS, go, same, steps
from safetensors.torch import load_file
from staged import staged
from torch import Tensor
from torch.nn import functional as F

from edgegen.core.graph import Batch
from edgegen.errors import EdgegenError, UsageError
from edgegen.training import whole_batch
from edgegen.training.feed import Feed
from edgegen.training.loop import CPU
from edgegen.training.processes import World
from edgegen.training.whole_batch import Together

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all jobs for two processes left."""
    folder = tmp_path_factory.mktemp("pair")
    code = [sys.executable, str(Path(__file__).with_name("pairs.py")), str(folder)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(HERE)}
    jobs = ("whole", "killed", "resumed", "stages", "failing", "stopped")
    done = subprocess.run([*code, *jobs], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def said(folder: Path, job: str) -> list[str]:
    """Error lines of both processes, and their exit codes."""
    told = [
        line for rank in "01" for line in (folder / f"{job}.{rank}.err").read_text().splitlines()
    ]
    return [
        *(line for line in told if line.startswith("error")),
        *((folder / f"{job}.{rank}.code").read_text() for rank in "01"),
    ]


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_losses_are_those_of_one_process(pair: Path, tmp_path: Path) -> None:
    """With batch norm, dropout and two networks; after twelve steps the weights have not drifted
    apart either.
    """
    assert said(pair, "whole") == ["0", "0"]
    go(tmp_path / "one", every=5, steps=STEPS, precision="fp32")
    one, two = lines(tmp_path / "one"), lines(pair / "whole")
    assert (
        [line["images"] for line in two]
        == [line["images"] for line in one]
        == [8 * k for k in range(1, STEPS + 1)]
    )
    for name in ("theta", "phi"):
        np.testing.assert_allclose(
            [line[name] for line in two], [line[name] for line in one], rtol=2e-4
        )
    a, b = (load_file(p / "weights.safetensors") for p in (tmp_path / "one", pair / "whole"))
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-2, atol=2e-3, msg=name)


def test_stages_are_those_of_one_process(pair: Path) -> None:
    """What begins between them too; and both processes hold the same bits."""
    first, second = (json.loads((pair / f"stages.{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    made, run = staged(steps=STEPS)
    one = list(run.run())
    assert [sorted(report) for report in first["losses"]] == [sorted(report) for report in one]
    np.testing.assert_allclose(
        [sum(r.values()) for r in first["losses"]], [sum(r.values()) for r in one], rtol=1e-4
    )
    np.testing.assert_allclose(first["begun"], made.begun, rtol=1e-5)
    assert first["state"]["counter.steps"] == STEPS
    # each saw half of the images
    assert first["state"]["counter.light"] == pytest.approx(float(made.counter.light), rel=1e-5)


def test_two_processes_resume_bit_for_bit_after_kill_9(pair: Path) -> None:
    assert said(pair, "resumed") == ["0", "0"]
    assert (pair / "killed" / "run.json").read_bytes() == (pair / "whole" / "run.json").read_bytes()
    same(pair / "killed", pair / "whole")
    assert steps(pair / "killed") == list(range(1, STEPS + 1))


def test_an_error_of_one_ends_all_with_one_message(pair: Path) -> None:
    assert said(pair, "failing") == ["error[E-TEST] only one process met this", "1", "4"]


def test_a_signal_to_one_stops_all_at_the_same_step_with_a_checkpoint(pair: Path) -> None:
    assert [line for line in said(pair, "stopped") if "E-INTERRUPTED" not in line] == ["143", "143"]
    assert len(said(pair, "stopped")) == 3
    assert (pair / "stopped" / "latest").read_text() == "step-00000003"


def test_a_run_of_two_is_not_resumed_by_one(pair: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"E-RESUME-MISMATCH. the run was started with another processes .* - then 2, now 1",
    ):
        go(pair / "whole", resume=True, every=5, steps=STEPS, precision="fp32")


def test_torchrun_starts_them(tmp_path: Path) -> None:
    verb = [
        "train",
        "cas-dm",
        str(tmp_path / "run"),
        "--data",
        DATA,
        "--recipe",
        "tiny",
        "--images",
        "64",
        "--threads",
        "1",
    ]
    code = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "edgegen",
        *verb,
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(HERE)}
    done = subprocess.run(code, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.count("trained: ") == 1
        and json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    )
    assert [line["images"] for line in lines(tmp_path / "run")] == [16, 32, 48, 64]


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    with pytest.raises(
        UsageError, match=r"E-PROCESSES. 3 processes cannot share batches of 8 images evenly"
    ):
        staged(world=World(0, 3))


# shares


def test_shares_are_the_batch_and_its_noise() -> None:
    whole = Feed(PHOTOS, 8, 2, CPU).batch(3, 0)
    shares = [Feed(PHOTOS, 8, 2, CPU, rank, 2).batch(3, 0) for rank in (0, 1)]
    images, labels = torch.empty_like(whole.images), torch.empty_like(whole.labels)
    for rank, batch in enumerate(shares):
        images[rank::2], labels[rank::2] = batch.images, batch.labels
        assert torch.equal(Feed(PHOTOS, 8, 2, CPU, rank, 2).whole(3, 0).images, whole.images)
    assert torch.equal(images, whole.images) and torch.equal(labels, whole.labels)


def drawn(batch: Batch, part: int) -> list[Tensor]:
    """Draws in every way a loss may draw; part: how many images it has."""
    g = batch.generator
    return [
        torch.randn(part, 3, generator=g),
        torch.rand((part,), generator=g),
        torch.randint(1, 50, (part, 2), generator=g),
        torch.randint(7, size=(part,), generator=g),
        torch.randn(size=(2 * part, 2), generator=g),
        torch.rand(part // 2, generator=g),
        torch.empty(part, 2).uniform_(generator=g),
    ]


def test_draws_are_shares_of_one_process_s() -> None:
    def batch(count: int) -> Batch:
        return Batch(
            torch.zeros(count, 3, 4, 4), torch.zeros(count, 0), torch.Generator().manual_seed(5)
        )

    whole = drawn(batch(8), 8)
    for rank in (0, 1):
        mine = batch(4)
        with Together(rank, 2, mine):
            found = drawn(mine, 4)
            alone, free = (
                torch.randn((), generator=mine.generator),
                torch.randn(4, generator=torch.Generator().manual_seed(1)),
            )
        for k, (part, all_) in enumerate(zip(found, whole, strict=True)):
            wanted = all_.view(2, 8, 2)[:, rank::2].reshape(8, 2) if k == 4 else all_[rank::2]
            assert torch.equal(part, wanted), k
        assert (
            torch.equal(free, torch.randn(4, generator=torch.Generator().manual_seed(1)))
            and alone.shape == ()
        )
    with (
        Together(0, 2, mine),
        pytest.raises(EdgegenError, match=r"E-PROCESSES.* several processes cannot share"),
    ):
        torch.bernoulli(torch.full((4,), 0.5), generator=mine.generator)


def test_dropout_is_the_share_of_one_process_s() -> None:
    x = torch.rand(8, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    for drop in (F.dropout, F.dropout2d):
        torch.manual_seed(3)
        whole = drop(x, 0.4, True)
        for rank in (0, 1):
            torch.manual_seed(3)
            with Together(rank, 2, Batch(x[rank::2], x[rank::2], torch.Generator())):
                part = drop(x[rank::2].contiguous(memory_format=torch.channels_last), 0.4, True)
                assert torch.equal(drop(x, 0.4, False), x)
            torch.testing.assert_close(part, whole[rank::2])


def test_batch_norm_alone_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over one process the sum is its own: values, statistics and gradients are those of torch, the
    second derivative too.
    """
    monkeypatch.setattr(whole_batch, "_sum", lambda x: x)
    results = []
    for ours in (False, True):
        torch.manual_seed(0)
        norm, x = torch.nn.BatchNorm2d(6), torch.randn(8, 6, 4, 4, requires_grad=True)
        torch.nn.init.uniform_(norm.weight)
        for _ in range(2):
            with Together(0, 1, Batch(x, x, torch.Generator())) if ours else torch.no_grad():
                norm(x * 3 + 1)
        with Together(0, 1, Batch(x, x, torch.Generator())) if ours else torch.enable_grad():
            y = norm(x).square()
        (slope,) = torch.autograd.grad((y * torch.randn(y.shape)).sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.square().sum(), norm.weight)
        results.append([y, slope, curve, norm.running_mean, norm.running_var, norm.eval()(x)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
