"""edgegen plan show: what a plan keeps in full precision, and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..workflows import generators
from . import output

if TYPE_CHECKING:
    from ..core.plan import Plan

plan = typer.Typer(help="Look at precision plans.")


@plan.callback()
def _top() -> None:
    """Look at precision plans."""


@plan.command()
def show(
    what: Annotated[Path, typer.Argument(help="A plan.json, or a bundle.", metavar="PLAN")],
    runtime: Annotated[
        str | None, typer.Option(help="Of a bundle; its first, if not said.")
    ] = None,
    json: output.Json = False,
) -> None:
    """Convolution by convolution: its precision and why, what INT8 damages there alone, what it
    saves alone.
    """
    from ..core.fp32_last_steps import steps_in_fp32
    from ..core.plan import Plan

    path = _in_bundle(what, runtime) if what.is_dir() else what
    found = Plan.read(path)
    output.result(
        "plan show",
        {
            "plan": str(path),
            "rules": [list(r) for r in found.rules],
            "unit": found.unit,
            "last": found.last,
            "layers": [asdict(layer) for layer in found.layers],
        },
    )
    _table(found)
    if found.last:
        print(
            f"of the sampler's steps {steps_in_fp32(found.last)}, as a whole; what is said above "
            "is of the others."
        )


def _in_bundle(folder: Path, runtime: str | None) -> Path:
    bundle = generators.open_bundle(str(folder))
    name = runtime or next(iter(bundle.manifest.runtimes))
    if name not in bundle.manifest.runtimes:
        raise UsageError(
            "E-BUNDLE-RUNTIME",
            f"the bundle has no plan for {name}; it has {', '.join(bundle.manifest.runtimes)}",
            path=folder,
        )
    return bundle.path(f"int8/{name}/plan.json")


def _table(found: Plan) -> None:
    if not found.layers:
        print("this plan was not searched: its rules are all there is")
        output.table(["graph/convolution", "precision"], found.rules)
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
        for r in found.layers
    ]
    output.table(
        ["convolution", "precision", "why", "damage", "saved", "10^6 multiplications"], rows
    )
    saved = [r.saved or 0 for r in found.layers if r.precision == "int8"]
    print(
        "damage: mean squared distance that images' features move with this one alone in INT8. "
        f"saved: {found.unit}; "
        f"in INT8 {sum(saved):.3g} of {sum(max(r.saved or 0, 0) for r in found.layers):.3g}."
    )
    ends = [
        name
        for name, precision in found.rules
        if precision == "fp32" and name not in {f"{r.graph}/{r.node}" for r in found.layers}
    ]
    if ends:
        print(f"always FP32: {', '.join(ends)}.")
