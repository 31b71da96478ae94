"""The training engine: exact resume, NaN, refusals, checkpoints that are damaged, signals, and order."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from toys import CONFIG, NET, shapes, train, trainer

from edgegen.core.graph import Batch
from edgegen.errors import Busy, EdgegenError, InputError, ResourceError, TrustError, UsageError
from edgegen.families import Recipe
from edgegen.families.cas_dm import CasDm, Config
from edgegen.training import checkpoint, loop, run
from edgegen.training.data import Photos
from edgegen.training.loop import GIVE_UP, Trainer
from edgegen.training.run import Settings
from edgegen.training.stop import Stop

SMALL = replace(NET, widths=(16,), dropout=0.2)
TOY = replace(CONFIG, size=8, theta=SMALL, phi=SMALL)
PHOTOS = shapes(40, 8)
HERE = [str(Path(__file__).parent), *[p for p in sys.path if p]]


def settings(steps: int = 40, config: Config = TOY, seed: int = 0, **recipe: Any) -> Settings:
    plan = replace(Recipe(config, images=8 * steps, batch=8, warmup=5, ema=0.9), **recipe)
    return Settings("cas-dm", "toy", plan, seed)


def nothing(trainer: Trainer, report: dict[str, float]) -> None:
    pass


def go(out: Path, resume: bool = False, every: int = 10, progress: run.Progress = nothing, photos: Photos = PHOTOS, **other: Any) -> Path:
    return run.train(settings(**other), photos, out, resume, every, progress)


def at(step: int, act: Callable[[], object]) -> run.Progress:
    return lambda trainer, report: act() if trainer.step == step else None  # type: ignore[return-value]


def same(a: Path, b: Path) -> None:
    """Both runs have the same last checkpoint, weights and losses, to the bit."""
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file()) and len(names) > 10
    assert [str(n) for n in names if (a / n).read_bytes() != (b / n).read_bytes()] == []


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def stop_at(step: int) -> None:
    raise RuntimeError(f"stopped at {step}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    go(out)
    return out


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A run that failed after its checkpoint at step 20."""
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="stopped at 23"):
        go(out, progress=at(23, lambda: stop_at(23)))
    return out


# exact resume

