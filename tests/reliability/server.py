"""One process that has imported everything forks a child for each case: what takes seconds is done
once. Cases come as JSON lines, what became of each goes back as one.

    {"name": "generate-3", "how": "hit", "at": 3, "what": "kill"}
how: "hit" at the at-th point of edgegen.core.faults, "time" after so many seconds, "none".
what: "kill", the name of an errno, "SIGTERM", or "SIGTERM twice".
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import small_features
import trace_memory
from faulty import at_hit, refuse

from edgegen.cli.main import run as edgegen
from edgegen.core import faults
from edgegen.core.temporary import PREFIX
from edgegen.machine.network_sandbox import seal

from .verbs import ATTEMPTS, VERBS, WHOLE, KilledVerb

LIMIT = 900.0  # seconds that only a hang takes, on a machine with other work too
Act = Callable[[Path], object]


class End(NamedTuple):
    """How a child ended: its code as wait says it (124 for a hang), and after how many seconds."""

    code: int
    seconds: float


def forked(act: Callable[[], object], log: Path) -> End:
    """Do it in a child."""
    begun = time.monotonic()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(said, 1)
            os.dup2(said, 2)
            result = act()
            code = result if isinstance(result, int) else 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    while time.monotonic() - begun < LIMIT:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return End(os.waitstatus_to_exitcode(status), time.monotonic() - begun)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return End(124, LIMIT)


def harm(what: str, moment: Path) -> Act:
    """What happens to the process at its moment, which is noted."""

    def happen(place: Path) -> None:
        moment.write_text(repr(time.monotonic()))
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what.startswith("SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
            if what.endswith("twice"):
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            refuse(what)(place)

    return happen


def harmed(line: list[str], case: dict[str, Any], moment: Path) -> int:
    """The command line, with the harm of the case."""
    act = harm(case["what"], moment)
    if case["how"] == "time":
        timer = threading.Timer(case["at"], act, (Path(),))
        timer.daemon = True
        timer.start()
        return edgegen(line)
    if case["how"] == "none":
        return edgegen(line)
    with faults.listening(at_hit(case["at"], act)):
        return edgegen(line)


def counted(line: list[str], answer: Path) -> int:
    """Run it whole; note the points it passes and the modules it needs."""
    passed: list[str] = []
    with faults.listening(lambda point, _: passed.append(point)):
        code = edgegen(line)
    answer.write_text(json.dumps({"points": passed, "modules": list(sys.modules)}))
    return code


def one(verb: KilledVerb, case: dict[str, Any], inputs: Path, place: Path) -> dict[str, Any]:
    """Harm one run, look at what it left, run it again, and look again."""
    (run := place / case["name"]).mkdir()
    log, moment = place / f"{case['name']}.log", place / f"{case['name']}.moment"
    line = verb.line(inputs, run)
    begun = time.monotonic()
    code, seconds = forked(lambda: harmed(line, case, moment), log)
    state = verb.state(inputs, run)
    after = begun + seconds - float(moment.read_text()) if moment.exists() else None
    ends: dict[str, Any] = {"code": code, "after": after, "state": state}
    again = 0
    if state != WHOLE or "--overwrite" in line:
        again, _ = forked(lambda: edgegen((verb.again or verb.line)(inputs, run)), log)
    elif (run / "out.lock").exists() or any(run.glob(f"{PREFIX}*")):
        # nothing is to be done again: another output of the verb beside it tidies up
        other = [part.replace(str(run / "out"), str(run / "other")) for part in line]
        again, _ = forked(lambda: edgegen(other), log)
        shutil.rmtree(run / "other", ignore_errors=True)
        (run / "out.lock").unlink(missing_ok=True)
    left = sorted(p.name for p in run.iterdir() if p.name != "out")
    left += [p.name for p in (run / "out").rglob(f"{PREFIX}*")]
    ends |= {"again": again, "end": verb.state(inputs, run), "left": left}
    if again == 0 and not left and ends["end"] == WHOLE:
        shutil.rmtree(run)
    else:
        ends["log"] = log.read_text(errors="replace")[-2000:]
    return ends


def made_small() -> None:
    """What makes a run long and is not what is tried here: fewer images, smaller features, a
    checkpoint every three steps of eight or twelve; what is read or traced once is kept.
    """
    import torch

    import edgegen.evidence.features as features
    import edgegen.export.onnx
    import edgegen.workflows.finetune.adapt
    import edgegen.workflows.finetune.periodic_eval as looks
    import edgegen.workflows.train

    torch.set_num_threads(1)
    trace_memory.install(None)
    for module in (edgegen.workflows.train, edgegen.workflows.finetune.adapt):
        module.CHECKPOINT_STEPS = 3  # type: ignore[attr-defined]
    looks.EVALUATION_IMAGES = looks.FINAL_IMAGES = 64
    small_features.install(__name__)
    features.feature_network = functools.cache(features.feature_network)


def imported(names: list[str]) -> None:
    """What the first run needed, for those after it."""
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                __import__(name)


def first_runs(verb: KilledVerb, inputs: Path, place: Path) -> dict[str, Any]:
    """What is known of a run before one is harmed: its points, and how long it takes once what the
    first imported is there.
    """
    prepared = forked(lambda: verb.prepare(inputs), place / "log").code
    if prepared == 0:
        verb.warm(inputs)
    known: dict[str, Any] = {}
    for name in ("first", "second"):
        (run := place / name).mkdir()
        act = functools.partial(counted, verb.line(inputs, run), place / "about.json")
        end = forked(act, place / "log")
        if prepared or end.code or verb.state(inputs, run) != WHOLE:
            said = (place / "log").read_text(errors="replace")[-3000:]
            return {"whole": False, "said": f"prepared: {prepared}, {name}: {end}: {said}"}
        known = json.loads((place / "about.json").read_text())
        imported(known["modules"])
    return {"whole": True, "said": "", "seconds": end.seconds, "points": known["points"]}


def serve(name: str, place: Path) -> None:
    """Cases on stdin until it ends."""
    verb, inputs = VERBS[name], place / "inputs"
    inputs.mkdir()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    seal(place / ATTEMPTS)
    made_small()
    print(json.dumps(first_runs(verb, inputs, place)), file=answers, flush=True)
    for text in sys.stdin:
        case = json.loads(text)
        print(json.dumps(one(verb, case, inputs, place)), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
