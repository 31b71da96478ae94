"""A training that is killed at a random point and resumed leaves the bytes of one that was not: of
every family, of all weights and of an adapter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from adapting import PEFT
from runs import HERE, same

from edgegen.families import FAMILIES

KILLS = 10  # of each family, each way
Recorded = Callable[[str, object], None]
pytestmark = [pytest.mark.reliability, pytest.mark.slow]

TRAINING = """
from dataclasses import replace
from toys import shapes
from edgegen.families import family
from edgegen.training.run import RunSettings, train

def child(name, out, resume):
    recipe = replace(family(name).recipes["tiny"](), images=12 * 8, batch=8, warmup=2)
    photos = shapes(64, recipe.config.size)
    train(RunSettings(name, "tiny", recipe), photos, out, resume, 4, lambda *_: None)
"""
ADAPTING = """
import peft
from adapters import run

def child(name, out, resume):
    run(name, out, 12, resume, None, 4)
"""
# one process imports what the runs need and forks them: the whole one, and each that is killed
# with the one that goes on
KILLED = """
import json, os, random, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from faulty import at_hit, kill, points_of
from edgegen.core import faults
{child}
name, place = {name!r}, Path({place!r})

def forked(act):
    pid = os.fork()
    if not pid:
        try:
            act()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def whole():
    passed = points_of(lambda: child(name, place / "whole", False))
    (place / "points.json").write_text(json.dumps(passed))

def killed(out, number):
    with faults.listening(at_hit(number, kill)):
        child(name, out, False)

assert forked(whole) == 0
points = json.loads((place / "points.json").read_text())
for number in sorted(random.Random(name).sample(range(len(points)), {kills})):
    out = place / str(number)
    ends = [forked(lambda: killed(out, number)), forked(lambda: child(name, out, True))]
    print(json.dumps([number, points[number], ends]), flush=True)
"""


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "child", [TRAINING, pytest.param(ADAPTING, marks=PEFT)], ids=["training", "adapting"]
)
def test_random_kills(child: str, name: str, tmp_path: Path, record_property: Recorded) -> None:
    script = KILLED.format(path=HERE, child=child, name=name, place=str(tmp_path), kills=KILLS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    tried = [json.loads(line) for line in done.stdout.splitlines()]
    faults = []
    for number, point, ends in tried:
        try:
            assert ends == [-9, 0], done.stderr
            same(tmp_path / "whole", tmp_path / str(number))
        except AssertionError as error:
            faults.append(f"killed at {number}, {point}: {error}")
    record_property("reliability", ("resume", name, len(tried), len(faults)))
    assert faults == [] and len(tried) == KILLS, done.stderr
