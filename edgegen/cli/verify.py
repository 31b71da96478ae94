"""edgegen verify: is this bundle what was exported, and does its evidence hold on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateFailed, RuntimeMissing, TrustError, UsageError
from . import output, source
from .options import AllowCpu, Threads, TrustEngines, Weights

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..evidence.compare import Terms, Trial


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
    terms, trials, changes = _recorded(bundle)
    if unknown := [n for n in names if n not in trials]:
        what_for = f"the bundle has no INT8 files for {', '.join(unknown)}; it has {', '.join(trials)}"
        raise UsageError("E-BUNDLE-RUNTIME", what_for, path=what)
    if runtime:  # of all that a bundle is for, those that do not run here are said to be executed by the stand-in
        insist(names, allow_cpu)
    proof = prove(bundle, {n: trials[n] for n in names}, terms, threads or cores(), weights, trust_engines)
    show(proof)
    drift = {j.name: j.comparison.verdict.change.value - changes[j.name] for j in proof.judged}
    for name, value in drift.items():
        print(f"{name}: the change differs by {value:+.3%} from the manifest's")
    output.result("verify", {"bundle": what, "files": len(bundle.manifest.files), "drift": drift, **proof.to_json()})
    if not proof.passed:
        verdicts = "; ".join(str(j) for j in proof.judged if not j.passed)
        raise GateFailed("E-GATE", f"the evidence does not hold on this machine: {verdicts}", path=what)


def _recorded(bundle: Bundle) -> tuple[Terms, dict[str, Trial], dict[str, float]]:
    """What was asked of all runtimes; the seeds and level of each, and its change, as the manifest's evidence says."""
    from ..evidence.compare import Terms, Trial

    try:
        found = {name: bundle.manifest.evidence["runtimes"][name] for name in bundle.manifest.runtimes}
        changes = {name: float(r["change"]["value"]) for name, r in found.items()}
        trials = {name: Trial(int(r["first_seed"]), float(r["level"])) for name, r in found.items()}
        terms = Terms(max(float(r["budget"]) for r in found.values()), max(int(r["images"]) for r in found.values()),
                      min(float(r.get("min_psnr_db", 0)) for r in found.values()))
        return terms, trials, changes
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError("E-MANIFEST", "the manifest holds no complete evidence to verify", path=bundle.root) from error
