"""One process that has imported everything forks a child for each case: what takes seconds is done
once. Cases come as JSON lines, what became of each goes back as one.

    {"name": "generate-3", "how": "hit", "at": 3, "what": "kill"}
how: "hit" at the at-th point of edgegen.core.faults, "time" after so many seconds, "none".
what: "kill", the name of an errno, "SIGTERM", or "SIGTERM twice".
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faulty import at_hit, refuse

from edgegen.cli.main import run as edgegen
from edgegen.core import faults
from edgegen.core.temporary import PREFIX

from .verbs import VERBS, WHOLE, KilledVerb

LIMIT = 240.0  # seconds that only a hang takes
Act = Callable[[Path], object]


def forked(act: Callable[[], object], log: Path) -> tuple[int, float]:
    """How a child that does it ends, as wait says it (124 for a hang), and after how long."""
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
            code = os.waitstatus_to_exitcode(status)
            return code, time.monotonic() - begun
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124, LIMIT


def harm(what: str) -> Act:
    """What happens to the process at its moment."""
    if what == "kill":
        return lambda _: os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("SIGTERM"):

        def stop(_: Path) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            if what.endswith("twice"):
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

        return stop
    return refuse(what)


def harmed(line: list[str], case: dict[str, Any]) -> int:
    """The command line, with the harm of the case."""
    act = harm(case["what"])
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
    """Run it whole, and note the points it passes."""
    passed: list[str] = []
    with faults.listening(lambda point, _: passed.append(point)):
        code = edgegen(line)
    answer.write_text(json.dumps(passed))
    return code


def one(verb: KilledVerb, case: dict[str, Any], inputs: Path, place: Path) -> dict[str, Any]:
    """Harm one run, look at what it left, run it again, and look again."""
    (run := place / case["name"]).mkdir()
    log = place / f"{case['name']}.log"
    line = verb.line(inputs, run)
    code, seconds = forked(lambda: harmed(line, case), log)
    state = verb.state(inputs, run)
    ends = {"code": code, "seconds": seconds, "state": state}
    again = 0
    if state != WHOLE or "--overwrite" in line:
        again, _ = forked(lambda: edgegen(verb.again(inputs, run)), log)
    elif (run / "out.lock").exists() or any(run.glob(f"{PREFIX}*")):
        # nothing is to be done again: another output of the verb beside it tidies up
        other = [part.replace(str(run / "out"), str(run / "other")) for part in line]
        again, _ = forked(lambda: edgegen(other), log)
        shutil.rmtree(run / "other", ignore_errors=True)
        (run / "out.lock").unlink(missing_ok=True)
    left = sorted(p.name for p in run.iterdir() if p.name not in verb.kept)
    left += [p.name for p in (run / "out").rglob(f"{PREFIX}*")]
    ends |= {"again": again, "end": verb.state(inputs, run), "left": left}
    if again == 0 and not left and ends["end"] == WHOLE:
        shutil.rmtree(run)
    else:
        ends["log"] = log.read_text(errors="replace")[-2000:]
    return ends


def serve(name: str, place: Path) -> None:
    """Cases on stdin until it ends."""
    import torch

    torch.set_num_threads(1)
    import edgegen.training.run
    import edgegen.workflows.export.run
    import edgegen.workflows.finetune.adapt
    import edgegen.workflows.finetune.merge
    import edgegen.workflows.train

    for module in (edgegen.workflows.train, edgegen.workflows.finetune.adapt):
        module.CHECKPOINT_STEPS = 3  # type: ignore[attr-defined]  # of eight or twelve
    verb, inputs = VERBS[name], place / "inputs"
    inputs.mkdir()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepared, _ = forked(lambda: verb.prepare(inputs), place / "prepare.log")
    (place / "first").mkdir()
    line = verb.line(inputs, place / "first")
    code, seconds = forked(lambda: counted(line, place / "points"), place / "first.log")
    whole = prepared == 0 and code == 0 and verb.state(inputs, place / "first") == WHOLE
    said = "" if whole else "".join(p.read_text(errors="replace") for p in place.glob("*.log"))
    points = json.loads((place / "points").read_text()) if whole else []
    first = {"whole": whole, "seconds": seconds, "points": points, "said": said[-3000:]}
    print(json.dumps(first), file=answers, flush=True)
    for text in sys.stdin:
        case = json.loads(text)
        print(json.dumps(one(verb, case, inputs, place)), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