CHILD = """
import os, signal, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
import test_training as t
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
KILLS = (0, 4, 8, 9, 10)  # 0: after step 23; else at that fsync of the checkpoint at 20: a part, the rename, latest before and after


def test_40_steps_are_20_and_a_kill_9_and_20(whole: Path, tmp_path: Path) -> None:
    """Killed between checkpoints and at many moments of writing one; every rerun ends with the same files."""
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
        for left in out.glob(".edgegen-tmp-*"):  # what a kill leaves, swept a day later
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        same(out, whole)
    assert seen == {"step-00000010", "step-00000020"}  # kills were before and after the checkpoint was named


def test_a_finished_run_resumes_to_itself(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(out)
    go(out, resume=True)
    same(out, whole)


def test_resume_in_the_same_process_and_with_other_checkpoints_between(half: Path, whole: Path) -> None:
    with pytest.raises(RuntimeError):
        go(half, resume=True, every=7, progress=at(37, lambda: stop_at(37)))
    assert (half / "latest").read_text() == "step-00000035"
    go(half, resume=True, every=10)
    assert checkpoint.read_weights(half / run.checkpoint.WEIGHTS).keys() == checkpoint.read_weights(whole / checkpoint.WEIGHTS).keys()
    for name in (checkpoint.WEIGHTS, "metrics.jsonl", "step-00000040/networks.safetensors", "step-00000040/adam-theta.safetensors"):
        assert (half / name).read_bytes() == (whole / name).read_bytes()


def test_the_process_s_own_random_state_plays_no_part_and_stays(whole: Path, tmp_path: Path) -> None:
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
        log.write(json.dumps({"step": 21}) + "\n" + json.dumps({"step": 22}) + '\n{"step": 2')  # cut off by a kill
    go(half, resume=True)
    assert steps(half) == list(range(1, 41))
    line = json.loads((half / "metrics.jsonl").read_text().splitlines()[-1])
    assert line.keys() == {"step", "images", "theta", "phi"} and line["images"] == 320


def test_only_the_last_two_checkpoints_stay(whole: Path, half: Path) -> None:
    assert sorted(p.name for p in whole.glob("step-*")) == ["step-00000030", "step-00000040"]
    (half / "latest").write_text("step-00000010")
    with pytest.raises(RuntimeError):
        go(half, resume=True, every=3, progress=at(14, lambda: stop_at(14)))
    assert sorted(p.name for p in half.glob("step-*")) == ["step-00000010", "step-00000012"]  # 20 is of the abandoned future
    assert (half / "latest").read_text() == "step-00000012"


def test_a_run_killed_before_latest_was_written_goes_on_from_its_checkpoint(half: Path, whole: Path) -> None:
    (half / "latest").unlink()
    assert checkpoint.newest(half) == half / "step-00000020"
    go(half, resume=True)
    same(half, whole)


def test_load_gives_the_averaged_networks_ready_for_use(whole: Path) -> None:
    about, generator = run.load(whole)
    assert about["family"] == "cas-dm" and about["recipe"]["name"] == "toy" and about["data"]["classes"] == ["disc", "box"]
    wanted = load_file(whole / "step-00000040" / "average.safetensors")
    assert all(torch.equal(v, wanted[k]) for k, v in generator.networks.state_dict().items())
    assert not any(m.training for m in generator.networks.modules())


def test_a_judge_is_taught_once_and_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LESSONS", 4)
    config = replace(TOY, metric="pdist", metric_weight=1.0)
    go(tmp_path / "a", steps=6, every=2, config=config)
    with pytest.raises(RuntimeError):
        go(tmp_path / "b", steps=6, every=2, config=config, progress=at(3, lambda: stop_at(3)))
    monkeypatch.setattr(CasDm, "teach", lambda self, batches: pytest.fail("a resumed run must not teach again"))
    go(tmp_path / "b", steps=6, every=2, config=config, resume=True)
    same(tmp_path / "a", tmp_path / "b")
    assert not any("judge" in k or "stages" in k for k in load_file(tmp_path / "a" / checkpoint.WEIGHTS))
    (tmp_path / "b" / "judge.safetensors").unlink()
    with pytest.raises(InputError, match="E-WEIGHTS.*cannot be read: No such file.*judge.safetensors"):
        go(tmp_path / "b", steps=6, every=2, config=config, resume=True)


# what is not finite


class Sick(CasDm):
    """Losses of `which` are NaN at the steps in `when`, through the network, so that batch norm's statistics see it."""

    which, when = "phi", frozenset({3, 4})
    count = 0

    def theta_loss(self, batch: Batch) -> torch.Tensor:
        self.count += 1
        return super().theta_loss(self._spoilt(batch, "theta"))

    def phi_loss(self, batch: Batch) -> torch.Tensor:
        if self._draw is not None and self.which == "theta" and self.count in self.when:
            self._draw.batch = batch
        if self._draw is not None and self.which == "phi" and self.count in self.when:
            self._draw.x = self._draw.x * float("nan")
        return super().phi_loss(batch)

    def _spoilt(self, batch: Batch, name: str) -> Batch:
        sick = self.which == name and self.count in self.when
        return replace(batch, images=batch.images * float("nan")) if sick else batch


def sick(which: str, when: frozenset[int], steps: int = 8) -> Trainer:
    base = trainer(TOY, PHOTOS, steps=steps)
    torch.manual_seed(0)
    made = Sick(TOY)
    made.which, made.when = which, when
    made.networks.load_state_dict(base.generator.networks.state_dict())
    return Trainer.start(made, base.recipe, PHOTOS, 0)


def copied(run: Trainer) -> dict[str, torch.Tensor]:
    state = {f"now.{k}": v for k, v in run.generator.networks.state_dict().items()}
    state |= {f"average.{k}": v for k, v in run.averages.state_dict().items()}
    for objective, optimizer in zip(run.objectives, run.optimizers, strict=True):
        state |= {f"adam.{objective.name}.{i}.{k}": v for i, e in optimizer.state_dict()["state"].items() for k, v in e.items()}
    return {k: v.clone() for k, v in state.items()}


