"""A run that is killed, interrupted or resumed ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import HERE, PHOTOS, TOY, at, go, nothing, same, settings, steps, stop_at
from safetensors.torch import load_file

from edgegen.core.graph import Batch
from edgegen.errors import InputError
from edgegen.families.cas_dm import CasDm
from edgegen.training import checkpoint, lessons, run
from edgegen.training.stop import Stop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out)
    return out


# exact resume

CHILD = """
import os, signal, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
import runs as t
from edgegen.training import run

def child(out, kill):
    calls, real = 0, os.fsync
    def sync(fd):
        nonlocal calls
        calls += 1
        if saving and calls == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        real(fd)
    saving = False
    def progress(trainer, report):
        nonlocal saving, calls
        if kill == 0 and trainer.step == 23:
            os.kill(os.getpid(), signal.SIGKILL)
        if kill and trainer.step == 20:
            saving, calls = True, 0
    os.fsync = sync
    t.go(Path(out), progress=progress)

for kill in {kills!r}:
    pid = os.fork()
    if not pid:
        child(f"{out}/killed{{kill}}/run", kill)
        os._exit(0)
    print(kill, os.waitpid(pid, 0)[1], flush=True)
"""
# 0: after step 23; else at that fsync of the checkpoint at 20: in a part, and around latest
KILLS = (0, 4, 9, 10)


def test_40_steps_are_20_and_a_kill_9_and_20(whole: Path, tmp_path: Path) -> None:
    """Killed between checkpoints and at many moments of writing one; every rerun ends with the same
    files.
    """
    code = CHILD.format(path=HERE, out=str(tmp_path), kills=KILLS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    killed = [line.split() for line in done.stdout.splitlines()]
    assert [int(kill) for kill, _ in killed] == list(KILLS), done.stderr
    assert all(int(status) == signal.SIGKILL for _, status in killed)
    assert steps(tmp_path / "killed0" / "run") == list(range(1, 21))
    seen = set()
    for kill in KILLS:
        out = tmp_path / f"killed{kill}" / "run"
        seen.add((out / "latest").read_text())
        go(out, resume=True)
        same(out, whole)  # nor is anything of the kill left
    # kills were before and after the checkpoint was named
    assert seen == {"step-00000010", "step-00000020"}


def test_a_finished_run_resumes_to_itself(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(out)
    go(out, resume=True)
    same(out, whole)


def test_resume_in_the_same_process_and_with_other_checkpoints_between(
    half: Path, whole: Path
) -> None:
    with pytest.raises(RuntimeError):
        go(half, resume=True, every=7, progress=at(37, lambda: stop_at(37)))
    assert (half / "latest").read_text() == "step-00000035"
    go(half, resume=True, every=10)
    for name in (
        checkpoint.WEIGHTS,
        "metrics.jsonl",
        "step-00000040/networks.safetensors",
        "step-00000040/adam-phi.safetensors",
    ):
        assert (half / name).read_bytes() == (whole / name).read_bytes()


def test_the_process_s_own_random_state_plays_no_part_and_stays(
    whole: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1234)
    np.random.seed(5)
    before = torch.get_rng_state()
    go(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    same(tmp_path / "run", whole)


def test_another_seed_is_another_run(whole: Path, tmp_path: Path) -> None:
    go(tmp_path / "run", seed=1)
    a, b = (load_file(p / checkpoint.WEIGHTS) for p in (whole, tmp_path / "run"))
    assert not any(torch.equal(a[k], b[k]) for k in a if k.endswith("conv.weight"))


def test_metrics_hold_each_step_once(half: Path) -> None:
    assert steps(half)[-1] >= 20
    with open(half / "metrics.jsonl", "a") as log:
        # cut off by a kill
        log.write(json.dumps({"step": 21}) + "\n" + json.dumps({"step": 22}) + '\n{"step": 2')
    go(half, resume=True)
    assert steps(half) == list(range(1, 41))
    line = json.loads((half / "metrics.jsonl").read_text().splitlines()[-1])
    assert line.keys() == {"step", "images", "theta", "phi"} and line["images"] == 320


def test_only_the_last_two_checkpoints_stay(whole: Path, half: Path) -> None:
    assert sorted(p.name for p in whole.glob("step-*")) == ["step-00000030", "step-00000040"]
    (half / "latest").write_text("step-00000010")
    with pytest.raises(RuntimeError):
        go(half, resume=True, every=3, progress=at(14, lambda: stop_at(14)))
    # 20 is of the abandoned future
    assert sorted(p.name for p in half.glob("step-*")) == ["step-00000010", "step-00000012"]
    assert (half / "latest").read_text() == "step-00000012"


def test_a_run_killed_before_latest_was_written_goes_on_from_its_checkpoint(
    half: Path, whole: Path
) -> None:
    (half / "latest").unlink()
    assert checkpoint.newest(half) == half / "step-00000020"
    go(half, resume=True)
    same(half, whole)


def test_load_gives_the_averaged_networks_ready_for_use(whole: Path) -> None:
    about, generator = run.load(whole)
    assert (
        about["family"] == "cas-dm"
        and about["recipe"]["name"] == "toy"
        and about["data"]["classes"] == ["disc", "box"]
    )
    wanted = load_file(whole / "step-00000040" / "average.safetensors")
    assert all(torch.equal(v, wanted[k]) for k, v in generator.networks.state_dict().items())
    assert not any(m.training for m in generator.networks.modules())


def test_a_judge_is_taught_once_and_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "LESSONS", 4)
    config = replace(TOY, metric="pdist", metric_weight=1.0)
    go(tmp_path / "a", steps=6, every=2, config=config)
    with pytest.raises(RuntimeError):
        go(tmp_path / "b", steps=6, every=2, config=config, progress=at(3, lambda: stop_at(3)))
    monkeypatch.setattr(
        CasDm, "teach", lambda self, batches: pytest.fail("a resumed run must not teach again")
    )
    go(tmp_path / "b", steps=6, every=2, config=config, resume=True)
    same(tmp_path / "a", tmp_path / "b")
    assert not any(
        "judge" in k or "stages" in k for k in load_file(tmp_path / "a" / checkpoint.WEIGHTS)
    )
    (tmp_path / "b" / "judge.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"E-WEIGHTS.*cannot be read: No such file.*judge.safetensors"
    ):
        go(tmp_path / "b", steps=6, every=2, config=config, resume=True)


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_step_and_leaves_a_checkpoint(
    tmp_path: Path, whole: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between theta's update and phi's, the moment when a checkpoint would be torn."""
    out, before = (
        tmp_path / "run",
        {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
    )
    real, calls = CasDm.phi_loss, 0

    def interrupted(self: CasDm, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 13:
            os.kill(os.getpid(), number)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(CasDm, "phi_loss", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            go(out)
    assert caught.value.args == (number,)
    assert {n: signal.getsignal(n) for n in before} == before
    assert (out / "latest").read_text() == "step-00000013" and steps(out) == list(range(1, 14))
    go(out, resume=True)
    for name in (
        checkpoint.WEIGHTS,
        "metrics.jsonl",
        "step-00000040/networks.safetensors",
        "step-00000040/adam-phi.safetensors",
    ):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = CasDm.phi_loss, 0

    def twice(self: CasDm, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 13:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the second signal should have interrupted at once")
        return real(self, batch)

    monkeypatch.setattr(CasDm, "phi_loss", twice)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "run" / "latest").read_text() == "step-00000010"


def test_a_signal_at_the_last_step_and_during_the_lessons(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", progress=at(40, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert not (tmp_path / "run" / checkpoint.WEIGHTS).exists()
    go(tmp_path / "run", resume=True)
    same(tmp_path / "run", whole)
    monkeypatch.setattr(lessons, "LESSONS", 2)
    teach = CasDm.teach

    def interrupted(self: CasDm, batches: Iterable[Batch]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        teach(self, batches)

    monkeypatch.setattr(CasDm, "teach", interrupted)
    config = replace(TOY, metric="pdist")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "judged", steps=2, config=config)
    # four hundred lessons are not waited for: they are given again
    assert sorted(p.name for p in (tmp_path / "judged").iterdir()) == ["digests.json", "run.json"]
    monkeypatch.setattr(CasDm, "teach", teach)
    go(tmp_path / "judged", steps=2, config=config, resume=True)


def test_a_signal_in_what_follows_a_step_is_heard_there(tmp_path: Path, whole: Path) -> None:
    """A look may take minutes: the step before it is kept, and the look is made when the run goes
    on.
    """
    begun: list[int] = []

    def look() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it was waited for")

    options = run.RunOptions(begin=lambda trainer: begun.append(trainer.step))
    with pytest.raises(KeyboardInterrupt) as caught:
        go(tmp_path / "run", progress=at(13, look))
    assert caught.value.args == (signal.SIGTERM,)
    assert (tmp_path / "run" / "latest").read_text() == "step-00000013"
    run.train(settings(), PHOTOS, tmp_path / "run", True, 10, nothing, options)
    assert begun == [13]
    assert (tmp_path / "run" / checkpoint.WEIGHTS).read_bytes() == (
        whole / checkpoint.WEIGHTS
    ).read_bytes()


def test_stop_respects_ignored_signals_and_other_threads() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
            stop.check()
    finally:
        signal.signal(signal.SIGHUP, before)
    failures = []

    def elsewhere() -> None:
        try:
            with Stop() as stop:
                stop.check()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failures == []
