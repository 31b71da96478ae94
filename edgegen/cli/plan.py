"""edgegen plan show: show what a plan keeps in full precision, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import output

if TYPE_CHECKING:
    from ..core.plan import Plan
    from ..workflows.plans import SearchRecord

plan = typer.Typer(help="Show precision plans.")


@plan.callback()
def _top() -> None:
    """Show precision plans."""


@plan.command()
def show(
    path: Annotated[
        Path, typer.Argument(help="A plan.json file or a bundle folder.", metavar="PLAN")
    ],
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime of the bundle whose plan is shown (default: the bundle's first)."
        ),
    ] = None,
    json: output.Json = False,
) -> None:
    """Show for each layer its precision, the reason, and how much damage and saving INT8 in this
    layer alone would cause. For a bundle, also show what the search measured, how long that took,
    and what it did not measure and why.
    """
    from ..core.fp32_last_steps import steps_in_fp32
    from ..workflows.plans import read_plan

    result = read_plan(path, runtime)
    output.result("plan show", result.to_json())
    _table(result.plan)
    if result.plan.last:
        print(
            f"Of the sampler's steps, {steps_in_fp32(result.plan.last)} as a whole; the table "
            "above is about the other steps."
        )
    if result.search is not None:
        _search(result.search)


def _search(search: SearchRecord) -> None:
    if search.steps:
        print()
        rows = [
            [
                step["step"],
                step["asked"],
                f"{step['seconds']:.1f} s",
                "" if step["expected_s"] is None else f"{step['expected_s']:.1f} s",
            ]
            for step in search.steps
        ]
        output.table(["what the search measured", "times", "took", "expected"], rows)
        allowed = "" if search.allowed_s is None else f" It was allowed {search.allowed_s:.0f} s."
        print(f"How the damage of layers was measured: {search.damages}.{allowed}")
    if search.unasked:
        print()
        by_reason: dict[str, list[str]] = {}
        for one in search.unasked:
            by_reason.setdefault(one["why"], []).append(one["plan"])
        rows = [[len(plans), why, plans[0]] for why, plans in by_reason.items()]
        output.table(["plans that were not tried", "why", "the first of them"], rows)


def _table(plan: Plan) -> None:
    if not plan.layers:
        print("This plan was not made by a search; it consists of these rules only.")
        output.table(["graph/layer", "precision"], plan.rules)
        return
    rows = [
        [
            f"{r.graph}/{r.node}",
            r.precision.upper(),
            r.why,
            "" if r.damage is None else f"{r.damage:.3g}",
            "" if r.saved is None else f"{r.saved:.3g}",
            f"{r.multiplications / 1e6:.2f}",
        ]
        for r in plan.layers
    ]
    output.table(["layer", "precision", "why", "damage", "saved", "10^6 multiplications"], rows)
    saved = [r.saved or 0 for r in plan.layers if r.precision == "int8"]
    print(
        "damage: mean squared distance by which the images' features move if only this layer is "
        f"in INT8. saved: {plan.unit}; the layers in INT8 save {sum(saved):.3g} of "
        f"{sum(max(r.saved or 0, 0) for r in plan.layers):.3g}."
    )
    ends = [
        name
        for name, precision in plan.rules
        if precision == "fp32" and name not in {f"{r.graph}/{r.node}" for r in plan.layers}
    ]
    if ends:
        print(f"always FP32: {', '.join(ends)}.")