@pytest.mark.parametrize("which", ["theta", "phi"])
def test_a_step_that_is_not_finite_moves_nothing_of_its_network(which: str) -> None:
    run, seen = sick(which, frozenset({3, 4})), []
    before: dict[str, torch.Tensor] = {}
    for report in run.run():
        now = copied(run)
        if run.step in (3, 4):
            assert np.isnan(report[which]) and np.isnan(report["phi"])
            changed = {k for k in now if not torch.equal(now[k], before[k])}
            if which == "theta":  # phi reads theta's prediction, so both are skipped
                assert changed == set()
            else:
                assert changed and all("theta" in k for k in changed)
                assert any(k.startswith("average.theta") for k in changed)
        assert all(v.isfinite().all() for v in now.values())
        seen.append(report)
        before = now
    assert run.skipped == 2 and run.step == 8 and len(seen) == 8


def test_a_gradient_that_is_not_finite_is_skipped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(TOY, PHOTOS, steps=3)
    parameter = next(run.generator.networks["theta"].parameters())
    parameter.register_hook(lambda grad: grad * float("inf") if run.step == 1 else grad)
    reports = train(run)
    assert [np.isnan(r["theta"]) for r in reports] == [False, True, False] and run.skipped == 1
    assert all(v.isfinite().all() for v in copied(run).values())


def test_twenty_in_a_row_give_up_with_the_last_checkpoint_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = sick("phi", frozenset(range(4, 100)), steps=60)
    with pytest.raises(EdgegenError, match=rf"the loss was not finite for {GIVE_UP} steps in a row, last at step 23: .*'phi': nan") as caught:
        train(forever)
    assert caught.value.code == "E-NONFINITE" and caught.value.exit_code == 1
    assert forever.skipped == GIVE_UP == 20
    with monkeypatch.context() as patch:
        patch.setattr(CasDm, "phi_loss", lambda self, batch: next(self.networks["phi"].parameters()).sum() * float("nan"))
        with pytest.raises(EdgegenError, match="the last checkpoint is intact"):
            go(tmp_path / "run", every=5)
    assert (tmp_path / "run" / "latest").read_text() == "step-00000015"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["phi"] is None and lines[0]["theta"] > 0
    go(tmp_path / "run", every=5, resume=True)  # the cause is gone: the run goes on
    assert json.loads((tmp_path / "run" / "step-00000040" / "state.json").read_text())["skipped"] == 15


def test_fewer_than_twenty_do_not_give_up() -> None:
    run = sick("phi", frozenset(range(2, 2 + GIVE_UP - 1)), steps=30)
    train(run)
    assert run.skipped == GIVE_UP - 1


# refusals


@pytest.mark.parametrize(("change", "name", "hint"), [
    ({"config": replace(TOY, metric_weight=0.2)}, "config.metric_weight", "then 0.1, now 0.2"),
    ({"config": replace(TOY, theta=replace(SMALL, dropout=0.1))}, "config.theta.dropout", "then 0.2, now 0.1"),
    ({"photos": shapes(40, 8, seed=9)}, "data.sha256", "then '"),
    ({"seed": 1}, "seed", "then 0, now 1"),
    ({"rate": 2e-3}, "recipe.rate", "then 0.001, now 0.002"),
    ({"steps": 50}, "recipe.images", "then 320, now 400"),
])
def test_a_resume_of_another_run_is_refused_by_name(half: Path, change: dict[str, Any], name: str, hint: str) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*"))
    with pytest.raises(UsageError) as caught:
        go(half, resume=True, **change)
    assert caught.value.code == "E-RESUME-MISMATCH" and hint in caught.value.hint
    assert caught.value.message == f"the run was started with another {name}"
    assert sorted((p, p.stat().st_mtime_ns) for p in half.rglob("*")) == before


def test_another_torch_is_refused(half: Path) -> None:
    about = json.loads((half / "run.json").read_text())
    (half / "run.json").write_text(json.dumps({**about, "torch": "2.0.0"}))
    with pytest.raises(UsageError, match=r"started with another torch .* - then '2.0.0', now"):
        go(half, resume=True)


def test_folders_that_are_taken(half: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"E-OUT-EXISTS. a run is there already .*add --resume, or choose another --out"):
        go(half)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(UsageError, match="E-OUT-EXISTS. the run folder is not empty and not a run"):
            go(tmp_path / "foreign", resume=resume)
    with pytest.raises(ResourceError, match="cannot write"):
        go(tmp_path / "foreign" / "thesis.txt")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".edgegen-tmp-0").write_text("of a kill while run.json was written")
    go(tmp_path / "killed", steps=1)


