"""Check plans that are given instead of searched: whether they fit these graphs, and whose ranges
they use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.fp32_last_steps import fp32_below
from ...core.layers import LAYERS, LINEAR
from ...core.plan import Plan
from ...core.progress import Listener
from ...errors import InputError
from ...export import qdq
from .fp32 import Calls

if TYPE_CHECKING:
    from onnx import ModelProto


def check_plan(plan: Plan, models: Mapping[str, ModelProto], path: Path) -> None:
    """Raise InputError for a rule, graph or tensor of the plan that these graphs do not have."""
    nodes, products = (
        [
            f"{graph}/{node.name}"
            for graph, model in models.items()
            for node in model.graph.node
            if node.op_type in operators
        ]
        for operators in (LAYERS, LINEAR)
    )
    tensors = {graph: set(qdq.candidates(model)) for graph, model in models.items()}
    unknown = [
        pattern
        for pattern, _ in plan.rules
        if not any(fnmatchcase(node, pattern) for node in nodes)
    ]
    unknown += [
        pattern
        for pattern in plan.linear
        if not any(fnmatchcase(node, pattern) for node in products)
    ]
    unknown += [
        f"{graph}/{tensor}"
        for graph, ranges in plan.ranges.items()
        for tensor in ranges
        if tensor not in tensors.get(graph, ())
    ]
    if unknown:
        raise InputError(
            "E-PLAN",
            f"the plan was made for another generator: {unknown[0]} is not in these graphs",
            path=path,
            hint="use the plan from a bundle of this generator",
        )


def check_last_steps(plan: Plan, calls: Calls, path: Path) -> None:
    """Raise InputError for a plan that leaves more of the sampler's last steps to FP32
    than it has.
    """
    if plan.last and not fp32_below(calls, plan.last):
        steps = max(map(len, calls.values()))
        raise InputError(
            "E-PLAN",
            f"the plan runs the last {plan.last} steps in FP32, but this sampler has only {steps}",
            path=path,
            hint='lower "last" in the plan, or leave --plan out to search for a plan',
        )


def with_ranges(plan: Plan, calibrated: Plan, listen: Listener) -> Plan:
    """Return the plan with its own ranges if it was made for the calibrated models, else with the
    ranges of `calibrated`.
    """
    if plan.model == calibrated.model:
        return plan
    listen.note(
        "the plan was made for other weights: its precisions are kept, but its ranges are "
        "measured again"
    )
    return replace(plan, ranges=calibrated.ranges, model=calibrated.model)
