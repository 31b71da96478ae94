"""edgegen verify: is this bundle what was exported, and does its evidence hold on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateFailed, RuntimeMissing, TrustError
from . import output, source
from .options import AllowCpu, Threads, TrustEngines, Weights

if TYPE_CHECKING:
    from ..core.bundle import Bundle


def verify(
    what: Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")],
    files_only: Annotated[bool, typer.Option("--files-only", help="Check hashes and manifest, recompute nothing.")] = False,
    runtime: Annotated[str | None, typer.Option(help="Comma-separated; without it, every runtime of the bundle.")] = None,
    threads: Threads = 0,
    weights: Weights = None,
    trust_engines: TrustEngines = False,
    allow_cpu: AllowCpu = False,
    json: output.Json = False,
) -> None:
    """Check every file, generate the same seeds again, and hold the recomputed verdict to the one in the manifest."""
    bundle = source.open_bundle(what)
    print(f"{len(bundle.manifest.files)} files are the ones that were exported")
    if files_only:
        output.result("verify", {"bundle": what, "files": len(bundle.manifest.files)})
        return
    from ..export.packages import absent
    from .options import cores

    if why := absent("torch", "train"):
        raise RuntimeMissing("E-BACKEND", f"recomputing needs the feature network: {why}", hint="or add --files-only")
    from .executor import insist
    from .prove import prove
    from .table import show

    names = [n.strip() for n in runtime.split(",")] if runtime else list(bundle.manifest.runtimes)
    if runtime:  # of all that a bundle is for, those that do not run here are said to be executed by the stand-in
        insist(names, allow_cpu)
    budget, most, changes = _recorded(bundle)
    proof = prove(bundle, names, budget, most, threads or cores(), weights, trust_engines)
    show(proof)
    drift = {j.name: j.comparison.verdict.change.value - changes[j.name] for j in proof.judged}
    for name, value in drift.items():
        print(f"{name}: the change differs by {value:+.3%} from the manifest's")
    output.result("verify", {"bundle": what, "files": len(bundle.manifest.files), "drift": drift, **proof.to_json()})
    if not proof.passed:
        verdicts = "; ".join(f"{j.name} {j.comparison.verdict}" for j in proof.judged if not j.passed)
        raise GateFailed("E-GATE", f"the evidence does not hold on this machine: {verdicts}", path=what)


def _recorded(bundle: Bundle) -> tuple[float, int, dict[str, float]]:
    """Budget, pairs at most, and change by runtime, as the manifest's evidence says."""
    try:
        found = bundle.manifest.evidence["runtimes"]
        changes = {name: float(found[name]["change"]["value"]) for name in bundle.manifest.runtimes}
        return max(float(r["budget"]) for r in found.values()), max(int(r["images"]) for r in found.values()), changes
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError("E-MANIFEST", "the manifest holds no complete evidence to verify", path=bundle.root) from error
