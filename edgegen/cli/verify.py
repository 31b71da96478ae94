"""edgegen verify: is this bundle what was exported, and does its evidence hold on this machine?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import GateFailed, RuntimeMissing, TrustError
from ..workflows import generators
from . import output
from .options import AllowCpu, PublicKey, Threads, TrustEngines, Weights

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..evidence.compare import Terms, Trial


def verify(
    what: Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")],
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check hashes and manifest, recompute nothing.")
    ] = False,
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Check that the same images come out: no torch.")
    ] = False,
    runtime: Annotated[
        str | None, typer.Option(help="Comma-separated; without it, every runtime of the bundle.")
    ] = None,
    threads: Threads = 0,
    weights: Weights = None,
    public_key: PublicKey = None,
    trust_engines: TrustEngines = False,
    allow_cpu: AllowCpu = False,
    json: output.Json = False,
) -> None:
    """Check every file, generate the same seeds again, and hold the recomputed verdict to the one
    in the manifest.
    """
    bundle = generators.open_bundle(what, public_key)
    print(f"{len(bundle.manifest.files)} files are the ones that were exported")
    if bundle.signed_by:
        print(f"signed by key {bundle.signed_by[:16]}...")
    elif bundle.is_signed:
        print("signed, and held to no key: give one with --public-key")
    about = {"bundle": what, "files": len(bundle.manifest.files), "signed_by": bundle.signed_by}
    if files_only:
        output.result("verify", about)
        return
    from ..export.packages import absent
    from .options import cores

    names = [n.strip() for n in runtime.split(",")] if runtime else list(bundle.manifest.runtimes)
    for name in names:
        bundle.built(name)
    if images_only:
        _images(bundle, about, names, threads or cores(), trust_engines)
        return
    if why := absent("torch", "train"):
        raise RuntimeMissing(
            "E-BACKEND",
            f"recomputing needs the feature network: {why}",
            hint="or add --images-only",
        )
    from ..workflows.context import Context
    from ..workflows.executor import insist
    from ..workflows.export.prove import prove
    from .proof_table import show

    # of all that a bundle is for, those that do not run here are said to be executed by the
    # stand-in
    if runtime:
        insist(names, allow_cpu, output.terminal)
    terms, trials, changes = _recorded(bundle)
    context = Context.of(threads, weights, output.terminal)
    proof = prove(bundle, {n: trials[n] for n in names}, terms, context, trust_engines)
    show(proof)
    drift = {j.name: j.comparison.verdict.change.value - changes[j.name] for j in proof.judged}
    for name, value in drift.items():
        print(f"{name}: the change differs by {value:+.3%} from the manifest's")
    output.result("verify", {**about, "drift": drift, **proof.to_json()})
    if not proof.passed:
        verdicts = "; ".join(str(j) for j in proof.judged if not j.passed)
        raise GateFailed(
            "E-GATE", f"the evidence does not hold on this machine: {verdicts}", path=what
        )


def _images(
    bundle: Bundle, about: dict[str, Any], names: list[str], threads: int, trust_engines: bool
) -> None:
    from ..workflows.golden_check import check, images_of, repeated, show

    there = images_of(bundle)
    found, skipped = repeated(bundle, there, names, threads, trust_engines)
    show(found, skipped, there.seeds)
    output.result(
        "verify", {**about, "skipped": skipped, "images": {a.name: a.to_json() for a in found}}
    )
    check(found, bundle)


def _recorded(bundle: Bundle) -> tuple[Terms, dict[str, Trial], dict[str, float]]:
    """What was asked of all runtimes; the seeds and level of each, and its change, as the
    manifest's evidence says.
    """
    from ..evidence.compare import Terms, Trial

    try:
        found = {
            name: bundle.manifest.evidence["runtimes"][name] for name in bundle.manifest.runtimes
        }
        changes = {name: float(r["change"]["value"]) for name, r in found.items()}
        trials = {name: Trial(int(r["first_seed"]), float(r["level"])) for name, r in found.items()}
        terms = Terms(
            max(float(r["budget"]) for r in found.values()),
            max(int(r["images"]) for r in found.values()),
            min(float(r.get("min_psnr_db", 0)) for r in found.values()),
        )
        return terms, trials, changes
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-MANIFEST", "the manifest holds no complete evidence to verify", path=bundle.root
        ) from error