def test_a_folder_in_use_is_busy(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with FileLock(tmp_path / "run.lock"), pytest.raises(Busy, match="another run is training into this folder") as caught:
        go(out, steps=1)
    assert (caught.value.code, caught.value.exit_code) == ("E-LOCKED", 8)
    go(out, steps=1)

    def second(trainer: Trainer, report: dict[str, float]) -> None:
        with pytest.raises(Busy):
            go(tmp_path / "other", steps=2, resume=True)

    go(tmp_path / "other", steps=2, progress=second)


def test_a_checkpoint_interval_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every 1 or more steps, got 0"):
        go(tmp_path / "run", every=0)


@pytest.mark.parametrize(("photos", "code", "text"), [
    (shapes(7, 8), "E-DATA-TOO-FEW", r"at least 8 photos \(one batch\), got 7"),
    (shapes(40, 16), "E-DATA-SIZE", "the generator makes 8 x 8 x 3 images, the photos are 16 x 16 x 3"),
    (replace(PHOTOS, labels=PHOTOS.labels + 1), "E-DATA-CLASSES", "has 2 classes, the photos' labels go from 1 to 2"),
    (replace(PHOTOS, labels=PHOTOS.labels - 1), "E-DATA-CLASSES", "has 2 classes, the photos' labels go from -1 to 0"),
])
def test_photos_that_do_not_fit(tmp_path: Path, photos: Photos, code: str, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        go(tmp_path / "run", photos=photos, config=replace(TOY, classes=2))
    assert caught.value.code == code and not (tmp_path / "run").exists()


def test_labels_of_photos_mean_nothing_to_an_unconditional_generator(tmp_path: Path) -> None:
    go(tmp_path / "run", steps=1, photos=replace(PHOTOS, labels=PHOTOS.labels + 7))


def test_a_run_that_has_not_ended_cannot_be_loaded(half: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"E-RUN-OPEN. this run has not ended yet .* - finish it with --resume"):
        run.load(half)
    with pytest.raises(InputError, match="E-JSON"):
        run.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("about", "text"), [
    ([], "the description names no family and config"), ({"family": "cas-dm"}, "names no family and config"),
    ({"family": ["cas-dm"], "config": {}}, "names no family"), ({"family": "gan", "config": {}}, "unknown family 'gan'; known: cas-dm"),
    ({"family": "cas-dm", "config": {"size": "32"}}, "E-CONFIG. size: Input should be a valid integer"),
    ({"family": "cas-dm", "config": {"theta": {"widht": 3}}}, "E-CONFIG. theta.widht: Unexpected keyword argument"),
    ({"family": "cas-dm", "config": {"size": 18}}, "size 18 must divide by 4"),
])
def test_descriptions_that_build_nothing(about: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        checkpoint.build(about, Path("run.json"))


# damaged checkpoints


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[next(k for k, v in tensors.items() if v.is_floating_point() and v.ndim)].flatten()[:1] = float("nan")


def widen(tensors: dict[str, torch.Tensor]) -> None:
    name = next(k for k, v in tensors.items() if v.ndim)
    tensors[name] = torch.zeros(*tensors[name].shape, 2)


PARTS = ("networks", "average", "adam-theta", "adam-phi")
DAMAGE: dict[str, tuple[Callable[[Path], object], type[EdgegenError], str]] = {
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), TrustError, "E-PICKLE. edgegen does not read pickle files"),
    "torch": (lambda p: torch.save({"a": torch.zeros(1)}, p), TrustError, "E-PICKLE"),
    "empty": (lambda p: p.write_bytes(b""), InputError, "E-ST-HEADER. not a safetensors file"),
    "text": (lambda p: p.write_bytes(b"<html>404</html>"), InputError, "E-ST-HEADER"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-1]), InputError, "E-ST-HEADER"),
    "longer": (lambda p: p.write_bytes(p.read_bytes() + b"\0"), InputError, "E-ST-HEADER"),
    "missing": (lambda p: p.unlink(), InputError, "E-WEIGHTS. cannot be read: No such file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), InputError, "E-WEIGHTS. not a file"),
    "nan": (lambda p: rewrite(p, poison), InputError, r"E-NONFINITE. .*: 1 of \d+ values are NaN or infinite"),
    "shape": (lambda p: rewrite(p, widen), InputError, r"E-KEYS. 1 tensors do not fit: .* is \(.*, 2\), wanted \("),
    "key": (lambda p: rewrite(p, lambda t: t.pop(sorted(t)[0])), InputError, "E-KEYS. 1 tensors do not fit: .* is missing"),
    "unknown": (lambda p: rewrite(p, lambda t: t.update({"77777.exp_avg": torch.zeros(1)})), InputError, "E-KEYS.* 77777.exp_avg is unknown"),
    "bit": (lambda p: p.write_bytes(p.read_bytes()[:-2] + bytes([p.read_bytes()[-2] ^ 1]) + p.read_bytes()[-1:]), TrustError, "E-HASH"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_refused_for_its_reason(damaged: Path, part: str, damage: str) -> None:
    path = damaged / "step-00000020" / f"{part}.safetensors"
    before = path.read_bytes()
    spoil, kind, text = DAMAGE[damage]
    spoil(path)
    fresh = Trainer.start(CasDm(TOY), settings().recipe, PHOTOS, 0)
    try:
        with pytest.raises(kind, match=text) as caught:
            checkpoint.resume(damaged, fresh)
    finally:
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
    assert caught.value.path == str(path) and fresh.step == 0
    checkpoint.resume(damaged, fresh)
    assert fresh.step == 20


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damaged") / "run"
    with pytest.raises(RuntimeError):
        go(out, progress=at(21, lambda: stop_at(21)))
    return out


@pytest.mark.parametrize(("name", "data", "code", "text"), [
    ("step-00000020/state.json", b"{}", "E-CHECKPOINT", "step, skipped and averaged are whole numbers"),
    ("step-00000020/state.json", b"[]", "E-CHECKPOINT", "whole numbers"),
    ("step-00000020/state.json", b'{"step": 20.5, "skipped": 0, "averaged": 20}', "E-CHECKPOINT", "whole numbers"),
    ("step-00000020/state.json", b'{"step": -1, "skipped": 0, "averaged": 20}', "E-CHECKPOINT", "whole numbers"),
    ("step-00000020/state.json", b'{"step": 20', "E-JSON", "not usable JSON"),
    ("latest", b"", "E-CHECKPOINT", "latest names '', which is no checkpoint"),
    ("latest", b"../../elsewhere", "E-CHECKPOINT", "latest names '../../elsewhere', which is no checkpoint"),
    ("latest", b"\xff", "E-CHECKPOINT", "no checkpoint to read"),
    ("latest", b"step-00000099", "E-JSON", "cannot be read: No such file"),
    ("run.json", b"{", "E-JSON", "not usable JSON"),
])
def test_damaged_pointers_never_restart_from_zero(damaged: Path, name: str, data: bytes, code: str, text: str) -> None:
    before = (damaged / name).read_bytes()
    (damaged / name).write_bytes(data)
    try:
        with pytest.raises(InputError, match=text) as caught:
            go(damaged, resume=True)
    finally:
        (damaged / name).write_bytes(before)
    assert caught.value.code == code


def test_checkpoints_from_before_there_were_digests_load(damaged: Path) -> None:
    path = damaged / "step-00000020" / "state.json"
    state = json.loads(before := path.read_text())
    path.write_text(json.dumps({k: state[k] for k in ("step", "skipped", "averaged")}))
    fresh = Trainer.start(CasDm(TOY), settings().recipe, PHOTOS, 0)
    checkpoint.resume(damaged, fresh)
    path.write_text(before)
    assert fresh.step == 20


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x580])
def test_a_header_whose_length_looks_like_pickle_is_read(tmp_path: Path, length: int) -> None:
    """The first byte of a safetensors file is the low byte of its header's length, and 0x80 is pickle's."""
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "w.safetensors").write_bytes(length.to_bytes(8, "little") + header.ljust(length) + bytes(4))
    assert checkpoint.read_weights(tmp_path / "w.safetensors")["x"].tolist() == [0]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_binary_pickle_is_known_by_its_bytes_and_files_by_their_names(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps({"x": [1.0] * 100}, protocol=protocol))
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pt", tmp_path / "w.ckpt", tmp_path / "w.bin"):  # the last ones are not opened
        with pytest.raises(TrustError, match="convert it to safetensors on a machine you trust") as caught:
            checkpoint.read_weights(path)
        assert (caught.value.code, caught.value.exit_code) == ("E-PICKLE", 6)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="not a file"):
        checkpoint.read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "NOPE", "F64", "BF16", "F8_E4M3"])
