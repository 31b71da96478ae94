"""Find what a runtime refuses, computes wrongly or runs slowly in an ONNX graph, from the file
alone and without the runtime.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import onnx
from onnx import NodeProto

from edgegen.errors import UsageError

from .lint_rules import RULES, Level
from .lookup import Lookup


@dataclass(frozen=True)
class Finding:
    """Hold one node and what a rule says about it."""

    level: Level
    rule: str
    node: str
    what: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def lint(model: onnx.ModelProto, runtime: str) -> tuple[Finding, ...]:
    """Return the findings, errors first, each in graph order. Raises UsageError for a runtime
    without rules.
    """
    if runtime not in RULES:
        raise UsageError(
            "E-RUNTIME", f"there are no rules for {runtime!r}; there are for {', '.join(RULES)}"
        )
    graph = Lookup(model)
    findings = [
        Finding(level, check.__name__.replace("_", "-"), _name(node), what, remedy)
        for level, check, remedy in RULES[runtime]
        for node, what in check(graph)
    ]
    return tuple(sorted(findings, key=lambda f: f.level))


def _name(node: NodeProto | None) -> str:
    """Return a node's name; nodes of other exporters may have none, and are named by operator and
    output.
    """
    return (
        "(model)"
        if node is None
        else node.name or f"{node.op_type} -> {next(iter(node.output), '')}"
    )
