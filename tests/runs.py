"""Toy runs on disk that several tests share, and what they compare."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import CONFIG, NET, shapes

from edgegen.core.files import to_json
from edgegen.families import Recipe, family
from edgegen.families.cas_dm import CasDmConfig
from edgegen.training import checkpoint, run
from edgegen.training.data import Photos
from edgegen.training.loop import Trainer
from edgegen.training.processes import ALONE, World
from edgegen.training.run import RunSettings

SMALL = replace(NET, widths=(16,), dropout=0.2)
TOY = replace(CONFIG, size=8, theta=SMALL, phi=SMALL)
PHOTOS = shapes(40, 8)
HERE = [str(Path(__file__).parent), *[p for p in sys.path if p]]


def settings(
    steps: int = 40, config: CasDmConfig = TOY, seed: int = 0, **recipe: Any
) -> RunSettings:
    plan = replace(Recipe(config, images=8 * steps, batch=8, warmup=5, ema=0.9), **recipe)
    return RunSettings("cas-dm", "toy", plan, seed)


def nothing(trainer: Trainer, report: dict[str, float]) -> None:
    pass


def go(
    out: Path,
    resume: bool = False,
    every: int = 10,
    progress: run.Progress = nothing,
    photos: Photos = PHOTOS,
    world: World = ALONE,
    **other: Any,
) -> Path:
    return run.train(
        settings(**other), photos, out, resume, every, progress, run.RunOptions(world=world)
    )


def at(step: int, act: Callable[[], object]) -> run.Progress:
    return lambda trainer, report: act() if trainer.step == step else None  # type: ignore[return-value]


def same(a: Path, b: Path) -> None:
    """Both runs have the same last checkpoint, weights and losses, to the bit."""
    names = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert (
        names == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file()) and len(names) > 10
    )
    assert [str(n) for n in names if (a / n).read_bytes() != (b / n).read_bytes()] == []


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def redigest(part: Path) -> None:
    """Make a checkpoint's state fit a part of it that was changed."""
    file = part.with_name(checkpoint.STATE)
    state = json.loads(file.read_text())
    state.pop(checkpoint.DIGEST)
    state["sha256"][part.stem] = hashlib.sha256(part.read_bytes()).hexdigest()
    file.write_bytes(to_json(state))


def stop_at(step: int) -> None:
    raise RuntimeError(f"stopped at {step}")


def failed(out: Path, step: int) -> Path:
    """A run with a checkpoint every ten steps that failed after `step`."""
    with pytest.raises(RuntimeError, match=f"stopped at {step}"):
        go(out, progress=at(step, lambda: stop_at(step)))
    return out


def of_family(name: str, out: Path) -> Path:
    """24 steps of the family's tiny recipe."""
    recipe = replace(family(name).recipes["tiny"](), images=24 * 8, batch=8, warmup=2)
    photos = shapes(64, recipe.config.size)
    run.train(RunSettings(name, "tiny", recipe), photos, out, False, 24, nothing)
    return out


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
{child}
def kill(trainer, report):
    if trainer.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(*_):
    pass

for out, resume, progress in (
        ("whole", False, watch), ("killed", False, kill), ("killed", True, watch)):
    pid = os.fork()
    if not pid:
        try:
            child({name!r}, Path({out!r}) / out, resume, progress)
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


def killed(child: str, name: str, out: Path) -> list[int]:
    """A run of 20 steps with a checkpoint every five in out/whole, and one killed with -9 at step
    13 and resumed in out/killed; how the three processes ended.

    child: source of `child(name, out, resume, progress)`. One process imports what that needs and
    forks the others.
    """
    script = KILLED.format(path=HERE, child=child, name=name, out=str(out))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    print(done.stderr)
    return [int(status) for status in done.stdout.split()]


def resumed_exactly(folder: Path, ended: list[int]) -> None:
    """What `killed` left: the resumed run is the whole one, to the bit."""
    assert ended == [0, signal.SIGKILL, 0]
    same(folder / "whole", folder / "killed")
    assert steps(folder / "whole") == steps(folder / "killed") == list(range(1, 21))