def test_types_are_read_or_refused_in_words(tmp_path: Path, dtype: str) -> None:
    size = {"F4": 1, "F64": 16, "BF16": 4}.get(dtype, 2)
    header = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    try:
        assert checkpoint.read_weights(tmp_path / "w.safetensors")["x"].isfinite
    except InputError as error:
        assert error.code == "E-ST-HEADER"


# signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_step_and_leaves_a_checkpoint(tmp_path: Path, whole: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between theta's update and phi's, the moment when a checkpoint would be torn."""
    out, before = tmp_path / "run", {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
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
    for name in (checkpoint.WEIGHTS, "metrics.jsonl", "step-00000040/networks.safetensors", "step-00000040/adam-phi.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second signal should have interrupted at once")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", progress=at(13, twice))
    assert signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "run" / "latest").read_text() == "step-00000010"


def test_a_signal_at_the_last_step_and_during_the_lessons(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", progress=at(40, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert not (tmp_path / "run" / checkpoint.WEIGHTS).exists()
    go(tmp_path / "run", resume=True)
    same(tmp_path / "run", whole)
    monkeypatch.setattr(run, "LESSONS", 2)
    teach = CasDm.teach
    monkeypatch.setattr(CasDm, "teach", lambda self, batches: (os.kill(os.getpid(), signal.SIGTERM), teach(self, batches))[1])
    config = replace(TOY, metric="pdist")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "judged", steps=2, config=config)
    assert (tmp_path / "judged" / "judge.safetensors").is_file() and steps(tmp_path / "judged") == []
    go(tmp_path / "judged", steps=2, config=config, resume=True)


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


