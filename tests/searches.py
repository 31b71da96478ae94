"""What tests of the search share: a search that counts what it is asked, and told answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny

from edgegen.core.plan import Plan
from edgegen.core.runtime import Runtime
from edgegen.evidence.terms import Terms
from edgegen.export import qdq, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import calibrated
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.export.measurements import Measurements, SearchSubject
from edgegen.workflows.export.search import Search
from edgegen.workflows.export.search_settings import SearchSettings
from edgegen.workflows.generators import load_generator

Answers = dict[str, Callable[..., Any]]


class Watched(Search):
    """Counts how often each kind of question is really answered, and answers some of them as it is
    told; the `stop_at`th look is where the process dies.
    """

    def __init__(self, search: Search, answers: Answers | None = None, stop_at: int = 99) -> None:
        super().__init__(search.subject, search.settings, search.context)
        self.full = search.full  # shared: images and features are made once
        self.answers, self.stop_at = answers or {}, stop_at
        asked = ("errors", "damages", "time_saved", "graph_times", "psnr", "look")
        self.calls = dict.fromkeys(asked, 0)

    def measurements(self, target: Runtime) -> Measurements:
        measured = super().measurements(target)
        for name in self.calls:
            answer = self.answers.get(name, getattr(measured, name))
            setattr(measured, name, self._counted(name, answer))
        return measured

    def _counted(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def count(*given: Any) -> Any:
            self.calls[name] += 1
            if name == "look" and self.calls[name] == self.stop_at:
                raise KeyboardInterrupt
            return answer(*given)

        return count


def subject(run: Path) -> SearchSubject:
    source = load_generator(str(run))
    models = fp32_models(source)
    calibration = calibrated(source, models, 32, Context())
    return SearchSubject(source, models, calibration.models, calibration.plan)


def made(run: Path) -> Search:
    """Of a run folder."""
    return Search(subject(run), SearchSettings(Terms(0.3, 500, 1.0)), Context())


def elsewhere(**changed: Any) -> Any:
    """A runtime of OpenVINO's dialect."""
    runtime_like = {
        "name": "elsewhere",
        "executable": False,
        "dialect": runtime("openvino").dialect,
        "version": lambda: "1",
        "cannot_run": lambda: None,
    }
    return SimpleNamespace(**runtime_like | changed)


def answers(good: Callable[[Plan], bool], fp32_ms: float = 30.0) -> Answers:
    """Everything in INT8 takes 10 ms a graph, each convolution saves as much as any other, and
    plans are good as told.
    """

    def look(plan: Plan, progress: Any) -> dict[str, Any]:
        return {
            "likely": float(good(plan)),
            "enough": 0.9,
            "psnr_db": 99.0,
            "ruined": 0,
            "fp32_convolutions": 0,
            "change": 0.0,
            "pairs": 1,
        }

    return {
        "errors": lambda unit, last_steps: [1.0] * len(last_steps),
        "damages": lambda unit, last_steps: [float(len(unit[0][1]))] * len(last_steps),
        "time_saved": lambda convolutions, advance: [1.0] * len(convolutions),
        "graph_times": lambda: dict.fromkeys(tiny.models(), (10.0, fp32_ms)),
        "psnr": lambda plan: 99.0,
        "look": look,
    }


def hurried(search: Search, seconds: float, answers: Answers) -> Watched:
    settings = replace(search.settings, seconds=seconds)
    return Watched(Search(search.subject, settings, search.context), answers)


def layers(search: Search, target: Any) -> list[tuple[str, str]]:
    base = search.subject.base
    return [
        (graph, node.name)
        for graph, model in search.subject.calibrated.items()
        for node in qdq.int8_nodes(model, graph, base, target.dialect)
    ]