# order


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def epoch(seed: int, number: int, size: int = 8) -> list[tuple[bytes, ...]]:
        per_epoch = len(PHOTOS) // size
        steps = range(number * per_epoch, (number + 1) * per_epoch)
        return [tuple(image.numpy().tobytes() for image in loop._batch(PHOTOS, size, k, seed, 0).images) for k in steps]

    whole = [image.numpy().tobytes() for image in loop._batch(PHOTOS, 40, 0, 0, 0).images]
    torch.manual_seed(77)
    first = epoch(0, 0)
    assert sorted(sum(first, ())) == sorted(whole)                       # each photo once an epoch
    assert list(sum(first, ())) == whole and sum(epoch(0, 0, 5), ()) == sum(first, ())  # whatever the batch
    torch.manual_seed(78)
    assert epoch(0, 0) == first and epoch(0, 1) != first and epoch(1, 0) != first
    assert [len(b) for b in epoch(0, 3, 7)] == [7] * 5                   # the short rest is left out


def test_batches_hold_images_and_labels_that_belong_together() -> None:
    batch = loop._batch(PHOTOS, 8, 2, 0, 2)
    assert batch.images.shape == (8, 3, 8, 8) and batch.images.min() >= -1 and batch.images.max() <= 1
    pixels = ((batch.images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for image, label in zip(pixels, batch.labels, strict=True):
        place = next(k for k, p in enumerate(PHOTOS.pixels) if np.array_equal(p, image))
        assert label.tolist() == np.eye(2)[PHOTOS.labels[place]].tolist()
    assert loop._batch(PHOTOS, 8, 2, 0, 0).labels.shape == (8, 0)
    draws = [torch.rand(3, generator=loop._batch(PHOTOS, 8, k, s, 0).generator).tolist() for k, s in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert draws[0] == draws[1] and draws[0] != draws[2] and draws[0] != draws[3]


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = [loop._fraction(k, 100, 10) for k in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)]) and rates[10] == 1
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and 0 < rates[-1] < 1e-3 and rates[55] == pytest.approx(0.5)
    assert loop._fraction(3, 4, 10) == pytest.approx(0.4)


def test_the_average_is_what_it_says() -> None:
    run = trainer(TOY, PHOTOS, steps=5, ema=0.15)
    name = "theta.trunk.stem.conv.weight"
    wanted = run.averages.state_dict()[name].clone()
    for count, _ in enumerate(run.run()):
        now = run.generator.networks.state_dict()[name]
        decay = min(0.15, (1 + count) / (10 + count))
        wanted = now.clone() if count == 0 else decay * wanted + (1 - decay) * now
        torch.testing.assert_close(run.averages.state_dict()[name], wanted)
    assert loop.averaged(run)[name].data_ptr() != run.averages.state_dict()[name].data_ptr()
